"""What a probe need not compute twice: features of films and scores of fine-tuned encoders.

Everything is kept under a key made of all that it depends on (the encoder's SHA-256, the data set's digest, the
settings), in parts that are written whole: an interrupted probe goes on, and another checkpoint under the same
name never meets old numbers. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarce_cli.evaluation.fewshot.films import Floats, Ints
from scarce_cli.files import atomic_file, make_folder

_VERSION = 1  # of what is computed: another number forgets all that was kept
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def key_of(what: Mapping[str, Any]) -> str:
    """A name for plain values: 32 hexadecimal digits, the same in every process."""
    text = json.dumps({"version": _VERSION, **what}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Store:
    """Kept arrays in ``folder``, which is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add_features(self, key: str, rows: Ints, features: NDArray[np.float32]) -> None:
        """Keep (len(rows), D) features of the films in these rows. Raises ResourceError."""
        name = f"{rows[0]:08d}-{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}.npz"
        self._write(self.folder / f"features-{key}" / name, rows=rows, features=features)

    def features(self, key: str, rows: Ints) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
        """Which of ``rows`` (distinct) are kept, and the (len(rows), D) features, undefined where not; None for none.

        A part that cannot be read, or that holds other than finite numbers, counts as not kept.
        """
        place = {int(row): number for number, row in enumerate(rows)}
        known, found = np.zeros(len(rows), bool), None
        for kept, values in self._parts(key):
            if found is not None and found.shape[1] != values.shape[1]:
                continue
            wanted = [(place[int(row)], n) for n, row in enumerate(kept) if int(row) in place]
            if not wanted:
                continue
            to, of = np.array(wanted).T
            found = np.empty((len(rows), values.shape[1]), np.float32) if found is None else found
            found[to], known[to] = values[of], True
        return known, found

    def _parts(self, key: str) -> Iterator[tuple[Ints, NDArray[np.float32]]]:
        for path in sorted((self.folder / f"features-{key}").glob("*.npz")):
            arrays = self._read(path)
            if arrays is None or set(arrays) != {"rows", "features"}:
                continue
            rows, values = arrays["rows"], arrays["features"]
            shaped = rows.ndim == 1 and values.ndim == 2 and len(rows) == len(values)
            if shaped and rows.dtype == np.int64 and values.dtype == np.float32 and np.isfinite(values).all():
                yield rows, values

    def add_scores(self, key: str, scores: Floats) -> None:
        """Keep an array of scores. Raises ResourceError."""
        self._write(self.folder / f"scores-{key}.npz", scores=scores)

    def scores(self, key: str) -> Floats | None:
        """The scores kept under ``key``; None when there are none that can be read."""
        arrays = self._read(self.folder / f"scores-{key}.npz")
        found = None if arrays is None else arrays.get("scores")
        return found if found is not None and found.dtype == np.float64 and np.isfinite(found).all() else None

    def _write(self, path: Path, **arrays: NDArray[Any]) -> None:
        make_folder(path.parent)
        with atomic_file(path, label="store") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]  # numpy's stubs want a dict of one type

    @staticmethod
    def _read(path: Path) -> dict[str, NDArray[Any]] | None:
        """The arrays of a file of ours; None when it is not there, damaged or holds anything but plain arrays."""
        try:
            with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except _UNREADABLE:
            return None
