"""Killed at any moment, a run goes on from its newest checkpoint and ends with the bits of a run never killed; T1."""

from __future__ import annotations

import ast
import os
import random
import select
import shutil
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import scarce_cli
from scarce_cli.files import is_temporary
from scarce_cli.runs import RunFolder

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="autograd's threads for a GPU do not survive the fork of a child"
)
INTERVAL = 2  # steps between checkpoints
SETTINGS = (f"run.checkpoint_steps={INTERVAL}", "run.epochs=2", "run.batch_size=8")  # 12 steps
SAVING = {"ckpt", "digest", "metrics", "readme"}  # what a run writes while it trains
ELSEWHERE = {  # label -> the test that kills there
    "cache": "tests/data/test_build.py",
    "index": "tests/data/test_build.py",
    "dataset": "tests/data/test_preprocess.py",
    "image": "tests/data/test_preprocess.py",
    "manifest": "tests/data/test_preprocess.py",
    "phantom": "nothing that is worth more than to be drawn again",
    "figure": "tests/figures",
    "settings": "tests/commands/test_pretrain_faults.py",
    "file": "tests/test_files.py",
    "store": "tests/evaluation/fewshot/test_store.py",
    "episodes": "tests/evaluation/fewshot/test_episodes_file.py",
    "report": "tests/commands/probe_report/test_output.py",
}
AROUND = ("pre_fsync", "pre_rename", "post_rename")  # of every file that is replaced
POINTS = ["ckpt.pre_publish", *(f"{label}.{at}" for label in sorted(SAVING) for at in AROUND)]


@pytest.fixture(autouse=True)
def _a_fork_can_compute(child: Callable[..., int]) -> None:
    """torch's pool of threads, which some tests make, does not live on in a forked process."""

    def compute() -> None:
        thread = threading.Thread(target=lambda: torch.set_num_threads(1))
        thread.start()
        thread.join()

    if child(compute) != 0:
        pytest.skip("another test of this process made a pool of threads, which a fork has not")


