"""``scarce pretrain`` stopped in any phase, on a full or read-only disk, started twice: code, path, remedy."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scarce_cli import checkpoint, files
from scarce_cli.cli import app, main
from scarce_cli.files import is_temporary
from scarce_cli.runs import RunFolder

ROOT = Path(__file__).parents[2]
RUN = RunFolder(Path("runs/spark-smoke"))
forks = pytest.mark.skipif(
    torch.cuda.is_available(), reason="autograd's threads for a GPU do not survive the fork of a child"
)


@pytest.fixture(autouse=True)
def _light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No curves and no fsync, which have tests of their own, and no run stays behind."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("scarce_cli.engine.seen.draw_training", lambda *arguments, **more: None)
    yield
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


def _arguments(dataset: Path, *settings: str) -> list[str]:
    """Six steps, saved after each second one."""
    settings = ("run.epochs=1", "run.checkpoint_steps=2", "run.snapshot_epochs=5", *settings)
    chosen = [argument for setting in settings for argument in ("--set", setting)]
    return ["pretrain", "spark", "--preset", "smoke", "--data", str(dataset), *chosen]


class Child:
    """The command line in a process of its own, with all imports done; what it says goes into ``err``."""

    def __init__(self, arguments: list[str], fault: str = "") -> None:
        self.err = Path("err.txt")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside torch's idle threads
            self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                code = self._be(arguments, fault)
            finally:
                os._exit(code)

    def _be(self, arguments: list[str], fault: str) -> int:
        os.environ["SCARCE_FAULT"] = fault
        sys.argv = ["scarce", *arguments]
        with open(self.err, "w", buffering=1) as sys.stderr:
            try:
                main()
            except SystemExit as end:
                return int(end.code or 0)

    def until(self, there: Callable[[], bool]) -> None:
        """Wait until it has come so far."""
        deadline = time.monotonic() + 60
        while not there():
            assert time.monotonic() < deadline, self.err.read_text()
            assert os.waitpid(self.pid, os.WNOHANG)[0] == 0, self.err.read_text()
            time.sleep(0.005)

    def send(self, number: int, times: int = 1) -> None:
        """Send it a signal, again and again, but never two at once."""
        for _ in range(times):
            os.kill(self.pid, number)
            time.sleep(0.2)

    def ended(self) -> tuple[int, str]:
        """Exit code and what it said."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code, self.err.read_text()


def _temporaries() -> list[Path]:
    return [path for path in RUN.path.rglob("*") if is_temporary(path)]


def _saved_step() -> int:
    return int(checkpoint.load(RUN.last)[0]["origin"]["step"])


def test_t2_a_signal_while_torch_is_loaded_is_its_code_and_leaves_nothing(dataset: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, "-m", "scarce_cli", *_arguments(dataset)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while "libtorch" not in maps.read_text():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=100)[1]
    assert process.returncode == 143, err
    assert "scarce: stopped by SIGTERM" in err
    assert "What to do: nothing was left half-written: run the same command again" in err
    assert "Traceback" not in err
    assert list(Path().iterdir()) == []


@forks
def test_t2_a_signal_before_the_first_step_says_to_resume(dataset: Path) -> None:
    child = Child(_arguments(dataset), "settings.post_rename:1:pause")
    child.until(RUN.settings.exists)
    child.send(signal.SIGINT)
    code, err = child.ended()
    assert code == 130, err
    assert "--resume" in err.split("What to do: ")[1]
    assert not RUN.last.exists()
    assert _temporaries() == []


def _in_the_second_save() -> bool:
    """The old digest and the new one are listed for just as long as nobody can tell which file it will be."""
    return len(files.listed_digests(RUN.last)) == 2


@forks
def test_t2_t3_two_signals_during_a_save_let_it_end(dataset: Path) -> None:
    child = Child(_arguments(dataset), "ckpt.pre_fsync:2:pause")
    child.until(_in_the_second_save)
    assert _saved_step() == 2
    child.send(signal.SIGTERM, times=2)
    code, err = child.ended()
    assert code == 143, err
    assert _saved_step() == 4
    assert "stopped after step 4 of 6; everything is in runs/spark-smoke/last.pt" in " ".join(err.split())
    assert "What to do: go on with the same command and --resume" in err
    assert _temporaries() == []


@forks
def test_t3_the_third_signal_stops_at_once_and_the_checkpoint_before_is_intact(dataset: Path) -> None:
    child = Child(_arguments(dataset), "ckpt.pre_fsync:2:pause")
    child.until(_in_the_second_save)
    child.send(signal.SIGTERM, times=3)
    code, err = child.ended()
    assert code == 143, err
    assert "--resume" in err.split("What to do: ")[1]
    assert _saved_step() == 2
    assert _temporaries() == []


