"""What the checks of official numbers share: a family, and how close is close."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

EXACT = 1e-9  # relative, for float64 numbers

Data = Mapping[str, NDArray[np.generic]]
Check = Callable[[Data], None]


@dataclass(frozen=True)
class Family:
    """What is done with each key of a family's files. A key may be a pattern, such as ``w/*``; an exact one wins."""

    checks: Mapping[str, Check]
    unchecked: Mapping[str, str]  # key -> why: an input, or how good the reference is
    optional: frozenset[str] = frozenset()

    def entry(self, name: str) -> str | None:
        """The key or pattern that knows ``name``."""
        known = [*self.checks, *self.unchecked]
        return name if name in known else next((key for key in known if fnmatchcase(name, key)), None)


def close(found: object, data: Data, key: str, *, rtol: float = EXACT, atol: float = 0.0) -> None:
    """Equal within ``rtol``; ``atol`` in units of the largest number."""
    wanted = np.asarray(data[key], np.float64)
    size = np.abs(wanted).max(initial=0.0)
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=rtol, atol=atol * size, err_msg=key)


def close_f32(found: object, data: Data, key: str) -> None:
    """For float64 results that were stored as float32."""
    close(found, data, key, rtol=2e-6, atol=1e-6)
