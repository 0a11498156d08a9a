"""HTML that cannot be broken out of: every text and attribute is escaped unless it was made here.

`element` builds a piece of HTML; what it is given as plain text stays text, whatever is in it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from scarce_cli.commands.console import harmless

_EMPTY = ("meta", "img", "br")  # elements without an end


class Html(str):
    """A piece of HTML, made by `element` or `join`. Anything else is text."""

    __slots__ = ()


def element(tag: str, /, *children: str, **attributes: str) -> Html:
    """``<tag attributes>children</tag>``.

    Control characters, such as those that turn the direction of writing, are shown as ``\\u202e``. A trailing
    underscore is left off attributes (``class_``), others become hyphens.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(harmless(value), quote=True)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{tag}{given}>" if tag in _EMPTY else f"<{tag}{given}>{join(children)}</{tag}>")


def join(pieces: Iterable[str], between: str = "") -> Html:
    """Pieces one after the other; those that are no HTML are escaped."""
    return Html(_safe(between).join(map(_safe, pieces)))


def _safe(text: str) -> str:
    return str(text) if isinstance(text, Html) else html.escape(harmless(text), quote=True)


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """A table that scrolls sideways where the screen is narrow; the first cell of each row is its heading."""
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in others))
        for first, *others in rows
    ]
    inner = element("table", element("thead", head), element("tbody", *body), aria_label=caption)
    return join([element("p", caption, class_="caption"), scrolling(inner)])


def scrolling(inner: Html) -> Html:
    """What may be wider than the screen: moved by finger or by key."""
    return element("div", inner, class_="scroll", tabindex="0")


def two_lines(first: str, second: str) -> Html:
    """``second``, smaller, below ``first``."""
    return join([first, element("small", second)])


def facts(rows: Iterable[tuple[str, str]]) -> Html:
    """A list of names and values."""
    return element("dl", *(join([element("dt", name), element("dd", value)]) for name, value in rows))
