"""A side of a comparison that computes when it is its turn, here or in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from sides import Side


class Turns:
    """Takes turns of whole steps, or of steps on views that are there already."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def take(self, part: str, steps: int) -> float:
        """Seconds of one turn; ``part``: step or model."""
        started = time.perf_counter()
        if part == "step":
            self._side.begin()
        for _ in range(steps):
            self._side.step() if part == "step" else self._side.model_step()
        return time.perf_counter() - started


class _Elsewhere(Turns):
    """The same, in the process at the other end of a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def take(self, part: str, steps: int) -> float:
        """EOFError when the process died."""
        self._pipe.send((part, steps))
        return float(self._pipe.recv())


@contextlib.contextmanager
def apart(make: Callable[[], Side]) -> Iterator[Turns]:
    """What ``make`` gives (it must be picklable), in a new process, which ends with the block."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(there, make))
    process.start()
    there.close()
    try:
        yield _Elsewhere(here)
    finally:
        with contextlib.suppress(BrokenPipeError):
            here.send(None)
        process.join()


def _serve(pipe: Connection, make: Callable[[], Side]) -> None:
    turns = Turns(make())
    while (asked := pipe.recv()) is not None:
        pipe.send(turns.take(*asked))
