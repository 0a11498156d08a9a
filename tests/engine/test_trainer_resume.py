"""A run that is stopped and goes on is the same run, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scarce_cli import checkpoint
from scarce_cli.data.build import build_from_images
from scarce_cli.data.cache import open_cache
from scarce_cli.engine.job import Job
from scarce_cli.engine.trainer import Trainer
from scarce_cli.errors import DamagedData
from scarce_cli.methods import TABLE
from scarce_cli.runs import RunFolder


@pytest.mark.parametrize(
    ("epochs", "batch"), [(1, 12), (2, 24)], ids=["stopped in mid-epoch", "stopped at an epoch's end"]
)
def test_four_steps_are_two_and_a_stop_and_two_bit_for_bit(
    epochs: int, batch: int, train: Any, stop: Any, saved: Any, lines: Any, same: Any
) -> None:
    """With SparK and the whole ResNet-18: weights, optimizer, progress and the log."""
    overrides = (f"run.epochs={epochs}", f"run.batch_size={batch}", "schedule.warmup_epochs=0.5")
    whole = train(*overrides, method="spark", out="runs/whole")
    stop(2, *overrides, method="spark", out="runs/parts")
    assert saved("runs/parts")["origin"]["step"] == 2
    parts = train(*overrides, method="spark", out="runs/parts", resume=True)
    assert parts.listener.heard[0] == ("started", (4, 2, whole.listener.all("started")[0][2]))
    assert same(saved("runs/whole"), saved(parts.run.path))
    assert lines("runs/whole") == lines(parts.run.path)
    assert [line["step"] for line in lines("runs/whole") if line["kind"] == "step"] == [1, 2, 3, 4]
    names = [path.name for path in whole.run.snapshots()]
    assert [path.name for path in parts.run.snapshots()] == names
    for name in names:
        a, b = (checkpoint.load(run.path / "encoders" / name)[0] for run in (whole.run, parts.run))
        assert same(a, b)


CASES = {name: (name, ()) for name in TABLE} | {
    "sparse spark": ("spark", ("data.size=64", "method.masking=sparse", "method.patch=32", "method.decoder_width=32"))
}
MOVED = {  # what a method keeps beside trained weights, and what an optimizer does not see
    "spark": (),
    "moco": ("key_encoder.conv1.weight", "key_encoder.bn1.running_mean", "queue_DK", "queue_pointer"),
    "barlow": (),
    "dino": ("teacher.conv1.weight", "teacher.bn1.running_mean", "centre_K"),
}


def _global_states() -> list[Any]:
    devices = range(torch.cuda.device_count())
    numpys = np.random.get_state(legacy=False)
    return [random.getstate(), str(numpys), torch.get_rng_state(), [torch.cuda.get_rng_state(n) for n in devices]]


@pytest.mark.parametrize("case", CASES)
def test_every_method_goes_on_bit_for_bit(case: str, stop: Any, saved: Any, lines: Any, same: Any) -> None:
    """Three steps with a stop after each of them: encoder, teacher or key encoder, queue, centre and optimizer.

    Nothing is drawn from a generator of the whole process, so there is no state of one that could be lost.
    """
    method, more = CASES[case]
    overrides = ("run.epochs=1", "run.batch_size=4", "schedule.warmup_epochs=0.5", *more)
    before = _global_states()
    stop(3, *overrides, method=method, out="runs/whole")
    assert same(before, _global_states())
    stop(1, *overrides, method=method, out="runs/parts")
    early = saved("runs/parts")
    for step in (2, 3):
        stop(step, *overrides, method=method, out="runs/parts", resume=True)
    whole, parts = saved("runs/whole"), saved("runs/parts")
    assert (early["origin"]["step"], parts["origin"]["step"]) == (1, 3)
    assert same(whole, parts)
    assert lines("runs/whole") == lines("runs/parts")
    for name in ("encoder.conv1.weight", "encoder.layer4.1.bn2.running_var", *MOVED[method]):
        assert not same(early["state"]["method"][name], whole["state"]["method"][name]), name
    assert whole["state"]["optimizer"]["state"]


@pytest.mark.skipif("SCARCE_LONG" not in os.environ, reason="four minutes: set SCARCE_LONG=1")
@pytest.mark.parametrize("at", range(1, 13))
@pytest.mark.parametrize("method", TABLE)
def test_every_method_stopped_after_any_of_twelve_steps(
    method: str, at: int, train: Any, stop: Any, saved: Any, lines: Any, same: Any
) -> None:
    overrides = ("run.epochs=1", "run.batch_size=4", "schedule.warmup_epochs=0.5")
    if method not in _WHOLE:
        train(*overrides, method=method, out="runs/whole")
        _WHOLE[method] = saved("runs/whole"), lines("runs/whole")
    stop(at, *overrides, method=method, out="runs/parts")
    assert saved("runs/parts")["origin"]["step"] == at
    train(*overrides, method=method, out="runs/parts", resume=True)
    assert same(_WHOLE[method], (saved("runs/parts"), lines("runs/parts")))


_WHOLE: dict[str, tuple[Any, Any]] = {}  # method -> what a run ends with that is never stopped


@pytest.mark.parametrize(
    ("optimizer", "stops"), [("adamw", range(1, 13)), ("sgd", (4, 6)), ("lars", (5,)), ("lamb", (5,))]
)
def test_a_run_stopped_again_and_again_is_the_same_run(
    optimizer: str, stops: Iterable[int], train: Any, stop: Any, saved: Any, lines: Any, same: Any
) -> None:
    """In mid-epoch, at the end of an epoch and of the run, each optimizer with what it remembers."""
    overrides = (f"optimizer.name={optimizer}", "optimizer.clip_norm=0.1", "run.log_steps=2")
    overrides += ("optimizer.final_weight_decay=0.2",)
    train(*overrides, out="runs/whole")
    for step in stops:
        assert stop(step, *overrides, out="runs/parts", resume=Path("runs/parts").exists()).exit_code == 143
        assert saved("runs/parts")["origin"]["step"] == step
    train(*overrides, out="runs/parts", resume=True)
    assert same(saved("runs/whole"), saved("runs/parts"))
    assert lines("runs/whole") == lines("runs/parts")


def test_a_killed_run_goes_on_from_its_last_checkpoint_and_replays_the_rest(
    train: Any, toy: Any, saved: Any, lines: Any, same: Any
) -> None:
    train("run.checkpoint_steps=4", out="runs/whole")

    def die(step: int) -> None:
        if step == 7:
            raise KeyboardInterrupt  # not by a signal: nothing is saved, as when the process is killed

    toy.hook = staticmethod(die)
    with pytest.raises(KeyboardInterrupt):
        train("run.checkpoint_steps=4", out="runs/parts")
    toy.hook = staticmethod(lambda step: None)
    assert lines("runs/parts")[-1]["step"] == 7
    parts = train("run.checkpoint_steps=4", out="runs/parts", resume=True)
    assert parts.listener.all("started")[0][1] == 4
    assert same(saved("runs/whole"), saved(parts.run.path))
    assert lines("runs/whole") == lines(parts.run.path)


def test_fp16_goes_through_the_loss_scaler_and_resumes_with_it(stop: Any, train: Any, saved: Any, same: Any) -> None:
    """Few films and steps: without hardware for it, fp16 on the CPU is a hundred times slower."""
    overrides = ("run.epochs=1", "run.batch_size=2")
    stop(4, *overrides, out="runs/plain")
    stop(4, *overrides, "run.precision=fp16", out="runs/whole")
    stop(2, *overrides, "run.precision=fp16", out="runs/parts")
    stop(4, *overrides, "run.precision=fp16", out="runs/parts", resume=True)
    whole = saved("runs/whole")
    assert same(whole, saved("runs/parts"))
    assert whole["state"]["scaler"]["scale"] in (2.0**n for n in range(10, 17))
    assert whole["state"]["bad_steps"] == 0
    weights, plain = whole["state"]["method"]["head.weight"], saved("runs/plain")["state"]["method"]["head.weight"]
    assert weights.dtype == torch.float32
    assert not torch.equal(weights, plain)
    torch.testing.assert_close(weights, plain, rtol=0, atol=5e-3)


def test_a_run_that_is_done_resumes_to_nothing(train: Any, lines: Any) -> None:
    done = train("run.checkpoint_steps=6")
    files = {path: path.stat().st_mtime_ns for path in done.run.path.rglob("*.pt*")}
    again = train("run.checkpoint_steps=6", resume=True)
    assert again.listener.all("started")[0][:2] == (12, 12)
    assert again.listener.all("stepped") == []
    assert {path: path.stat().st_mtime_ns for path in done.run.path.rglob("*.pt*")} == files
    assert lines()[-1]["step"] == 12


def _flip(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]


DAMAGE = {"flipped": _flip, "cut": lambda data: data[:-1], "empty": lambda data: b""}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_last_checkpoint_gives_way_to_the_previous_one(kind: str, train: Any, saved: Any, same: Any) -> None:
    parts = train("run.checkpoint_steps=5")
    whole, data = saved(parts.run.path), DAMAGE[kind](parts.run.last.read_bytes())
    parts.run.last.write_bytes(data)
    again = train("run.checkpoint_steps=5", resume=True)
    (warning,) = again.listener.all("warned")
    assert "runs/a/last.pt is damaged" in warning
    assert "set aside as last.pt.damaged, going on from previous.pt" in warning
    assert "\n" not in warning
    assert again.run.last.with_name("last.pt.damaged").read_bytes() == data
    assert again.listener.all("started")[0][1] == 10
    assert same(whole, saved(again.run.path))


def test_two_damaged_checkpoints_are_code_5_and_stay(train: Any) -> None:
    run = train("run.checkpoint_steps=5").run
    for path, kind in ((run.last, "flipped"), (run.previous, "empty")):
        path.write_bytes(DAMAGE[kind](path.read_bytes()))
    files = {path: path.read_bytes() for path in run.path.glob("*.pt*")}
    with pytest.raises(DamagedData, match=r"runs/a/last\.pt is damaged.*; runs/a/previous\.pt is damaged") as error:
        train("run.checkpoint_steps=5", resume=True)
    assert error.value.exit_code == 5
    newest = run.snapshots()[-1]
    assert newest.name == "epoch-0002.pt"
    assert f"--init {newest} --out ANOTHER" in error.value.remedy
    assert {path: path.read_bytes() for path in run.path.glob("*.pt*")} == files
    shutil.rmtree(run.path / "encoders")
    with pytest.raises(DamagedData) as error:
        train("run.checkpoint_steps=5", resume=True)
    assert "--init" not in error.value.remedy
    assert "--out ANOTHER" in error.value.remedy


@pytest.mark.parametrize("left", ["last", "previous"])
def test_a_damaged_checkpoint_without_the_other_names_itself_and_a_way_on(left: str, train: Any) -> None:
    run = train("run.checkpoint_steps=5").run
    damaged, gone = (run.last, run.previous) if left == "last" else (run.previous, run.last)
    gone.unlink()
    damaged.write_bytes(_flip(damaged.read_bytes()))
    with pytest.raises(DamagedData, match=f"{left}\\.pt is damaged") as error:
        train("run.checkpoint_steps=5", resume=True)
    assert gone.name not in error.value.message
    assert f"--init {run.snapshots()[-1]} --out ANOTHER" in error.value.remedy
    assert damaged.exists()


@pytest.mark.parametrize("ages", [(10**9, 2 * 10**9), (4 * 10**9, 0)], ids=["clock went back", "clock went ahead"])
def test_the_newest_is_the_one_of_that_name_whatever_the_clock_and_the_host_say(
    ages: tuple[int, int], train: Any, stop: Any, saved: Any, same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a jump of the clock, or in a virtual machine that goes on under another name."""
    whole = train(out="runs/whole")
    stop(7, "run.checkpoint_steps=5")
    run = RunFolder(Path("runs/a"))
    (run.path / ".lock").write_text("process 1 on the-host-before")
    for path in run.path.rglob("*"):
        os.utime(path, (ages[path == run.last],) * 2)
    monkeypatch.setattr(socket, "gethostname", lambda: "another-host")
    with run.lock():
        again = train(resume=True)
    assert again.listener.all("started")[0][1] == 7
    assert again.listener.all("warned") == []
    assert same(whole.weights, again.weights)


