"""The log of a run in a bounded space: a million steps are kept as a few hundred stretches of equal length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_MOST = 500  # stretches
_LARGEST = 1e100  # beyond any float32; the axes of a figure would overflow
_PLACES = ("kind", "step", "epoch", "progress")  # where a line belongs; all else is measured


@dataclass
class _Value:
    """One name in a stretch: of its finite values the lowest, the highest, their sum and number."""

    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    count: int = 0
    gaps: int = 0  # how often it was not finite

    def take(self, number: float) -> None:
        if not math.isfinite(number):
            self.gaps += 1
            return
        self.low = min(self.low, number)
        self.high = max(self.high, number)
        self.total += number
        self.count += 1

    def join(self, other: _Value) -> None:
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total, self.count = self.total + other.total, self.count + other.count
        self.gaps += other.gaps


@dataclass
class _Stretch:
    """Some lines in a row."""

    first: float  # epochs
    last: float
    lines: int = 0
    values: dict[str, _Value] = field(default_factory=dict)

    def take(self, place: float, numbers: Mapping[str, float]) -> None:
        self.last = place
        self.lines += 1
        for name, number in numbers.items():
            if name not in self.values:
                self.values[name] = _Value()
            self.values[name].take(number)

    def join(self, later: _Stretch) -> None:
        self.last = later.last
        self.lines += later.lines
        for name, value in later.values.items():
            self.values.setdefault(name, _Value()).join(value)


class _Thinned:
    """At most 500 stretches, all of the same length but the last, which may be shorter."""

    def __init__(self) -> None:
        self.stretches: list[_Stretch] = []
        self._length = 1

    def add(self, place: float, numbers: Mapping[str, float]) -> None:
        if not self.stretches or self.stretches[-1].lines == self._length:
            if len(self.stretches) == _MOST:
                self._halve()
            self.stretches.append(_Stretch(place, place))
        self.stretches[-1].take(place, numbers)

    def _halve(self) -> None:
        for kept, joined in zip(self.stretches[::2], self.stretches[1::2], strict=True):
            kept.join(joined)
        del self.stretches[1::2]
        self._length *= 2

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for stretch in self.stretches for name in stretch.values))

    def envelope(self, name: str) -> tuple[Values, Values]:
        points: list[tuple[float, float]] = []
        for stretch in self.stretches:
            low, high = _range(stretch.values.get(name))
            points += [(stretch.first, low)] if stretch.lines == 1 else [(stretch.first, low), (stretch.last, high)]
        return _columns(points)

    def means(self, name: str) -> tuple[Values, Values]:
        return _columns([((s.first + s.last) / 2, _mean(s.values.get(name))) for s in self.stretches])


class History:
    """What `draw_training` draws: the lines of metrics.jsonl, fed in their order.

    More than 500 lines of a kind are thinned to stretches of 2, 4, 8 ... lines. Of steps, the lowest and the highest
    value of each stretch is kept, so that no spike is lost; of epochs the mean. The same lines give the same history,
    whether they were fed in one go or not.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        """A run that goes on starts from what was logged: ``History(read_metrics(path))``."""
        self._kinds = {"step": _Thinned(), "epoch": _Thinned(), "collapse": _Thinned()}
        for line in lines:
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """One line; left out when it is no step, epoch or collapse, or names no epoch. None is not finite."""
        place, kind = _number(line.get("epoch")), line.get("kind")
        if math.isfinite(place) and kind in self._kinds:
            numbers = {name: _number(v) for name, v in line.items() if name not in _PLACES and _is_value(v)}
            self._kinds[kind].add(place, numbers)

    @property
    def last_epoch(self) -> float:
        """Epochs done, with fraction; 0 before the first line."""
        return max((stretch.last for kind in self._kinds.values() for stretch in kind.stretches[-1:]), default=0.0)

    def step_names(self) -> list[str]:
        """What was logged of steps, in the order of its first appearance."""
        return self._kinds["step"].names()

    def epoch_names(self) -> list[str]:
        """What was logged of epochs."""
        return self._kinds["epoch"].names()

    def steps(self, name: str) -> tuple[Values, Values]:
        """Epochs and values, at most 1,000; NaN where there was none.

        A stretch of one step is one point; a longer one is its lowest value, then its highest, so that a line through
        them fills the band in which the steps lie.
        """
        return self._kinds["step"].envelope(name)

    def epochs(self, name: str) -> tuple[Values, Values]:
        """Epochs and values, at most 500; NaN where there was none."""
        return self._kinds["epoch"].means(name)

    def looks(self, name: str) -> tuple[Values, Values]:
        """Epochs and what was measured of the encoder, at most 500; NaN where it is undefined."""
        return self._kinds["collapse"].means(name)

    def gaps(self, name: str) -> tuple[Values, int]:
        """Epochs at which ``name`` of a step was not finite, once for each stretch; and the number of such steps."""
        found = [(s.last, s.values[name].gaps) for s in self._kinds["step"].stretches if name in s.values]
        return np.array([place for place, gaps in found if gaps], dtype=np.float64), sum(gaps for _, gaps in found)


def _range(value: _Value | None) -> tuple[float, float]:
    return (value.low, value.high) if value is not None and value.count else (math.nan, math.nan)


def _mean(value: _Value | None) -> float:
    return value.total / value.count if value is not None and value.count else math.nan


def _columns(points: list[tuple[float, float]]) -> tuple[Values, Values]:
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _is_value(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(value: Any) -> float:
    """NaN for all that cannot be drawn."""
    return float(value) if isinstance(value, int | float) and abs(value) <= _LARGEST else math.nan
