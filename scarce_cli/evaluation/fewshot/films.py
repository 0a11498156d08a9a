"""Labelled films, as all of few-shot evaluation sees them. Films are named by their number, 0 to F - 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

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
        """(F,) number of each film's patient, in the order of the patients' names."""
        return np.unique(np.array(self.patients), return_inverse=True)[1].astype(np.int64)

    def showing(self, finding: str) -> Bools:
        """(F,) the film is labelled with ``finding``."""
        return np.array([finding in names for names in self.findings], dtype=bool)

    def known(self) -> Bools:
        """(F,) the table says what the film shows. A film that it names no finding for may show any, unless it says
        that it shows none: a column of 0 and 1 for each finding does, an empty cell does not."""
        said = self.stated or (False,) * len(self)
        return np.array([known or bool(names) for known, names in zip(said, self.findings, strict=True)], dtype=bool)
