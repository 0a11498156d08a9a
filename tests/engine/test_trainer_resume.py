"""A run that is stopped and goes on is the same run, bit for bit."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scarce_cli import checkpoint
from scarce_cli.errors import DamagedData
from scarce_cli.methods import TABLE


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


def test_a_damaged_last_checkpoint_gives_way_to_the_previous_one(train: Any, saved: Any, same: Any) -> None:
    train("run.checkpoint_steps=5", out="runs/whole")
    parts = train("run.checkpoint_steps=5")
    data = bytearray(parts.run.last.read_bytes())
    data[len(data) // 2] ^= 4
    parts.run.last.write_bytes(data)
    again = train("run.checkpoint_steps=5", resume=True)
    (warning,) = again.listener.all("warned")
    assert "runs/a/last.pt is damaged" in warning
    assert "set aside as last.pt.damaged, going on from previous.pt" in warning
    assert "\n" not in warning
    assert again.run.last.with_name("last.pt.damaged").read_bytes() == data
    assert again.listener.all("started")[0][1] == 10
    assert same(saved("runs/whole"), saved(again.run.path))
    for path in (again.run.last, again.run.previous):
        path.write_bytes(b"PK")
    with pytest.raises(DamagedData, match=r"runs/a/previous\.pt is damaged"):
        train("run.checkpoint_steps=5", resume=True)
    assert again.run.last.exists()


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