@forks
@pytest.mark.skipif("SCARCE_LONG" not in os.environ, reason="minutes: set SCARCE_LONG=1")
def test_t2_fifty_signals_at_random_moments(dataset: Path) -> None:
    """While it is built, in a step, a save or at the end: its code, a checkpoint of all that was done, nothing else."""
    begun = time.monotonic()
    assert Child(_arguments(dataset)).ended()[0] == 0
    whole, rng = time.monotonic() - begun, random.Random(0)
    seconds, steps = [], []
    while len(seconds) < 50:
        shutil.rmtree(RUN.path, ignore_errors=True)
        Path("err.txt").unlink()
        child = Child(_arguments(dataset))
        child.until(child.err.exists)
        time.sleep(rng.uniform(0, whole))
        sent = time.monotonic()
        os.kill(child.pid, signal.SIGTERM)
        code, err = child.ended()
        if RUN.last.exists() and _saved_step() == 6 and code != 143:
            continue  # it had ended
        seconds.append(time.monotonic() - sent)
        assert code in (143, -signal.SIGTERM), err  # -15: before the program had begun
        assert "What to do: " in err or not RUN.path.exists()
        assert _temporaries() == []
        steps.append(_saved_step() if RUN.last.exists() else 0)
        assert f"stopped after step {steps[-1]} of 6" in err or "had begun: with --resume" in err or not err, err
    print(f"longest from the signal to the end {max(seconds):.2f} s; steps saved {sorted(steps)}")


def test_t8_a_disk_that_is_full_once_is_a_warning(
    scarce: Callable, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = _arguments(dataset, "run.batch_size=24", "run.checkpoint_steps=1")
    monkeypatch.setattr(files, "_fault_counts", files.Counter())
    monkeypatch.setenv("SCARCE_FAULT", "ckpt.pre_fsync:1:enospc")
    result = scarce(*arguments)
    assert result.code == 0, result.err
    flat = " ".join(result.err.split())
    assert f"not saved: the disk is full: cannot write {RUN.last} (" in flat
    assert "MiB free" in flat
    assert _saved_step() == 2
    assert _temporaries() == []


@pytest.mark.parametrize("point", ["pre_fsync", "pre_rename", "post_rename"])
def test_t1_killed_while_the_settings_are_written_the_run_starts_or_goes_on(
    point: str, child: Callable, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the two commands the one is right that the folder asks for; neither finds anything in its way."""
    monkeypatch.setattr("scarce_cli.engine.trainer.Trainer", _Untrained)
    arguments = _arguments(dataset)
    assert child(lambda: app(arguments), f"settings.{point}:1:kill") == -signal.SIGKILL
    begun = RUN.settings.exists()
    assert begun == (point == "post_rename")
    with pytest.raises(SystemExit) as wrong:
        app([*arguments, *([] if begun else ["--resume"])])
    assert wrong.value.code == 2
    with pytest.raises(SystemExit) as right:
        app([*arguments, *(["--resume"] if begun else [])])
    assert right.value.code == 0
    assert RUN.settings.is_file()
    assert _temporaries() == []


class _Untrained:
    """Stands in for a trainer where only the folder matters."""

    def __init__(self, job: Any, observer: Any) -> None:
        self.job = job

    def train(self) -> None:
        pass


class _Held(_Untrained):
    """Trains until the file ``go`` is there."""

    def train(self) -> None:
        deadline = time.monotonic() + 60
        while not Path("go").exists() and time.monotonic() < deadline:
            time.sleep(0.005)


def test_t15_of_two_starts_in_one_folder_one_runs_and_the_other_is_code_6(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scarce_cli.engine.trainer.Trainer", _Held)
    for number in range(20):
        arguments = [*_arguments(dataset), "--out", f"runs/{number}"]
        pids = {Child(arguments).pid, Child(arguments).pid}
        first, status = os.waitpid(-1, 0)
        assert os.waitstatus_to_exitcode(status) == 6, Path("err.txt").read_text()
        Path("go").touch()
        (winner,) = pids - {first}
        assert os.waitstatus_to_exitcode(os.waitpid(winner, 0)[1]) == 0
        assert RunFolder(Path(f"runs/{number}")).settings.is_file()
        Path("go").unlink()


def test_t19_a_read_only_folder_is_code_8_before_anything_is_loaded(dataset: Path) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no mounts of one's own here")
    Path("disk").mkdir()
    command = " ".join([sys.executable, "-X", "importtime", "-m", "scarce_cli", *_arguments(dataset)])
    new, old = "disk/runs/new", "disk/runs/old"
    script = f"mount -t tmpfs none disk && mkdir -p {old} && touch {old}/settings.yaml && mount -o remount,ro disk"
    script += f" && {{ {command} --out {new}; echo new $?; {command} --out {old} --resume; echo old $?; }}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.split() == ["new", "8", "old", "8"], done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (
        f"scarce: cannot write in {Path('disk/runs').absolute()}" in said or "scarce: cannot write in disk/runs" in said
    )
    assert f"scarce: cannot write {old}" in "\n".join(said)
    assert sum(line.startswith("What to do: check the permissions") for line in said) == 2
    assert not [line for line in done.stderr.splitlines() if line.endswith("| torch")]


class _Evil:
    """Pickled, this touches a file when it is unpickled without care."""

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {Path.cwd() / 'marker'}",))


def test_v1_a_run_is_not_resumed_from_a_checkpoint_that_holds_code(
    scarce: Callable, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = _arguments(dataset, "run.batch_size=48", "run.checkpoint_steps=1")
    assert scarce(*arguments).code == 0
    payload = checkpoint.load(RUN.last)[0]
    torch.save({**payload, "state": _Evil()}, RUN.last)
    files.write_digests(RUN.last, [files.sha256(RUN.last)])
    before = RUN.last.read_bytes()
    result = scarce(*arguments, "--resume")
    assert result.code == 4, result.err
    assert f"{RUN.last} holds more than tensors and plain values" in " ".join(result.err.split())
    assert "What to do: " in result.err
    assert not Path("marker").exists()
    assert RUN.last.read_bytes() == before