def _text(node: ast.expr | None) -> str:
    """A literal, or the literal end of an f-string after its one value."""
    if isinstance(node, ast.JoinedStr):
        return "".join("*" if isinstance(part, ast.FormattedValue) else str(part.value) for part in node.values)  # type: ignore[attr-defined]
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _points_in_the_sources() -> set[str]:
    found, labels, around = set(), {"file"}, set()
    for path in Path(scarce_cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            name = node.func.id
            if name == "fault_point":
                point = _text(node.args[0])
                (around if point.startswith("*.") else found).add(point)
            if name in ("atomic_file", "write_text", "write_json"):
                labels |= {_text(keyword.value) for keyword in node.keywords if keyword.arg == "label"}
    return found | {f"{label}{end[1:]}" for label in labels - {""} for end in around}


def test_every_point_of_a_save_is_tried() -> None:
    """A new one must be added above, or be tried in a test of its own."""
    points = _points_in_the_sources()
    assert len(points) > 20
    assert {point for point in points if point.split(".")[0] in SAVING} == set(POINTS)
    assert {point.split(".")[0] for point in points} == SAVING | ELSEWHERE.keys()


@dataclass
class Child:
    """A run in a process of its own, with all imports done; ``begun`` counts the steps that it was seen to begin."""

    pid: int
    pipe: int
    begun: int

    def wait(self, seconds: float, *, until_a_step: bool = False) -> None:
        """Let it run for so long, or until it ends or begins a step."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.pipe], [], [], left)[0]:
                return
            data = os.read(self.pipe, 4096)
            self.begun = data[-1] if data else self.begun
            if not data or until_a_step:
                return

    def end(self, number: int = 0) -> int:
        """Send it a signal, read what it said, and return its exit code or minus the signal."""
        if number:
            os.kill(self.pid, number)
        while data := os.read(self.pipe, 4096):
            self.begun = data[-1]
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def start(train: Callable, toy: Any) -> Callable[..., Child]:
    """Start or go on with the run in ``out``, in a forked child, with ``SCARCE_FAULT`` set to ``fault``."""

    def work(out: str, fault: str, pipe: int) -> None:
        os.environ["SCARCE_FAULT"] = fault
        toy.hook = staticmethod(lambda step: os.write(pipe, bytes([step + 1])) and None)
        run = RunFolder(Path(out))
        with run.lock():
            assert _temporaries(run) == []
            train(*SETTINGS, out=out, resume=True)

    def begin(out: str, fault: str = "") -> Child:
        (Path(out) / "encoders").mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside torch's idle threads
            pid = os.fork()
        if pid == 0:
            code = 99
            try:
                work(out, fault, writing)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        return Child(pid, reading, 0)

    return begin


def _temporaries(run: RunFolder) -> list[str]:
    return [path.name for path in run.path.rglob("*") if is_temporary(path)]


_WHOLE: list[tuple[Any, Any]] = []  # made once


@pytest.fixture
def whole(start: Callable, saved: Callable, lines: Callable) -> tuple[Any, Any]:
    """What a run ends with that is never killed: its state and its log."""
    if not _WHOLE:
        assert start("runs/whole").end() == 0
        _WHOLE.append((saved("runs/whole"), lines("runs/whole")))
    return _WHOLE[0]


@pytest.fixture
def check_end(whole: tuple[Any, Any], saved: Callable, lines: Callable, same: Any) -> Callable[[str], None]:
    """Whether the run in ``out`` ended as the one never killed, and left nothing behind; removes it."""

    def check(out: str) -> None:
        run = RunFolder(Path(out))
        assert same(saved(out), whole[0])
        assert lines(out) == whole[1]
        assert _temporaries(run) == []
        assert [path.name for path in run.snapshots()] == ["epoch-0001.pt", "epoch-0002.pt"]
        shutil.rmtree(out)

    return check


def _lost(out: str, saved: Callable, begun: int) -> int:
    """Steps to be done again, the one that was going on included; DamagedData if the newest does not load."""
    newest = saved(out)["origin"]["step"] if RunFolder(Path(out)).last.exists() else 0
    return begun - int(newest)


@pytest.mark.parametrize("label", sorted(SAVING))
def test_a_run_killed_at_one_point_of_a_save_after_the_other_goes_on(
    label: str, start: Callable, saved: Callable, check_end: Callable
) -> None:
    passage = 2 if label in ("ckpt", "digest") else 1
    for point in [point for point in POINTS if point.startswith(label)]:
        child = start("runs/a", f"{point}:{passage}:kill")
        assert child.end() == -signal.SIGKILL, point
        assert _lost("runs/a", saved, child.begun) <= INTERVAL, point
    assert start("runs/a").end() == 0
    check_end("runs/a")


def _kill_at_random(kills: int, start: Callable, saved: Callable, check_end: Callable) -> list[int]:
    """Chains of runs, killed again and again until they are done; the steps that every kill cost."""
    rng, lost, number = random.Random(0), [], 0
    child = start("runs/timed")
    child.wait(60, until_a_step=True)
    first = time.monotonic()
    assert child.end() == 0
    seconds = time.monotonic() - first
    while len(lost) < kills:
        child, out = start(f"runs/{number}"), f"runs/{number}"
        if rng.random() < 0.9:  # otherwise also before the first step
            child.wait(60, until_a_step=True)
        child.wait(rng.uniform(0, seconds))
        code = child.end(signal.SIGKILL)
        if code == 0:
            check_end(out)
            number += 1
        else:
            assert code == -signal.SIGKILL
            if child.begun:
                lost.append(_lost(out, saved, child.begun))
    assert start(f"runs/{number}").end() == 0
    check_end(f"runs/{number}")
    return lost


def test_eight_kills_at_random_moments(start: Callable, saved: Callable, check_end: Callable) -> None:
    assert max(_kill_at_random(8, start, saved, check_end)) <= INTERVAL


@pytest.mark.skipif("SCARCE_LONG" not in os.environ, reason="a minute: set SCARCE_LONG=1")
def test_two_hundred_kills_at_random_moments(start: Callable, saved: Callable, check_end: Callable) -> None:
    lost = _kill_at_random(200, start, saved, check_end)
    assert max(lost) <= INTERVAL
    print(f"{len(lost)} kills, none damaged; steps lost: {[lost.count(n) for n in range(INTERVAL + 1)]}")
