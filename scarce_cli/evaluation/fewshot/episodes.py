"""Episodes: which films a finding is learned from and tested on, the same for every initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scarce_cli.evaluation.fewshot.films import Bools, Ints


@dataclass(frozen=True)
class EpisodeSettings:
    """How episodes are drawn."""

    shots: tuple[int, ...] = (1, 5, 10, 20, 50)  # films with the finding in a support set, and as many without
    draws: int = 10  # support sets for each number of shots
    test_fraction: float = 0.2  # of patients
    seed: int = 0


@dataclass(frozen=True)
class Support:
    """The labelled films of one draw: first those with the finding, then as many without."""

    films: Ints  # (2 * shots,) numbers of films
    labels: Bools  # (2 * shots,)


@dataclass(frozen=True)
class Task:
    """One finding against the rest or against a named finding."""

    finding: str
    against: str  # a finding's name, or `REST`
    test: Ints  # (N,) numbers of the test films, ascending
    labels: Bools  # (N,) the test film has the finding
    supports: Mapping[int, tuple[Support, ...]]  # number of shots -> its draws


@dataclass(frozen=True)
class Skipped:
    """A finding, or one number of its shots, that cannot be tested, and why."""

    finding: str
    against: str
    shots: int | None  # None: the finding as a whole
    reason: str


@dataclass(frozen=True)
class Episodes:
    """All tasks, with what could not be drawn."""

    settings: EpisodeSettings
    tasks: tuple[Task, ...]
    skipped: tuple[Skipped, ...]

    def films(self) -> Ints:
        """Numbers of all films that are learned from or tested on, ascending, distinct."""
        parts = [task.test for task in self.tasks]
        parts += [s.films for task in self.tasks for draws in task.supports.values() for s in draws]
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
