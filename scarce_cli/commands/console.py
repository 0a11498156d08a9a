"""The terminal: where results and messages go, and how progress looks."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@cache
def stdout() -> Console:
    """Results. Plain text when piped."""
    from rich.console import Console

    return Console()


@cache
def stderr() -> Console:
    """Progress, warnings and errors, so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True)


def say(text: str) -> None:
    """Print a result on stdout as it is: no markup, no colours, no line breaks of our own."""
    stdout().print(harmless(text), markup=False, highlight=False, soft_wrap=True)


def harmless(text: str) -> str:
    """``text`` without what a terminal would obey: control characters and bytes that are not UTF-8 as ``\\x1b``."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def warn(message: str) -> None:
    """One line on stderr that something is not as it should be, while work goes on."""
    from rich.markup import escape

    stderr().print(f"[yellow]warning:[/yellow] {escape(harmless(message))}", soft_wrap=True, highlight=False)


def progress_bar(unit: str) -> Progress:
    """A bar with count, rate and time left on stderr; silent when stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
