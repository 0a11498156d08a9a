"""A side of a comparison that computes when it is its turn, here or in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection

from sides import Side

Take = Callable[[str, int], float]


def take_turn(side: Side, part: str, steps: int) -> float:
    """Seconds of one turn of whole steps (``part``: step), or of steps on views that are there already (model)."""
    started = time.perf_counter()
    if part == "step":
        side.begin()
    for _ in range(steps):
        side.step() if part == "step" else side.model_step()
    return time.perf_counter() - started


@contextlib.contextmanager
def apart(make: Callable[[], Side]) -> Iterator[Take]:
    """Takes turns of what ``make`` (picklable) gives in a new process, which ends with the block.

    Raises EOFError when that process died.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(there, make))
    process.start()
    there.close()
    try:
        yield partial(_asked, here)
    finally:
        with contextlib.suppress(OSError):
            here.send(None)
        process.join()


def _asked(pipe: Connection, part: str, steps: int) -> float:
    pipe.send((part, steps))
    return float(pipe.recv())


def _serve(pipe: Connection, make: Callable[[], Side]) -> None:
    side = make()
    while (asked := pipe.recv()) is not None:
        pipe.send(take_turn(side, *asked))
