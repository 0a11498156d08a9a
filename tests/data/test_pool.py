"""Workers that crash, hang, raise, or lose their parent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from scarce_cli.data.pool import Pool
from scarce_cli.errors import ResourceError

pytestmark = pytest.mark.usefixtures("fork_workers")


def doubling(crash: int = -1, hang: int = -1, fail: int = -1) -> Callable[[int], int]:
    def work(item: int) -> int:
        if item == crash:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == hang:
            time.sleep(60)
        if item == fail:
            raise ResourceError("the disk is full", "free some space")
        return 2 * item

    return work


def run(items: int = 40, workers: int = 2, patience: float = 60.0, **faults: int) -> dict[int, object]:
    pool: Pool[int, object] = Pool(
        doubling, tuple(faults.get(name, -1) for name in ("crash", "hang", "fail")),
        lambda item, reason: (item, reason), workers=workers, patience=patience,
    )  # fmt: skip
    results = [result for chunk in pool.run(range(items)) for result in chunk]
    assert len(results) == items
    return {result[0] if isinstance(result, tuple) else result // 2: result for result in results}  # type: ignore[operator]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_item_once(workers: int) -> None:
    assert run(workers=workers) == {item: 2 * item for item in range(40)}
    assert run(items=0, workers=workers) == {}


def test_a_crash_costs_its_item_only() -> None:
    results = run(crash=17)
    assert results.pop(17) == (17, "the decoder crashed")
    assert results == {item: 2 * item for item in range(40) if item != 17}


def test_a_hang_costs_its_item_only_and_ends_after_the_patience() -> None:
    results = run(hang=5, patience=0.4, items=12)
    assert results.pop(5) == (5, "the decoder took longer than 0.4 s")
    assert len(results) == 11


def test_an_error_of_the_work_is_raised_here() -> None:
    with pytest.raises(ResourceError, match="disk is full"):
        run(fail=3)


def test_an_error_before_the_work_is_raised_here() -> None:
    def make() -> Callable[[int], int]:
        raise ResourceError("cannot write", "check")

    pool: Pool[int, int] = Pool(make, (), lambda item, reason: 0, workers=2)
    with pytest.raises(ResourceError, match="cannot write"):
        list(pool.run(range(4)))


def test_leaving_early_ends_the_workers_at_once() -> None:
    pool: Pool[int, object] = Pool(doubling, (-1, 30, -1), lambda item, reason: reason, workers=2)
    with closing(pool.run(range(40))) as chunks:
        next(chunks)


def test_workers_do_not_outlive_a_killed_parent(in_child: Callable[..., int]) -> None:
    reader, writer = os.pipe()

    def parent() -> None:
        def make() -> Callable[[int], int]:
            def work(item: int) -> int:
                os.write(writer, f"{os.getpid()}\n".encode())
                time.sleep(30)
                return item

            return work

        list(Pool(make, (), lambda item, reason: 0, workers=2).run(range(4)))

    in_child(parent, kill_after=0.5)
    os.close(writer)
    deadline = threading.Timer(5, lambda: os.kill(os.getpid(), signal.SIGALRM))
    deadline.start()
    with open(reader, encoding="ascii") as pipe:
        workers = pipe.read().split()  # ends when the last worker is gone
    deadline.cancel()
    assert workers
