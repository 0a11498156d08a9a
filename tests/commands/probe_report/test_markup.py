"""HTML that cannot be broken out of."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from scarce_cli.commands.probe_report.markup import Html, element, facts, join, table
from tests.evaluation.fewshot.examples import HOSTILE


class Seen(HTMLParser):
    """Tags with the names of their attributes, and all text, as a browser would read them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.values += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(text: str) -> None:
    seen = Seen(element("p", text, join([text, element("b", text)]), title=text, class_="x"))
    assert seen.tags == [("p", ("title", "class")), ("b", ())]
    shown = "".join(seen.text)
    assert shown == 3 * seen.values[0]
    assert not any(not c.isprintable() for c in shown.replace("\n", ""))
    parts = re.findall(r"[ -~]+", text)  # whatever else it becomes, plain letters and signs stay as they are
    assert all(part in shown for part in parts)


def test_what_was_made_here_is_not_escaped_twice() -> None:
    inner = element("b", "a & b")
    assert element("p", inner, " < ") == "<p><b>a &amp; b</b> &lt; </p>"
    assert isinstance(join([inner]), Html)
    assert element("img", alt='"') == '<img alt="&quot;">'
    assert element("meta", http_equiv="x") == '<meta http-equiv="x">'


def test_tables_and_lists_hold_their_cells_in_order() -> None:
    seen = Seen(table("title", ["a", "b"], [["1", "2"], ["3", "<4>"]]))
    assert [t for t in seen.text if t.strip()] == ["title", "a", "b", "1", "2", "3", "<4>"]
    assert [tag for tag, _ in seen.tags].count("td") == 2
    assert [tag for tag, _ in seen.tags].count("th") == 4
    assert Seen(facts([("name", "value")])).text == ["name", "value"]
