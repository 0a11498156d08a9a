"""Work on many files with several processes; a decoder that crashes or hangs costs only its own file."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import wait as wait_for
from typing import Any, Generic, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16
PATIENCE = 60.0
# One thread of linear algebra per worker: the workers are the parallel part. And memory that a film has used
# is kept for the next one: asking the system for it anew costs a fifth of the time.
_ENVIRONMENT = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


class _Worker:
    """What a worker process holds: the function to call, or the error that its making raised."""

    work: Callable[[Any], Any]
    error: BaseException | None = None
    patience = PATIENCE


def usable_cores() -> int:
    """How many cores this process may use (a job's share of the machine, not the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...], patience: float) -> None:
    """Runs once in every worker: signals are the parent's business, and without a parent there is no work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _Worker.patience = patience
    try:
        _Worker.work = staticmethod(make(*arguments))
    except Exception as error:  # raised again where the parent sees it
        _Worker.error = error


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run_chunk(items: Sequence[Any]) -> list[Any]:
    """A decoder that hangs holds the interpreter, so the watchdog that ends the process is one in C."""
    if _Worker.error:
        raise _Worker.error
    results = []
    with open(os.devnull, "w") as silence:
        for item in items:
            faulthandler.dump_traceback_later(_Worker.patience, exit=True, file=silence)
            try:
                results.append(_Worker.work(item))
            finally:
                faulthandler.cancel_dump_traceback_later()
    return results


class Pool(Generic[Item, Result]):
    """Workers that turn items into results; ``make(*arguments)`` gives, in each of them, the function.

    ``lost(item, reason)`` is the result of an item that ended its worker, or that took longer than
    ``patience`` seconds.
    """

    def __init__(
        self,
        make: Callable[..., Callable[[Item], Result]],
        arguments: tuple[Any, ...],
        lost: Callable[[Item, str], Result],
        *,
        workers: int = 0,
        patience: float = PATIENCE,
    ) -> None:
        self.make, self.arguments, self.lost = make, arguments, lost
        self.workers, self.patience = workers or usable_cores(), patience
        self._executor: ProcessPoolExecutor | None = None

    def run(self, items: Sequence[Item]) -> Generator[list[Result], None, None]:
        """Results by the chunk, in the order in which they come; each item exactly once.

        Close the iterator (contextlib.closing) to end the workers at once. What ``make`` or its function
        raises, is raised here.
        """
        self.workers = max(1, min(self.workers, len(items)))
        chunk = max(1, min(CHUNK, len(items) // (4 * self.workers)))
        waiting = deque(items[at : at + chunk] for at in range(0, len(items), chunk))
        finished = False
        try:
            while waiting:
                suspects: list[Sequence[Item]] = []
                yield from self._until_broken(waiting, suspects)
                yield from self._one_by_one([item for chunk in suspects for item in chunk])
            finished = True
        finally:
            self._stop(kill=not finished)

    def _until_broken(self, waiting: deque[Sequence[Item]], suspects: list[Sequence[Item]]) -> Iterator[list[Result]]:
        """Work through ``waiting``; when a worker dies, what was in hand goes to ``suspects``."""
        running: dict[Future[list[Result]], Sequence[Item]] = {}
        executor, broken = self._open(self.workers), False
        while (waiting or running) and not broken:
            try:
                while waiting and len(running) < 2 * self.workers:
                    future = executor.submit(_run_chunk, waiting[0])
                    running[future] = waiting.popleft()
            except BrokenProcessPool:
                broken = True
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                try:
                    results = future.result()
                except BrokenProcessPool:
                    broken = True
                    continue
                del running[future]
                yield results
        suspects.extend(running.values())
        if broken:
            self._stop(kill=True)

    def _one_by_one(self, items: Sequence[Item]) -> Iterator[list[Result]]:
        """Each item by itself in a pool of one, so that a crash can only be its own."""
        for item in items:
            started = time.monotonic()
            executor = self._open(1)
            try:
                results: list[Result] = executor.submit(_run_chunk, [item]).result()
            except BrokenProcessPool:
                self._stop(kill=True)
                slow = time.monotonic() - started >= self.patience
                reason = f"the decoder took longer than {self.patience:g} s" if slow else "the decoder crashed"
                results = [self.lost(item, reason)]
            yield results
        if items:
            self._stop(kill=False)

    def _open(self, workers: int) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(workers, context(), _start, (self.make, self.arguments, self.patience))
        return self._executor

    def _stop(self, *, kill: bool) -> None:
        executor, self._executor = self._executor, None
        if executor is None:
            return
        if kill:
            for process in list((executor._processes or {}).values()):
                with suppress(OSError, ValueError):
                    process.kill()
        executor.shutdown(wait=True, cancel_futures=True)


def context() -> multiprocessing.context.BaseContext:
    """Workers are forked from a clean server process that has imported what they need, once.

    A start method that the caller has set is respected.
    """
    chosen = cast("str | None", multiprocessing.get_start_method(allow_none=True))
    if chosen is not None:
        return multiprocessing.get_context(chosen)
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
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
