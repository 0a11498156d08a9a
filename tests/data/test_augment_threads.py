"""Films shared out among threads: all of them once, each thread undivided, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from scarce_cli.data.augment_threads import dismiss, share_out
from tests.data.view_helpers import CPU


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("parts", [0, 1, 2, 7, 50])
def test_every_part_is_done_once(threads: int, parts: int, set_threads: Callable[[int], None]) -> None:
    set_threads(threads)
    done: list[int] = []
    share_out(done.append, parts, CPU)
    assert sorted(done) == list(range(parts))


def test_parts_are_done_at_the_same_time_and_undivided(set_threads: Callable[[int], None]) -> None:
    set_threads(3)
    together, seen = threading.Barrier(3, timeout=20), []

    def work(part: int) -> None:
        together.wait()
        seen.append((threading.get_ident(), torch.get_num_threads()))

    share_out(work, 3, CPU)
    assert len({thread for thread, _ in seen}) == 3
    assert [count for _, count in seen] == [1, 1, 1]


def test_torchs_number_of_threads_is_as_before_in_all_others(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    share_out(lambda part: time.sleep(0.001), 4, CPU)
    assert torch.get_num_threads() == 2
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [2]


def test_a_gpus_films_stay_with_the_thread_that_asks(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    seen: list[int] = []
    share_out(lambda part: seen.append(threading.get_ident()), 3, torch.device("cuda"))
    assert seen == [threading.get_ident()] * 3


def test_an_error_in_a_part_is_raised_and_the_threads_go_on(set_threads: Callable[[int], None]) -> None:
    set_threads(2)

    def work(part: int) -> None:
        if part == 3:
            raise ValueError("part 3")

    with pytest.raises(ValueError, match="part 3"):
        share_out(work, 6, CPU)
    done: list[int] = []
    share_out(done.append, 6, CPU)
    assert len(done) == 6


def test_a_forked_child_starts_threads_of_its_own(
    set_threads: Callable[[int], None], in_child: Callable[..., int]
) -> None:
    set_threads(2)
    share_out(lambda part: None, 4, CPU)

    def child() -> int:
        done: list[int] = []
        share_out(done.append, 4, CPU)
        return 0 if len(done) == 4 else 1

    assert in_child(child) == 0


def test_threads_are_kept_until_dismissed(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    before = threading.active_count()
    for _ in range(3):
        share_out(lambda part: None, 4, CPU)
    assert threading.active_count() == before + 2
    dismiss()
    assert threading.active_count() == before
