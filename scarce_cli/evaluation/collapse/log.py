"""What a run's log, metrics.jsonl, says of its encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scarce_cli.evaluation.collapse.measures import CollapseMetrics
from scarce_cli.evaluation.collapse.reading import Reading
from scarce_cli.vitals import NOT_AS_WRITTEN

READING, RANDOM = "collapse", "random"  # kinds of lines
_SIGNALS, _PLACES = "signals", ("step", "progress")


def reading_line(reading: Reading) -> dict[str, Any]:
    """A reading as one line: its place, its measures each under its own name, and the signals together."""
    plain = reading.as_plain()
    return {name: plain[name] for name in _PLACES} | (plain["features"] or {}) | {_SIGNALS: plain[_SIGNALS]}


def random_line(random: CollapseMetrics) -> dict[str, Any]:
    """The measures of the random start as one line."""
    return {"step": 0, **random.as_plain()}


def readings_of(lines: Iterable[Mapping[str, Any]]) -> tuple[CollapseMetrics | None, list[Reading]]:
    """The measures of the random start, and the readings in their order. Lines that are odd are left out."""
    random, readings = None, []
    for line in lines:
        try:
            if line.get("kind") == RANDOM:
                random = CollapseMetrics.from_plain(line)
            elif line.get("kind") == READING:
                readings.append(_reading(line))
        except NOT_AS_WRITTEN:
            continue
    return random, readings


def _reading(line: Mapping[str, Any]) -> Reading:
    measured = {"features": line if "relative_std" in line else None}
    return Reading.from_plain({name: line[name] for name in (*_PLACES, _SIGNALS)} | measured)
