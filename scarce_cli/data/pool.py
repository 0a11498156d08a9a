"""Work on many files with several processes, such that a decoder that crashes or hangs costs only its file."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import wait as wait_for
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_work: Callable[[Any], Any] | None = None
_patience = 60.0


def usable_cores() -> int:
    """How many cores this process may use (a job's share of the machine, not the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...], patience: float) -> None:
    """Runs once in every worker: signals are the parent's business, and without a parent there is no work."""
    global _work, _patience
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _work, _patience = make(*arguments), patience


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run_chunk(items: Sequence[Any]) -> list[Any]:
    """A decoder that hangs holds the interpreter, so the watchdog that ends the process is written in C."""
    assert _work is not None
    results = []
    with open(os.devnull, "w") as silence:
        for item in items:
            faulthandler.dump_traceback_later(_patience, exit=True, file=silence)
            try:
                results.append(_work(item))
            finally:
                faulthandler.cancel_dump_traceback_later()
    return results


class Pool(Generic[Item, Result]):
    """``make(*arguments)`` gives, in every worker, the function from an item to its result.

    ``lost(item, seconds)`` gives the result of an item that ended its worker, or that took longer than
    ``patience`` seconds.
    """

    def __init__(
        self,
        make: Callable[..., Callable[[Item], Result]],
        arguments: tuple[Any, ...],
        lost: Callable[[Item, float], Result],
        *,
        workers: int,
        patience: float = 60.0,
    ) -> None:
        self.make, self.arguments, self.lost = make, arguments, lost
        self.workers, self.patience = workers, patience
        self._executor: ProcessPoolExecutor | None = None

    def run(self, items: Sequence[Item]) -> Iterator[list[Result]]:
        """Results by the chunk, in the order in which they come; each item exactly once.

        Leaving the iteration early (an exception, a signal) ends the workers at once.
        """
        chunk = max(1, min(CHUNK, len(items) // (4 * self.workers)))
        waiting = deque(items[at : at + chunk] for at in range(0, len(items), chunk))
        try:
            while waiting:
                broken = yield from self._until_broken(waiting)
                for one in broken:
                    for item in one:
                        yield [self._alone(item)]
        finally:
            self._stop()

    def _until_broken(self, waiting: deque[Sequence[Item]]) -> Iterator[list[Result]]:
        running: dict[Future[list[Result]], Sequence[Item]] = {}
        executor = self._open(self.workers)
        while waiting or running:
            try:
                while waiting and len(running) < 2 * self.workers:
                    future = executor.submit(_run_chunk, waiting[0])
                    running[future] = waiting.popleft()
            except BrokenProcessPool:
                pass
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    results = future.result()
                except BrokenProcessPool:
                    continue
                del running[future]
                yield results
            if any(future in running for future in done):
                self._stop()
                return list(running.values())
        return []

    def _alone(self, item: Item) -> Result:
        """The item in a pool of one, so that a crash can only be its own."""
        started = time.monotonic()
        executor = self._open(1)
        try:
            return executor.submit(_run_chunk, [item]).result()[0]
        except BrokenProcessPool:
            return self.lost(item, time.monotonic() - started)
        finally:
            self._stop()

    def _open(self, workers: int) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                workers, context(), _start, (self.make, self.arguments, self.patience)
            )
        return self._executor

    def _stop(self) -> None:
        executor, self._executor = self._executor, None
        if executor is None:
            return
        processes = list((executor._processes or {}).values())
        for process in processes:
            with suppress(OSError, ValueError):
                process.kill()
        executor.shutdown(wait=True, cancel_futures=True)


def context() -> multiprocessing.context.BaseContext:
    """Workers are forked from a clean server process that has imported what they need, once.

    One thread of linear algebra per worker: the workers are the parallel part. A start method that the
    caller has set is respected.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    if chosen is not None:
        return multiprocessing.get_context(chosen)
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        method = multiprocessing.get_context("forkserver")
        method.set_forkserver_preload(["scarce_cli.data.preprocess"])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return method
