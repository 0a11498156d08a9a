"""Registers the commands; turns whatever ends a command into one message and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from scarce_cli import __version__
from scarce_cli.commands import TABLE
from scarce_cli.engine.signals import ignore_signals, unwind_on_signals
from scarce_cli.errors import ScarceError, Terminated


class _Group(TyperGroup):
    """The command group with one place where errors become messages."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; ScarceError, signals and bugs end with their message and exit code."""
        try:
            return super().invoke(ctx)
        except ScarceError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            _fail(error.message, error.remedy, error.exit_code)
        except KeyboardInterrupt as interrupt:
            name, code = ("SIGTERM", 143) if isinstance(interrupt, Terminated) else ("Ctrl-C", 130)
            _fail(
                f"stopped by {name}",
                "nothing was left half-written: run the same command again (a training that had begun: with --resume)",
                code,
            )
        except (typer.Exit, typer.Abort, SystemExit):
            raise
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except Exception as error:
            if ctx.params.get("debug") or type(error).__module__.startswith("typer."):
                raise
            _fail(
                f"unexpected {type(error).__name__}: {error}",
                "this is a fault in scarce: please report it with the output of --debug before the command",
                1,
            )


app = typer.Typer(
    name="scarce",
    cls=_Group,
    help="From unlabelled chest X-rays and one GPU to a pretrained backbone, and to evidence of its worth.\n\n"
    "In order: preprocess, cache, pretrain, monitor-collapse, probe, visualize. "
    "[bold]scarce demo[/bold] does all six on films that it draws itself.\n\n"
    "For research; not for diagnosis.",
    epilog="Example: scarce preprocess --src nih/ --size 256",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scarce {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    del version, debug  # read by the callback and by _Group.invoke


for _name, _function, _example in TABLE:
    app.command(_name, epilog=f"Example: {_example}", no_args_is_help=_name in {"visualize", "probe"})(_function)


def _fail(message: str, remedy: str, code: int) -> NoReturn:
    """One message on stderr, in colour where there is a terminal, and the exit code."""
    from rich.markup import escape

    from scarce_cli.commands.console import harmless, stderr

    console = stderr()
    console.print(f"[bold red]scarce:[/bold red] {escape(harmless(message))}", soft_wrap=True, highlight=False)
    if remedy:
        console.print(f"[bold]What to do:[/bold] {escape(harmless(remedy))}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


def main() -> NoReturn:
    """The program. SIGTERM unwinds like Ctrl-C, so that every command cleans up after both."""
    unwind_on_signals()
    try:
        app(prog_name="scarce")
    except KeyboardInterrupt as interrupt:  # before the command has begun, or after its end
        raise SystemExit(143 if isinstance(interrupt, Terminated) else 130) from None
    finally:
        ignore_signals()  # while Python closes: all is written
    raise SystemExit(0)