def test_a_cache_cut_in_mid_run_is_code_5_and_the_run_goes_on_when_it_is_rebuilt(
    train: Any, toy: Any, make_job: Any, listener: Any, dataset: Path, saved: Any, lines: Any, same: Any
) -> None:
    train("run.checkpoint_steps=2", out="runs/whole")
    films = Path(shutil.copytree(dataset, "films"))

    def job(**more: Any) -> Job:
        made = make_job("run.checkpoint_steps=2", **more)
        return replace(made, identity=replace(made.identity, cache=open_cache(films)))

    toy.hook = staticmethod(lambda step: os.truncate(films / "cache.npy", 200) if step == 7 else None)
    with pytest.raises(DamagedData, match=r"the cache films/cache\.npy changed while it was read: 200 bytes") as error:
        Trainer(job(), listener).train()
    assert error.value.exit_code == 5
    assert "checkpoint" not in error.value.message  # whoever reads films does not know of one
    assert (
        f"scarce cache {films} --rebuild; then the same command again; a training run goes on with --resume"
        in error.value.remedy
    )
    assert listener.heard[-1] == ("ended", None)
    assert saved()["origin"]["step"] in (6, 8)
    toy.hook = staticmethod(lambda step: None)
    with pytest.raises(DamagedData, match="has 200 bytes where"):
        job(resume=True)
    build_from_images(films, workers=1)
    Trainer(job(resume=True), listener).train()
    ended, whole = saved(), saved("runs/whole")
    assert ended["origin"].pop("data") != whole["origin"].pop("data")  # the folder
    assert same(whole, ended)
    assert lines("runs/whole") == lines()


def test_a_run_set_aside_and_stopped_at_once_still_goes_on(train: Any, stop: Any, saved: Any, same: Any) -> None:
    """Killed after the damaged checkpoint was set aside and before the next save: there is no last.pt."""
    train("run.checkpoint_steps=5", out="runs/whole")
    stop(7, "run.checkpoint_steps=5")
    Path("runs/a/last.pt").unlink()
    again = train("run.checkpoint_steps=5", resume=True)
    (warning,) = again.listener.all("warned")
    assert warning == "runs/a/last.pt is missing: going on from previous.pt"
    assert again.listener.all("started")[0][1] == 5
    assert same(saved("runs/whole"), saved())


def test_a_run_without_any_checkpoint_starts_from_the_beginning(train: Any, saved: Any, same: Any) -> None:
    train(out="runs/whole")
    again = train(resume=True)
    assert again.listener.all("warned") == ["the run has no checkpoint yet: it starts from the beginning"]
    assert same(saved("runs/whole"), saved())
