"""What a rule of the verdict may look at, and what it may find."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from scarce_cli.evaluation.collapse.measures import CollapseMetrics
from scarce_cli.evaluation.collapse.reading import Reading
from scarce_cli.vitals import Expectations, Failure

State = Literal["healthy", "suspicious", "collapsed"]


@dataclass(frozen=True)
class Finding:
    """What one rule found: a failure, how sure it is, and a plain sentence with the numbers."""

    failure: Failure
    state: State  # suspicious or collapsed
    evidence: str


@dataclass(frozen=True)
class Course:
    """A run so far. Values that are not finite are as good as missing, except where a rule asks for them."""

    readings: tuple[Reading, ...]  # after the first step, oldest first; at least one
    random: CollapseMetrics | None  # of the random start
    expected: Expectations

    @property
    def now(self) -> Reading:
        """The reading to be judged."""
        return self.readings[-1]

    @property
    def features(self) -> CollapseMetrics | None:
        """Of the reading to be judged."""
        return self.now.features

    @property
    def last_measured(self) -> CollapseMetrics | None:
        """The newest features: between two looks at them, the method may say what is new."""
        return self.measured[-1] if self.measured else None

    @cached_property
    def measured(self) -> tuple[CollapseMetrics, ...]:
        """The features of all readings that have any, oldest first."""
        return tuple(reading.features for reading in self.readings if reading.features is not None)

    def signal(self, name: str, back: int = 0) -> float | None:
        """A scalar in the reading to be judged, or so many readings before; None where there is none."""
        if back >= len(self.readings):
            return None
        return finite(self.readings[-1 - back].signals.get(name))

    @property
    def steps_apart(self) -> int:
        """Steps between two readings, over which signals are means."""
        steps = [0, *(reading.step for reading in self.readings)]
        return max(1, min(later - earlier for earlier, later in itertools.pairwise(steps)))

    def history(self, name: str, since: int = 0) -> list[float]:
        """A scalar in all readings from step ``since`` on that have it, oldest first."""
        values = (finite(reading.signals.get(name)) for reading in self.readings if reading.step >= since)
        return [value for value in values if value is not None]

    def blind(self, name: str) -> float | None:
        """What a scalar reads when all films are alike, where the method says so."""
        return finite(self.expected.blind.get(name))


def finite(value: float | None) -> float | None:
    """None for what is missing or not finite."""
    return value if value is not None and math.isfinite(value) else None
