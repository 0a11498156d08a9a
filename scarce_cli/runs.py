"""A run's folder: what lies where, who may write, and the log of its metrics."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scarce_cli.errors import ResourceError, UsageError
from scarce_cli.files import (
    as_resource_error,
    folder_lock,
    is_temporary,
    make_folder,
    remove_temporaries,
    require_writable,
    write_text,
)

_BUSY = "a run writes there"
_MOST_SKIPPED = 1000  # lines of skipped.jsonl


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. ``last.pt`` goes on; ``encoders/`` holds small snapshots for the collapse curve."""

    path: Path

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before it, for when the newest is damaged."""
        return self.path / "previous.pt"

    @property
    def settings(self) -> Path:
        """The resolved settings, as a preset that repeats the run."""
        return self.path / "settings.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: steps and epochs."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """The same as a picture."""
        return self.path / "curves.png"

    @property
    def readme(self) -> Path:
        """What the run is, what it cost and how to go on."""
        return self.path / "README.md"

    @property
    def skipped(self) -> Path:
        """One JSON object a line: steps that could not be taken, with their films."""
        return self.path / "skipped.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """Which run at W&B this one is, so that it goes on there."""
        return self.path / "wandb.json"

    def snapshot(self, epoch: int) -> Path:
        """The encoder after ``epoch`` epochs."""
        return self.path / "encoders" / f"epoch-{epoch:04d}.pt"

    def snapshots(self) -> list[Path]:
        """All kept encoders, oldest first."""
        return sorted((self.path / "encoders").glob("epoch-*.pt"))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out of the folder; removes what killed ones left. Raises Locked."""
        with folder_lock(self.path, _BUSY):
            remove_temporaries(self.path)
            remove_temporaries(self.path / "encoders")
            yield


def check_new_run(path: Path) -> None:
    """Writes nothing.

    Raises:
        UsageError: a run lies there already: it is never overwritten.
        Locked: a run is writing there.
        ResourceError: the folder cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a run's folder", "name another folder with --out")
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ResourceError(f"cannot write in {nearest}", "check the permissions, or name another folder with --out")
    if path.is_dir():
        _check_unlocked(path)
        check_empty(path)


def check_empty(path: Path) -> None:
    """UsageError when the folder ``path`` holds a run, or anything else but what is left of a start that failed."""
    if any(not _is_empty_remainder(item) for item in path.iterdir()):
        raise UsageError(
            f"the run folder {path} exists already",
            f"go on with it: add --resume; start anew: --out ANOTHER, or remove {path} yourself",
        )


def _is_empty_remainder(item: Path) -> bool:
    """What a run leaves that ended before it wrote its settings."""
    return (
        item.name == ".lock"
        or is_temporary(item)
        or (item.name == "encoders" and item.is_dir() and not any(item.iterdir()))
    )


def _check_unlocked(path: Path) -> None:
    if (path / ".lock").is_file():
        with folder_lock(path, _BUSY, shared=True):
            pass


def new_run(path: Path) -> RunFolder:
    """Make the folder of a new run. Raises UsageError (there is one), ResourceError (cannot be written)."""
    check_new_run(path)
    require_writable(path)
    make_folder(path / "encoders")
    return RunFolder(path)


def existing_run(path: Path) -> RunFolder:
    """The folder of a run that was started before. UsageError when there is none, Locked when it still goes on."""
    run = RunFolder(path)
    if not run.settings.is_file():
        raise UsageError(f"no run to go on with in {path}", "leave out --resume, or name its folder with --out")
    _check_unlocked(path)
    require_writable(path)
    return run


def write_settings(run: RunFolder, settings: Mapping[str, Any], header: str) -> None:
    """Save the resolved settings as YAML that ``--preset`` reads again, below ``header`` as a comment."""
    import yaml

    # A path in the header may hold a line break or bytes that are not UTF-8.
    comment = "\n".join(f"# {line}" for line in header.encode("utf-8", "replace").decode().splitlines())
    text = yaml.safe_dump(dict(settings), sort_keys=False, default_flow_style=None, width=100)
    write_text(run.settings, f"{comment}\n{text}", label="settings")


class MetricsLog:
    """Appends one JSON object a line and flushes it, so that a killed run loses nothing it logged."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        """Open ``path``; lines of steps at or after ``from_step`` (a rolled-back run's) are dropped."""
        self._path = path
        lines = _lines(path)
        #: the last step that was logged before, of lines that are dropped now as well; 0 when there was none
        self.logged = max((int(step) for line in lines if math.isfinite(step := _step(line))), default=0)
        kept = [line for line in lines if _step(line) <= from_step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept), label="metrics")
        try:
            self._handle = open(path, "a", encoding="utf-8")  # noqa: SIM115  held for the run's length
        except OSError as error:
            raise as_resource_error(error, path) from error

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Add one line. Non-finite numbers become null: JSON has no NaN."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            self._handle.write(json.dumps({"kind": kind, **clean}) + "\n")
            self._handle.flush()
        except OSError as error:
            raise as_resource_error(error, self._path) from error

    def close(self) -> None:
        """End of the run. Every line is flushed already, so what fails here was reported."""
        with contextlib.suppress(OSError):
            self._handle.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's log; a last line cut by a kill is left out."""
    return _lines(path)


def record_skipped(run: RunFolder, *, step: int, what: str, films: Sequence[str], rows: Sequence[int]) -> None:
    """Add a step that could not be taken to ``skipped.jsonl``: one line, on the disk before this returns.

    Args:
        step: 1 the first. A step that is there already, because the run was rolled back, is not added again.
        what: why, in words.
        films: names of all films of the batch.
        rows: where they are in the cache.

    After 1,000 lines further steps are only counted, in a last line ``{"more": 12}``.

    Raises:
        ResourceError: the file cannot be written.
    """
    lines = _lines(run.skipped)
    if any(line.get("step") == step for line in lines):
        return
    try:
        descriptor = os.open(run.skipped, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with open(descriptor, "r+b") as handle:
            if len(lines) < _MOST_SKIPPED:
                _append(handle, {"step": step, "what": what, "films": [*films], "rows": [int(row) for row in rows]})
            else:
                _count_one_more(handle, lines[-1].get("more", 0))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise as_resource_error(error, run.skipped) from error


def _append(handle: IO[bytes], line: Mapping[str, Any]) -> None:
    _go_to_end(handle)
    handle.write(json.dumps(line).encode() + b"\n")


def _count_one_more(handle: IO[bytes], before: int) -> None:
    """Always as long, so that the last line can be written over in place."""
    old, new = (f'{{"more": {count:12}}}\n'.encode() for count in (before, before + 1))
    _go_to_end(handle)
    handle.seek(-len(old), os.SEEK_END)
    if handle.read() == old:
        handle.seek(-len(old), os.SEEK_END)
    handle.write(new)


def _go_to_end(handle: IO[bytes]) -> None:
    """Below a line that a kill cut short, which would spoil the next."""
    if handle.seek(0, os.SEEK_END):
        handle.seek(-1, os.SEEK_END)
        if handle.read(1) != b"\n":
            handle.write(b"\n")


def _step(line: dict[str, Any]) -> float:
    step = line.get("step", 0)
    return step if isinstance(step, int | float) else math.inf


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):  # cut by a kill, or by nobody of ours
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict)]
