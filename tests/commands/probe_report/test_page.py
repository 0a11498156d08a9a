"""report.html: complete, the same whatever the names are, and shown by a browser without network or script."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scarce_cli.commands.probe_report.page import as_html
from scarce_cli.commands.probe_report.words import digits, interval
from scarce_cli.evaluation.fewshot.result import Result
from tests.commands.probe_report.test_markup import Seen
from tests.evaluation.fewshot import examples
from tests.evaluation.fewshot.examples import HOSTILE

COLOURS = {"probe.png": (10, 200, 30), "calibration.png": (200, 20, 220), "cases.png": (250, 120, 0)}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def figures() -> dict[str, bytes]:
    """Figures of one colour each."""
    made = {}
    for name, colour in COLOURS.items():
        buffer = io.BytesIO()
        Image.new("RGB", (650, 130), colour).save(buffer, "PNG")
        made[name] = buffer.getvalue()
    return made


def page(result: Result, drawn: Mapping[str, bytes] | None = None) -> str:
    return as_html(result, figures() if drawn is None else drawn)


def headings(html: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", html)


def test_the_order_of_the_parts() -> None:
    html = page(examples.everything())
    wanted = ["What was run", "Data", "Episodes", "Results", "Curves", "Calibration", "All cases", "Left out"]
    assert headings(html) == [*wanted, "Caveats", "How to read it"]
    text = "".join(Seen(html).text)
    first = text.index("For research; not for diagnosis.")
    assert first < text.index("With 50 labelled films") < text.index("What was run")
    assert text.rstrip().endswith("For research; not for diagnosis.")


def test_all_that_was_found_and_run_is_in_it() -> None:
    result = examples.everything()
    text = "".join(Seen(page(result)).text)
    for score in result.scores:
        shown = [digits(score.auc.mean), interval(score.auc)]
        shown += [digits(score.calibration.brier), interval(score.sensitivity_95)] if score.shots == 50 else []
        shown += [interval(d.auc, sign=True) for d in score.differences]
        assert all(value in text for value in shown)
    for wanted in (
        *(i.sha256 for i in result.initialisations), "runs/dino-l4/last.pt", result.labels_sha256, "6,102",
        result.episodes_sha256, "--episodes episodes.json", result.version, "shots = 1, 5, 10, 20, 50",
        *(s.reason for s in result.skipped), *result.caveats, *result.tested[0].shortcuts,
        "Only 4 test patients have it: not in the mean", "About 31 more cases", "PPV", "Holm",
    ):  # fmt: skip
        assert wanted in text


def test_figures_are_embedded_as_they_are() -> None:
    drawn = figures()
    seen = Seen(page(examples.everything(), drawn))
    sources = [value for value in seen.values if value.startswith("data:")]
    assert [base64.b64decode(source.partition(",")[2]) for source in sources] == list(drawn.values())
    assert {"500", "100"} <= set(seen.values)  # the size on the screen
    assert ("img", ("src", "alt", "width", "height")) in seen.tags


def test_what_is_not_there_has_no_heading() -> None:
    html = page(replace(examples.cases(), caveats=()), {})
    assert headings(html) == ["What was run", "Data", "All cases", "How to read it"]
    text = "".join(Seen(html).text)
    assert "Projection" in text
    assert "Brier" not in text
    links = [value for value in Seen(html).values if value.startswith("#")]
    assert links == [f"#{i}" for i in re.findall(r'<h2 id="(.*?)"', html)]


def test_no_tag_or_attribute_comes_from_data(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = page(examples.hostile())
    monkeypatch.setattr(examples, "HOSTILE", tuple(f"name {n}" for n in range(len(HOSTILE))))
    harmless = page(examples.hostile())
    seen, wanted = Seen(hostile), Seen(harmless)
    assert seen.tags == wanted.tags
    assert not {"script", "iframe", "object", "link", "form", "svg"} & {tag for tag, _ in seen.tags}
    names = {name for _, attributes in seen.tags for name in attributes}
    assert not {name for name in names if name.startswith("on")} | (names & {"style", "srcset", "action"})
    known = re.compile(r"#part\d+|data:image/png;base64,[A-Za-z0-9+/=]+")
    given = [v for v in re.findall(r'(?:href|src)="(.*?)"', hostile) if "&" not in v]
    assert given
    assert all(known.fullmatch(value) for value in given)
    text = "".join(seen.text)
    assert HOSTILE[0] in text
    assert "\\u202elatot \\x1b[31m\\x07\\x00 line break" in text
    assert all(c.isprintable() or c == "\n" for c in text)
    hostile.encode("utf-8")


def test_the_policy_forbids_everything_but_what_is_in_the_file() -> None:
    html = page(examples.linear())
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', html)
    assert policy == ["default-src &#x27;none&#x27;; img-src data:; style-src &#x27;unsafe-inline&#x27;"]
    assert html.index("Content-Security-Policy") < html.index("<style>")
    assert "url(" not in html
    assert "@import" not in html


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.slow
def test_chromium_shows_it_without_network_or_errors(tmp_path: Path) -> None:
    """Hostile names ask for files of another host: the log of the network shows that nobody listens."""
    result = examples.hostile()
    few = tuple(s for s in result.scores if s.finding in HOSTILE[:2])
    html = page(replace(result, scores=few, tested=result.tested[:2]))
    (tmp_path / "report.html").write_text(html, "utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={tmp_path / 'net.json'}",
            f"--screenshot={tmp_path / 'screen.png'}", "--window-size=1200,6500", "--dump-dom",
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr  # nothing was refused, since nothing was asked for
    assert "evil.invalid" not in (tmp_path / "net.json").read_text(errors="replace")
    dom = Seen(done.stdout)
    assert Counter(tag for tag, _ in dom.tags) == Counter(tag for tag, _ in Seen(html).tags)
    assert [t for t in dom.text if t.strip()] == [t for t in Seen(html).text if t.strip()]
    with Image.open(tmp_path / "screen.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    for colour in COLOURS.values():  # the figures are seen, at the size that they should have
        rows, columns = np.nonzero((pixels == colour).all(axis=2))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (100, 500)
