"""Small folders of films, and workers that start fast."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scarce_cli.data.augment_threads import dismiss


@pytest.fixture
def fork_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked from the test itself: no start-up time, and functions of a test can be their work."""
    monkeypatch.setattr("scarce_cli.data.pool.context", lambda: multiprocessing.get_context("fork"))


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Set torch's number of threads; put back afterwards, and no thread of ours left behind."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    dismiss()
    torch.set_num_threads(before)


@pytest.fixture
def make_films(tmp_path: Path) -> Callable[..., Path]:
    """Write ``count`` noisy 8-bit films, all different, into a folder; returns the folder."""

    def make(count: int = 6, name: str = "films", size: int = 48, first: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for number in range(first, first + count):
            pixels = np.random.default_rng(number).integers(0, 256, (size, size), np.uint8)
            Image.fromarray(pixels).save(folder / f"f{number:03d}.png")
        return folder

    return make


@pytest.fixture
def in_child() -> Callable[..., int]:
    """Run a function in a forked child and return its exit code: its own, or 1 for an exception."""

    def run(work: Callable[[], int | None], *, kill_after: float | None = None, user: int | None = None) -> int:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if user is not None and os.getuid() == 0:
                    os.setgroups([])
                    os.setgid(user)
                    os.setuid(user)
                code = work() or 0
            finally:
                os._exit(code)
        if kill_after is not None:
            import time

            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


@pytest.fixture
def kill_until(in_child: Callable[..., int]) -> Callable[..., None]:
    """Run a function in children that are killed at random moments, until so many did not live to their end."""

    def run(work: Callable[[], int | None], kills: int, *, within: float, after_each: Callable[[int], None]) -> None:
        """``within`` seconds at first; less, each time that a child was done before. Anything but 0, a kill, and 6
        (locked by the last worker of the one before, still on its way out) is a failure."""
        rng, killed = np.random.default_rng(kills), 0
        while killed < kills:
            code = in_child(work, kill_after=float(rng.uniform(0, within)))
            assert code in (0, -signal.SIGKILL, 6)
            after_each(code)
            killed += code == -signal.SIGKILL
            within *= 0.9 if code == 0 else 1.0

    return run
