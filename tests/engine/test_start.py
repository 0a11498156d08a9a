"""How a run starts: from the seed, or from a file of weights that a later resume holds it to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scarce_cli import checkpoint
from scarce_cli.data.manifest import pixel_keys, read_manifest
from scarce_cli.engine.start import build_state
from scarce_cli.errors import UsageError
from scarce_cli.evaluation.features import random_encoder
from scarce_cli.files import sha256
from scarce_cli.methods import TABLE, method_class
from scarce_cli.models.resnet import build_encoder

SMALL: dict[str, dict[str, Any]] = {
    "spark": {"masking": "input", "patch": 8, "decoder_width": 16},
    "moco": {"queue": 64, "bn_splits": 2},
    "barlow": {"projector": (16,)},
    "dino": {"outputs": 64, "hidden": 32, "local_crops": 0},
}


@pytest.mark.parametrize("method", TABLE)
def test_whatever_the_method_the_encoder_that_is_evaluated_starts_as_the_file(
    method: str, make_job: Callable, weights: Path
) -> None:
    """A teacher too: it is a copy made after the weights are loaded."""
    job = make_job(f"model.init={weights}")
    kind = method_class(method)
    encoder = build_encoder("resnet18", seed=0)
    assert not torch.equal(encoder.layer1[0].conv1.weight, torch.load(weights)["layer1.0.conv1.weight"])
    settings = kind.settings_type.model_validate(SMALL[method])
    state = build_state(replace(job, method_class=kind, method_settings=settings))
    for built in (state.method.encoder, state.method.evaluation_encoder()):
        found = built.state_dict()
        for name, value in torch.load(weights).items():
            if name == "conv1.weight":
                value = value.sum(dim=1, keepdim=True)  # noqa: PLW2901
            if not name.startswith("fc."):
                torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)
    assert state.init_digest == sha256(weights)


def test_a_run_records_the_files_digest_and_holds_a_resume_to_it(
    weights: Path, train: Callable, stop: Callable, saved: Callable, same: Any
) -> None:
    init = f"model.init={weights.absolute()}"
    whole = train(init, out="runs/whole")
    assert not same(whole.weights, train(out="runs/random").weights)
    stop(5, init)
    assert saved()["origin"]["init_digest"] == sha256(weights)
    assert saved()["origin"]["settings"]["model"]["init"] == str(weights.absolute())
    stop(8, init, resume=True)
    with pytest.raises(UsageError, match=r"model\.init: .*weights\.pth -> "):
        train(resume=True)
    kept = weights.read_bytes()
    torch.save({name: value + 1 for name, value in torch.load(weights).items()}, weights)
    old, new = (saved()["origin"]["init_digest"], sha256(weights))
    with pytest.raises(UsageError) as error:
        train(init, resume=True)
    assert f"SHA-256 of {weights.absolute()}: {old[:12]}… -> {new[:12]}…" in error.value.message
    weights.unlink()
    gone = train(init, resume=True)  # what it needs is in its checkpoint
    assert same(whole.weights, gone.weights)
    assert saved()["origin"]["init_digest"] == old
    weights.write_bytes(kept)
    assert same(saved("runs/whole"), saved())


def test_without_a_checkpoint_to_go_on_from_the_file_must_be_there(train: Callable) -> None:
    with pytest.raises(UsageError, match=r"the weights none\.pth do not exist"):
        train("model.init=none.pth", resume=True)


def test_a_checkpoint_can_be_started_from_and_the_random_start_stays_the_seeds(
    train: Callable, make_job: Callable
) -> None:
    """What the probe compares with is what the seed would have drawn, also for a run that started elsewhere."""
    first = train("run.epochs=1", "run.batch_size=24", method="spark", out="runs/first")
    path = first.run.last
    second = train(f"model.init={path}", "run.seed=3", "run.epochs=1", "run.batch_size=24", method="spark")
    begun = build_state(make_job(f"model.init={path}", method="spark")).method.encoder.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in checkpoint.load_encoder(path).state.items())
    end = checkpoint.load_encoder(second.run.last)
    random = random_encoder(end).state_dict()
    assert all(
        torch.equal(random[name], value) for name, value in build_encoder("resnet18", seed=3).state_dict().items()
    )
    with pytest.raises(UsageError, match="holds no weights of a resnet50"):
        build_state(make_job(f"model.init={path}", "model.backbone=resnet50"))


def test_zero_init_residual_is_what_training_starts_from_and_not_the_baseline(
    train: Callable, make_job: Callable
) -> None:
    overrides = ("model.zero_init_residual=true", "run.epochs=1", "run.batch_size=24")
    begun = build_state(make_job(*overrides, method="spark")).method.encoder.state_dict()
    assert float(begun["layer1.0.bn2.weight"].abs().sum()) == 0
    end = checkpoint.load_encoder(train(*overrides, method="spark").run.last)
    assert float(end.state["layer1.0.bn2.weight"].abs().sum()) > 0
    plain = build_encoder("resnet18", seed=0).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in random_encoder(end).state_dict().items())


def test_a_run_knows_the_films_it_is_trained_on_and_those_before(dataset: Path, make_job: Callable) -> None:
    """By the key of their pixels; a run that starts from a checkpoint adds what that one had seen."""
    own = pixel_keys(row.pixel_hash for row in read_manifest(dataset))
    state = build_state(make_job())
    assert (len(own), state.trained_on.tolist()) == (48, own.tolist())
    before = torch.tensor([-5, int(own[0])])
    origin = {"method": "spark", "epoch": 1, "seed": 0, "data": {}, "trained_on": before}
    encoder = build_encoder("resnet18", seed=0).state_dict()
    checkpoint.save(Path("b.pt"), encoder=encoder, info=checkpoint.EncoderInfo("resnet18", 32, 0.5, 0.2), origin=origin)
    second = build_state(make_job(f"model.init={Path('b.pt').absolute()}"))
    assert second.trained_on.tolist() == sorted({-5, *own.tolist()})


def test_a_checkpoint_says_what_it_was_trained_on(train: Callable, saved: Callable, dataset: Path) -> None:
    train()
    assert len(saved()["origin"]["trained_on"]) == 48
    found = checkpoint.load_encoder(Path("runs/a/last.pt")).trained_on
    assert found is not None
    assert found.tolist() == pixel_keys(row.pixel_hash for row in read_manifest(dataset)).tolist()
