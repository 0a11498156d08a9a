"""Films shared out among threads that do not wait for each other.

torch splits every operation among its threads, which then meet: a hundred times for a few films. On a machine that does
other work as well, each meeting waits, spinning, for a thread that has no core just then; measured, that took 4 to 12
times the processor's time. Here each thread takes some films through all operations by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch


class _Crew:
    """Threads in which torch's operations are not split further."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "scarce-views")
        together = Barrier(threads + 1)
        for _ in range(threads):
            self._pool.submit(_undivided, together)
        together.wait()
        # torch's number of threads is each thread's own, but also what threads to come begin with.
        torch.set_num_threads(threads)

    def do(self, work: Callable[[int], None], parts: int) -> None:
        for _ in self._pool.map(work, range(parts)):
            pass

    def dismiss(self) -> None:
        self._pool.shutdown()


def _undivided(together: Barrier) -> None:
    torch.get_num_threads()  # a thread's first question sets it to the common number: before, not after
    torch.set_num_threads(1)
    together.wait()


_crew: _Crew | None = None


def share_out(work: Callable[[int], None], parts: int, device: torch.device) -> None:
    """Call ``work`` with 0 to ``parts`` - 1; for the CPU, on as many threads as torch has in the calling one.

    What ``work`` raises is raised here. Modes that belong to a thread (gradients, autocast) are the new threads' usual.
    """
    global _crew  # noqa: PLW0603 - threads are kept: to start them takes as long as some films
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1 or parts == 1:
        for part in range(parts):
            work(part)
        return
    if _crew is None or _crew.threads != threads:
        dismiss()
        _crew = _Crew(threads)
    _crew.do(work, parts)


def dismiss() -> None:
    """End the threads; the next batch starts new ones."""
    global _crew  # noqa: PLW0603
    if _crew is not None:
        _crew.dismiss()
    _crew = None


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _crew  # noqa: PLW0603
    _crew = None


os.register_at_fork(after_in_child=_forget)
