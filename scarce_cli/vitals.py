"""What the signs of a run mean: plain data that a method gives and a verdict reads.

A method names its scalars; here stands what a scalar reads when nothing is told apart. So a verdict can speak of any
method, and knows none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

#: what reading plain values raises that are not what was written
NOT_AS_WRITTEN = (TypeError, ValueError, KeyError, AttributeError, OverflowError)


class Failure(StrEnum):
    """How a run can fail."""

    COMPLETE = "complete collapse"  # constant features
    DIMENSIONAL = "dimensional collapse"  # few directions
    FADING = "fading features"  # films grow alike from reading to reading
    SHRINKING = "shrinking features"  # their spread falls, whatever their directions
    UNIFORM_TEACHER = "uniform teacher"  # the same for every film: all outputs alike
    ONE_HOT_TEACHER = "one-hot teacher"  # the same for every film: one output
    LEAKAGE = "leakage through batch statistics"  # the task is solved without looking at the film
    DIVERGED = "diverged"
    NOT_LEARNING = "not yet learning"


@dataclass(frozen=True)
class Expectations:
    """What the scalars of a method read when nothing is told apart, and what its loss asks of the features.

    ``blind``: scalar -> its value for a network to which all films are alike; "loss" may be among them. Natural
    logarithms. A rule that needs a scalar which a method does not give says nothing about that method.
    """

    blind: Mapping[str, float] = field(default_factory=dict)
    spreads: bool = True  # the loss pushes the features of different films apart: a mean cosine near 1 is a failure
    rises: frozenset[str] = frozenset()  # of ``blind``: scalars that grow with what is learned; below is no better

    def as_plain(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"blind": dict(self.blind), "spreads": self.spreads, "rises": sorted(self.rises)}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Expectations:
        """What `as_plain` gave. Raises TypeError, ValueError, AttributeError or KeyError for anything else."""
        blind = {str(name): float(value) for name, value in values["blind"].items()}
        return cls(blind, bool(values["spreads"]), frozenset(map(str, values.get("rises", ()))))


@dataclass(frozen=True)
class Cure:
    """A setting to change: ``section.key``, the value to give it, and why it helps."""

    key: str
    to: Any
    why: str


@dataclass(frozen=True)
class Change:
    """A cure beside the value that the run has."""

    cure: Cure
    now: Any  # None where the settings do not say

    def __str__(self) -> str:
        """``section.key: old -> new (why)``."""
        was = f"{_written(self.now)} -> " if self.now is not None else ""
        return f"{self.cure.key}: {was}{_written(self.cure.to)} ({self.cure.why})"

    @property
    def option(self) -> str:
        """``--set section.key=value``."""
        return f"--set {self.cure.key}={_written(self.cure.to)}"


def changes(cures: Iterable[Cure], settings: Mapping[str, Any]) -> list[Change]:
    """The cures that a run of these settings (as plain values, by section) has not got yet."""
    found = []
    for cure in cures:
        section, _, key = cure.key.partition(".")
        part = settings.get(section)
        now = part.get(key) if isinstance(part, Mapping) else None
        if now != cure.to:
            found.append(Change(cure, now))
    return found


def _written(value: Any) -> str:
    """As in a recipe, on one line and without spaces, which a shell would split at."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, float):
        mantissa, e, exponent = repr(value).partition("e")  # a number needs its point there: 1e-3 is text
        return mantissa + ("" if "." in mantissa else ".0") + e + exponent
    return value if isinstance(value, str) else json.dumps(value)
