"""``report.html``: a probe for a reader, in one file that needs no network and no script."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from scarce_cli.commands.probe_report import page_tables as tables
from scarce_cli.commands.probe_report import words
from scarce_cli.commands.probe_report.markup import Html, element, facts, join, scrolling, table
from scarce_cli.commands.probe_report.page_style import STYLE

if TYPE_CHECKING:
    from scarce_cli.evaluation.fewshot.result import Result

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_FINER = 1.3  # pixels of a figure for one of the screen
_MODES = {
    "linear": "logistic regression on frozen features",
    "finetune": "fine-tuning of the encoder",
    "knn": "nearest neighbours of frozen features",
    "prototype": "nearest class mean of frozen features",
    "cases": "logistic regression on frozen features, every case learned from and tested on in turn",
}
_CURVES = "AUC against the number of labelled films, one panel for each finding, with 95 % intervals"
_CALIBRATION = "Share of films with the finding against the predicted probability, one panel for each finding"
_CASES = "AUC against the number of cases that are learned from, with the projection"

_READ = (
    (
        "AUC",
        "Of one patient with the finding and one without, the share of such pairs in which the one with it gets the "
        "higher score. 0.5 is chance, 1.0 is perfect; it does not depend on how common the finding is.",
    ),
    (
        "95 % interval",
        "With other test patients and other labelled films the value would have come out differently; the interval "
        "shows by how much. Two initialisations are compared by the interval of their difference, not by looking "
        "whether their own intervals overlap.",
    ),
    (
        "p",
        "How often a difference this large, in either direction, would come about if both were equally good. It is "
        "found by exchanging the two at random in whole patients, for the labelled films that were drawn; the interval "
        "is of other labelled films too. Where the two disagree, believe the interval.",
    ),
    (
        "Holm",
        "Whoever tests many findings finds some small p by luck. Holm's correction raises each p so that the chance of "
        "even one false alarm among all findings stays at 5 %.",
    ),
    (
        "Sensitivity and PPV",
        "Sensitivity is the share of films with the finding that are called at a threshold at which 90 or 95 % of the "
        "films without it are not. PPV, where a prevalence was given, is the share of called films that have the "
        "finding.",
    ),
    (
        "Brier score and reliability",
        "The Brier score is the mean squared error of the probability: lower is better, and above the naive one, which "
        "always says the prevalence, the probabilities are worth nothing. On a reliability curve below the diagonal "
        "the finding is rarer than its probability says. With a handful of labelled films neither can be relied on.",
    ),
    (
        "C",
        "How much the labelled films weigh against keeping the model simple. It is chosen for each set of labelled "
        "films on these films alone; the table counts how often each value was.",
    ),
)
_READ_CASES = (
    (
        "p against chance",
        "How often the whole procedure does as well when the labels are shuffled among patients. Shuffled labels give "
        "an AUC near 0.5, in small data often below.",
    ),
    (
        "Projection",
        "The learning curve is continued as it began to guess how many more cases would lift the interval above the "
        "target. It is rough: plan with its interval, not with its number.",
    ),
)


def as_html(result: Result, figures: Mapping[str, bytes]) -> str:
    """The report as one file, well-formed whatever the names in the data are.

    Args:
        figures: PNG files by name; those that are not there are left out.
    """
    parts = [part for part in _parts(result, figures) if part[1]]
    links = element("nav", *(element("a", title, href=f"#part{n}") for n, (title, _) in enumerate(parts)))
    sections = [
        element("section", element("h2", title, id=f"part{n}"), *content) for n, (title, content) in enumerate(parts)
    ]
    research = element("p", words.RESEARCH, class_="research")
    title = element("h1", "Few-shot evidence")
    body = element("main", title, research, _answer(result), links, *sections, research)
    return f"<!DOCTYPE html>\n{element('html', _head(), element('body', body), lang='en')}\n"


def _head() -> Html:
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", "Few-shot evidence"),
        element("style", Html(STYLE)),
    )


def _answer(result: Result) -> Html:
    return element("div", *(element("p", line) for line in words.answer(result)), class_="answer")


def _parts(result: Result, figures: Mapping[str, bytes]) -> Iterable[tuple[str, list[str]]]:
    """Headings with what stands below them, in their order; those with nothing below are left out."""
    findings = [tables.finding(result, task) for task in words.tasks(result)]
    cases = [tables.cases(result, task) for task in dict.fromkeys((c.finding, c.against) for c in result.cases)]
    yield "What was run", [_run(result), tables.initialisations(result), _settings(result.settings)]
    yield "Data", [_data(result), *([tables.tested(result)] if result.tested else [])]
    yield "Episodes", _episodes(result) if result.episodes else []
    yield "Results", [tables.means(result), *tables.overview(result), *findings] if findings else []
    yield "Curves", _figure(figures, "probe.png", _CURVES)
    yield "Calibration", _figure(figures, "calibration.png", _CALIBRATION)
    yield "All cases", [*cases, *_figure(figures, "cases.png", _CASES)]
    yield "Left out", _skipped(result)
    yield "Caveats", [element("ul", *(element("li", words.one_line(c)) for c in result.caveats))] * bool(result.caveats)
    yield "How to read it", [facts((*_READ[:4], *(_READ[4:] if findings else ()), *(_READ_CASES if cases else ())))]


def _run(result: Result) -> Html:
    return facts(
        [
            ("Mode", f"{result.mode}: {_MODES.get(result.mode, '')}"),
            ("Version of scarce", words.one_line(result.version)),
        ]
    )


def _settings(settings: Mapping[str, Any]) -> Html:
    """All that was chosen, in one paragraph; what was not is left out."""
    chosen = [(key, value) for key, value in settings.items() if value is not None and value not in ((), [], "")]
    lines = (element("code", f"{words.one_line(str(key))} = {_value(value)}") for key, value in chosen)
    return element("p", "Settings: ", join(lines, "; "), class_="settings")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else words.one_line(str(value))


def _data(result: Result) -> Html:
    known = {"folder": "Folder", "digest": "Digest of the data set", "films": "Films", "labelled": "Labelled films"}
    rows: list[tuple[str, str]] = [
        (title, element("code", _value(result.data[key]))) for key, title in known.items() if key in result.data
    ]
    rows += [
        ("Labels", element("code", words.one_line(result.labels))),
        ("SHA-256 of the labels", element("code", result.labels_sha256, class_="hash")),
        ("Split", "by patient, as the table names them: nobody is both learned from and tested on"),
    ]
    return facts(rows)


def _episodes(result: Result) -> list[str]:
    name = words.one_line(result.episodes)
    said = "Which films were learned from and tested on is in this file, the same for all initialisations. "
    said += "Who gives it back tests another encoder on the same films:"
    command = element("code", f"scarce probe CHECKPOINT --labels LABELS --episodes {name}")
    rows = [("File", element("code", name)), ("SHA-256", element("code", result.episodes_sha256, class_="hash"))]
    return [facts(rows), element("p", said, " ", command)]


def _figure(figures: Mapping[str, bytes], name: str, meaning: str) -> list[str]:
    if name not in figures:
        return []
    source = f"data:image/png;base64,{base64.b64encode(figures[name]).decode()}"
    width, height = _size(figures[name])
    image = element("img", src=source, alt=meaning, width=str(width), height=str(height))
    return [element("figure", scrolling(image), element("figcaption", f"{meaning} ({name})."))]


def _size(png: bytes) -> tuple[int, int]:
    """Of a figure on the screen, so that its letters are as large as those beside it: in pixels of 1/96 inch."""
    width, height = struct.unpack(">II", png[16:24])
    return round(width / _FINER), round(height / _FINER)


def _skipped(result: Result) -> list[str]:
    if not result.skipped:
        return []
    rows = [
        [
            words.one_line(s.finding),
            words.one_line(s.against),
            "all" if s.shots is None else str(s.shots),
            words.one_line(s.reason),
        ]
        for s in result.skipped
    ]
    return [table("What could not be tested, and why", ["finding", "against", "shots", "reason"], rows)]
