"""Labelled films, as all of few-shot evaluation sees them. Films are named by their number, 0 to F - 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarce_cli.errors import UsageError
from scarce_cli.presets import nearest

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_LISTED = 20  # findings in a message; PadChest has more than a hundred

REST = "the rest"
"""What a finding is held against where no finding is named: all other films."""


@dataclass(frozen=True)
class Films:
    """Labelled films: every tuple has one entry for each of F films."""

    names: tuple[str, ...]  # relative path in the data set
    patients: tuple[str, ...]  # as in the table; never written anywhere
    findings: tuple[frozenset[str], ...]
    pixels: tuple[str, ...]  # hash of the decoded pixels of the source film; "" where unknown
    views: tuple[str, ...]  # projection as written; "" where unknown
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # further columns of the table
    stated: tuple[bool, ...] = ()  # the table says what the film shows, if only nothing; (): where it names a finding

    def __len__(self) -> int:
        return len(self.names)

    def patient_numbers(self) -> Ints:
        """(F,) number of each film's patient, in the order of the patients' names; read-only."""
        return self._patient_numbers

    @cached_property
    def _patient_numbers(self) -> Ints:
        return _fixed(np.unique(np.array(self.patients), return_inverse=True)[1].astype(np.int64))

    def showing(self, finding: str) -> Bools:
        """(F,) the film is labelled with ``finding``."""
        return np.array([finding in names for names in self.findings], dtype=bool)

    def known(self) -> Bools:
        """(F,) the table says what the film shows. A film that it names no finding for may show any, unless it says
        that it shows none: a column of 0 and 1 for each finding does, an empty cell does not."""
        return self._known

    @cached_property
    def _known(self) -> Bools:
        said = self.stated or (False,) * len(self)
        known = [one or bool(names) for one, names in zip(said, self.findings, strict=True)]
        return _fixed(np.array(known, dtype=bool))

    def classes(self, finding: str, against: str | None) -> tuple[Bools, Bools]:
        """(F,) films with the finding, and films to hold against them: no film is both.

        Args:
            against: a finding; films that show both are neither. None or `REST`: all that are known not to show it.
        """
        has = self.showing(finding)
        if against is None or against == REST:
            return has, self.known() & ~has
        other = self.showing(against)
        return has & ~other, other & ~has


def nobody_has(films: Films, name: str) -> UsageError:
    """What to raise when no film has the finding ``name``: the nearest one there is, and the most frequent ones."""
    counts = Counter(finding for names in films.findings for finding in names)
    listed = ", ".join(f"{finding} ({count:,})" for finding, count in counts.most_common(_LISTED))
    more = f", and {len(counts) - _LISTED} more" if len(counts) > _LISTED else ""
    return UsageError(f"no film is labelled '{name}'{nearest(name, counts)}", f"findings: {listed or 'none'}{more}")


def _fixed(values: NDArray[Any]) -> NDArray[Any]:
    """Read-only: it is handed out again and again."""
    values.flags.writeable = False
    return values
