"""What a checkpoint holds to go on with, and what may differ when it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scarce_cli import checkpoint
from scarce_cli.checkpoint import EncoderInfo, load_encoder
from scarce_cli.engine.start import build_state
from scarce_cli.engine.state import load_method, restore_newest
from scarce_cli.engine.trainer import Trainer
from scarce_cli.errors import UsageError
from scarce_cli.models.resnet import build_encoder
from scarce_cli.runs import RunFolder


def test_a_checkpoint_says_what_the_run_was(train: Callable, saved: Callable) -> None:
    trained = train("run.seed=7", "data.mean=0.4", "data.std=0.2")
    cache = trained.trainer.job.cache
    found = saved()
    assert EncoderInfo(**found["info"]) == EncoderInfo("resnet18", 32, 0.4, 0.2)
    origin = found["origin"]
    assert (origin["method"], origin["preset"], origin["step"], origin["epoch"], origin["seed"]) == (
        "toy", "smoke", 12, 2, 7,
    )  # fmt: skip
    assert origin["data"] == {"folder": str(cache.folder.resolve()), "digest": cache.digest, "films": 48}
    assert origin["settings"] == trained.trainer.job.config.model_dump(mode="json")
    assert origin["settings"]["method"] == {"width": 4}
    snapshots = [load_encoder(path) for path in trained.run.snapshots()]
    assert [(s.epoch, s.seed, s.method) for s in snapshots] == [(1, 7, "toy"), (2, 7, "toy")]
    last = load_encoder(trained.run.last)
    assert all(torch.equal(snapshots[1].state[name], tensor) for name, tensor in last.state.items())
    assert checkpoint.load(trained.run.snapshot(1))[0]["state"] is None


def test_the_first_weights_are_those_of_the_seed(make_job: Callable) -> None:
    """So that an evaluation can build the random initialisation that a run started from."""
    torch.manual_seed(99)
    state = build_state(make_job("run.seed=3"))
    encoder = build_encoder("resnet18", seed=3)
    for name, weights in state.method.encoder.state_dict().items():
        assert torch.equal(weights, encoder.state_dict()[name]), name
    again = build_state(make_job("run.seed=3"))
    assert all(torch.equal(a, b) for a, b in zip(state.method.parameters(), again.method.parameters(), strict=True))


def test_a_run_older_than_a_setting_goes_on_with_its_default(train: Callable, stop: Callable) -> None:
    """What a later version added was done by its default before; any other value is another run."""
    stop(2)
    payload = checkpoint.load(Path("runs/a/last.pt"))[0]
    del payload["origin"]["settings"]["model"]["zero_init_residual"]
    del payload["origin"]["settings"]["method"]["width"]
    del payload["state"]["rescaled_steps"]
    keys = ("encoder", "origin", "state")
    info = checkpoint.EncoderInfo(**payload["info"])
    checkpoint.save(Path("runs/a/last.pt"), info=info, **{key: payload[key] for key in keys})
    with pytest.raises(UsageError, match=r"model\.zero_init_residual: False -> True"):
        train("model.zero_init_residual=true", resume=True)
    assert train(resume=True).trainer.state.step == 12


CHANGES = [
    (("optimizer.lr=0.5",), "optimizer.lr: 0.001 -> 0.5"),
    (("run.epochs=3", "run.seed=4"), "run.epochs: 2 -> 3; run.seed: 0 -> 4"),
    (("augment.crop_scale=[0.2, 0.9]",), "augment.crop_scale: [0.5, 1.0] -> [0.2, 0.9]"),
    (("run.precision=bf16",), "run.precision: fp32 -> bf16"),
]


@pytest.mark.parametrize(("overrides", "message"), CHANGES, ids=[c[0][0] for c in CHANGES])
def test_other_settings_on_resume_are_code_2_and_named(
    overrides: tuple[str, ...], message: str, train: Callable
) -> None:
    train()
    before = Path("runs/a/last.pt").read_bytes()
    with pytest.raises(UsageError) as error:
        train(*overrides, resume=True)
    assert error.value.message == f"runs/a/last.pt was trained with other settings: {message}"
    assert "--out" in error.value.remedy
    assert Path("runs/a/last.pt").read_bytes() == before


def test_where_and_how_often_may_differ_on_resume(train: Callable, stop: Callable, saved: Callable, same: Any) -> None:
    whole = train(out="runs/whole")
    stop(5)
    free = ("run.checkpoint_steps=3", "run.log_steps=4", "run.snapshot_epochs=2", "run.gpu_memory=5.0")
    parts = train(*free, "run.checkpoint_minutes=3.0", resume=True)
    assert same(whole.weights, parts.weights)
    assert saved()["origin"]["settings"]["run"]["log_steps"] == 4


def test_other_films_or_another_method_are_code_2(train: Callable, make_job: Callable, listener: Any) -> None:
    train()
    job = make_job(resume=True)
    other = replace(job.cache, digest="0" * 64, folder=Path("elsewhere"))
    for identity, message in (
        (replace(job.identity, cache=other), f"films of {job.cache.folder.resolve()} -> films of "),
        (replace(job.identity, method="another"), "method: toy -> another"),
    ):
        with pytest.raises(UsageError, match=message):
            Trainer(replace(job, identity=identity), listener).train()
    moved = replace(job.cache, folder=Path("elsewhere"))  # the same films at another place are the same
    Trainer(replace(job, identity=replace(job.identity, cache=moved)), listener).train()


def test_another_machine_is_a_warning(
    train: Callable, stop: Callable, saved: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(5)
    machine = saved()["state"]["machine"]
    threads = str(torch.get_num_threads())
    assert machine == {"device": "cpu", "threads": threads, "torch": torch.__version__, "processes": "1"}
    monkeypatch.setattr(torch, "get_num_threads", lambda: int(threads) + 1)
    again = train(resume=True)
    (warning,) = again.listener.all("warned")
    assert warning == f"the resumed run is not bit-identical: threads: {threads} -> {int(threads) + 1}"


def test_an_encoder_alone_cannot_go_on(train: Callable, make_job: Callable) -> None:
    run: RunFolder = train().run
    run.snapshot(1).replace(run.last)
    checkpoint.digest_path(run.snapshot(1)).replace(checkpoint.digest_path(run.last))
    job = make_job(resume=True)
    with pytest.raises(UsageError, match=r"runs/a/last\.pt holds an encoder only"):
        restore_newest(job.run, job.identity, build_state(job))
    with pytest.raises(UsageError, match="holds an encoder only"):
        load_method(run.last)


def test_weights_that_do_not_fit_are_code_2(train: Callable, make_job: Callable, toy: Any) -> None:
    """As when the code of a method has changed since."""
    train()
    job = make_job(resume=True)
    state = build_state(job)
    state.method.head = nn.Linear(64, 5)
    with pytest.raises(UsageError, match=r"runs/a/last\.pt: the weights do not fit: head\.weight, head\.bias\n"):
        restore_newest(job.run, job.identity, state)


def test_a_method_is_rebuilt_from_a_checkpoint(train: Callable) -> None:
    trained = train("run.epochs=1", "run.batch_size=24", "method.mask_ratio=0.5", method="spark")
    method, info, origin = load_method(trained.run.last)
    assert not method.training
    assert method.settings == trained.trainer.job.method_settings
    assert (info.backbone, info.size, origin["step"]) == ("resnet18", 32, 2)
    now = method.state_dict()
    assert now.keys() == trained.weights.keys()
    assert all(torch.equal(now[name], weights) for name, weights in trained.weights.items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("optimizer.name=sgd",), "the moments of the optimizer begin anew"),
        (("optimizer.betas=[0.5, 0.9]",), "optimizer.betas: [0.9, 0.999] -> [0.5, 0.9]"),
        (("run.precision=bf16",), "run.precision: fp32 -> bf16"),
    ],
)
def test_override_goes_on_with_what_was_asked_for(
    changes: tuple[str, ...], said: str, stop: Callable, train: Callable
) -> None:
    stop(5)
    with pytest.raises(UsageError, match="--override"):
        train(*changes, resume=True)
    again = train(*changes, resume=True, override=True)
    (warning,) = again.listener.all("warned")
    assert warning.startswith("going on with other settings: ")
    assert said in warning
    group = again.trainer.state.optimizer.param_groups[0]
    wanted = again.trainer.job.config.optimizer
    assert group.get("betas", wanted.betas) == wanted.betas
    assert group.get("momentum", wanted.momentum) == wanted.momentum
    assert again.trainer.state.step == 12
