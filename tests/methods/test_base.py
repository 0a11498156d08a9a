"""What any method gives beside its loss: what its scalars read when films are alike, and cures that a recipe takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
import torch
from torchvision.models.resnet import BasicBlock

from scarce_cli.config import AugmentSettings, RunConfig
from scarce_cli.data.augment import View
from scarce_cli.methods import TABLE, method_class
from scarce_cli.methods.base import Method, Progress, StepOutput, at_least, at_most
from scarce_cli.methods.settings import SparKSettings
from scarce_cli.methods.spark import SparK
from scarce_cli.models import resnet
from scarce_cli.models.resnet import build_encoder
from scarce_cli.presets import load_preset, preset_names, validate
from scarce_cli.vitals import Change, Cure, Failure, changes

Cures = Mapping[Failure, Sequence[Cure]]

RECIPES = [(name, preset) for name in TABLE for preset in preset_names(name)]
VARIANTS = {
    "spark": ("method.masking=input",),
    "sparse spark": ("method.masking=sparse", "method.patch=32", "method.decoder_width=32"),
    "moco": (),
    "moco, raw variance": ("method.variance_weight=0.5", "method.variance_on=raw"),
    "moco, variance": ("method.variance_weight=2.0", "method.temperature=0.07"),
    "barlow": ("method.lambd=0.0",),
    "barlow, published": ("method.standardise=published",),
    "dino": (),
    "dino, sinkhorn, koleo": ("method.centring=sinkhorn", "method.koleo_weight=0.1"),
}


def made(variant: str) -> Method:
    """A method by its smoke preset with changes, in float64."""
    name = variant.split(",", maxsplit=1)[0].rsplit(maxsplit=1)[-1]
    preset = load_preset("smoke", name, ("data.size=64", *VARIANTS[variant]))
    config, kind = validate(preset, RunConfig), method_class(name)
    torch.manual_seed(1)
    settings = validate(preset, kind.settings_type, ("method",))
    with patch.dict(resnet._LAYOUT, {"resnet18": (BasicBlock, [1, 1, 1, 1])}):
        encoder = build_encoder("resnet18", seed=0)
    return kind.build(encoder, settings, config.data.size).double().train()


@torch.no_grad()
def said(method: Method) -> dict[str, float]:
    """What one step on films of noise says, loss included; views of one size have most in common."""
    generator, views = torch.Generator().manual_seed(0), []
    for spec in method.view_specs(64, AugmentSettings(blur_probability=0.0)):
        shape, film = (4, 1, spec.size, spec.size), torch.Generator().manual_seed(1)
        image = 100 * torch.randn(shape, generator=film, dtype=torch.float64)
        views.append(View(image + 30 * torch.randn(shape, generator=generator, dtype=torch.float64), image))
    output: StepOutput = method(views, Progress(0, 10, 5), generator)
    return {"loss": float(output.loss)} | {name: float(value) for name, value in output.scalars.items()}


@torch.no_grad()
def forget(method: Method) -> Method:
    """Every weight to nought, so that all films are alike; directions, which have no length, are left."""
    for name, parameter in method.named_parameters():
        if not name.endswith("weight_v"):
            parameter.zero_()
    return method


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_that_tells_nothing_apart_reads_what_is_expected(variant: str) -> None:
    method = made(variant)
    expected, learned = method.expectations(), said(method)
    assert expected.blind.keys() <= learned.keys()
    found = said(forget(method))
    for name, value in expected.blind.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
        assert learned[name] != pytest.approx(value, rel=1e-6, abs=1e-6) or name == "infonce_accuracy", name

    assert expected.spreads == (not isinstance(method, SparK))
    assert expected.blind


# Cures ------------------------------------------------------------------------------------------------------


class Other(Method):
    """Says nothing of itself but how it is cured."""

    settings_type = SparKSettings
    cures: ClassVar[Cures] = {
        Failure.COMPLETE: (Cure("run.seed", 1, "luck"), Cure("optimizer.decay_all", True, "it wants that"))
    }


def settings_of(name: str, preset: str, options: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe's settings as a run keeps them (defaults but for the method's), and with the method's."""
    loaded = load_preset(preset, name, options)
    plain = validate(loaded, RunConfig).model_dump(mode="json")
    own = validate(loaded, method_class(name).settings_type, ("method",)).model_dump(mode="json")
    return plain, {**plain, "method": own}


def wanted(name: str, failure: Failure, preset: str, *options: str) -> list[Change]:
    plain, whole = settings_of(name, preset, options)
    return changes(method_class(name).cures_for(failure, plain), whole)


@pytest.mark.parametrize(("name", "preset"), RECIPES)
def test_a_recipe_takes_all_cures_of_a_failure_together_and_then_needs_no_more(name: str, preset: str) -> None:
    """So no cure names a setting that is gone, a value out of range, or two that do not go together."""
    for failure in Failure:
        found = wanted(name, failure, preset)
        options = [change.option.removeprefix("--set ") for change in found]
        left = wanted(name, failure, preset, *options)
        relative = failure in (Failure.DIVERGED, Failure.COMPLETE)
        rates = {"optimizer.lr", "optimizer.lr_1d", "run.precision"} if relative else set()
        assert {change.cure.key for change in left} <= rates, (failure, left)
        assert len({change.cure.key for change in found}) == len(found)


@pytest.mark.parametrize("name", TABLE)
def test_every_cure_is_reached_and_none_is_a_setting_of_another_method(name: str) -> None:
    """Without settings all are given, each for a key that exists; a recipe that knows nothing needs them all."""
    _, whole = settings_of(name, "smoke")
    kind = method_class(name)
    for failure in Failure:
        for cure in kind.cures_for(failure):
            section, _, key = cure.key.partition(".")
            assert key in whole[section], cure.key
            assert cure.why
            assert cure.why == cure.why.strip(". ")
    assert kind.cures_for(Failure.DIVERGED)
    assert kind.cures_for(Failure.NOT_LEARNING)


def test_own_cures_come_first_and_win() -> None:
    found = [(cure.key, cure.to) for cure in Other.cures_for(Failure.COMPLETE)]
    assert found[:2] == [("run.seed", 1), ("optimizer.decay_all", True)]
    assert [key for key, _ in found[2:]] == ["optimizer.weight_decay"]
    assert Other.cures_for(Failure.LEAKAGE) == []


@pytest.mark.parametrize(
    ("cure", "needed", "fine"),
    [
        (at_least("a.b", 2, "w"), [1, 1.9], [2, 2.0, 3]),
        (at_most("a.b", 0.5, "w"), [0.6], [0.5, 0, 0.1]),
        (at_least("a.b", [0.5, 1.0], "w"), [[0.4, 1.0], [0.08, 0.9]], [[0.5, 1.0], [0.6, 0.7]]),
        (Cure("a.b", [0.5, 1.0], "w"), [[0.5, 0.9], [1.0, 0.5]], [[0.5, 1.0]]),
    ],
)
def test_a_cure_is_for_what_is_worse(cure: Cure, needed: list[Any], fine: list[Any]) -> None:
    class Cured(Other):
        cures: ClassVar[Cures] = {Failure.LEAKAGE: (cure,)}

    plain = Cure(cure.key, cure.to, cure.why)
    assert all(Cured.cures_for(Failure.LEAKAGE, {"a": {"b": value}}) == [plain] for value in needed)
    assert all(Cured.cures_for(Failure.LEAKAGE, {"a": {"b": value}}) == [] for value in fine)


# (method, failure, recipe and what is wrong with it) -> the first changes wanted.
SICK: list[tuple[str, Failure, tuple[str, ...], dict[str, Any]]] = [
    ("dino", Failure.UNIFORM_TEACHER, ("cpu-published",),
     {"method.centring": "sinkhorn", "method.head_batch_norm": True, "method.teacher_temperature": [0.05, 0.05]}),
    ("dino", Failure.ONE_HOT_TEACHER, ("l4-official", "method.centre_momentum=1.0"), {"method.centre_momentum": 0.9}),
    ("moco", Failure.LEAKAGE, ("cpu", "method.bn_splits=1", "method.shuffle_keys=false"),
     {"method.bn_splits": 8, "method.shuffle_keys": True}),
    ("moco", Failure.SHRINKING, ("l4-published",), {"method.variance_on": "normalised", "optimizer.decay_all": False}),
    ("barlow", Failure.DIMENSIONAL, ("cpu", "method.lambd=0.0"), {"method.lambd": 0.0051}),
    ("spark", Failure.NOT_LEARNING, ("cpu", "optimizer.lr=1.0e-30"), {"optimizer.lr": 1e-3}),
    ("spark", Failure.NOT_LEARNING, ("smoke", "optimizer.lr=1.0e-30"),
     {"optimizer.lr": 1e-3, "augment.jitter_probability": 0.0}),
    ("barlow", Failure.DIVERGED, ("l4", "run.precision=fp16"),
     {"optimizer.lr": 0.02, "optimizer.lr_1d": 4.8e-4, "run.precision": "bf16"}),
    ("spark", Failure.DIVERGED, ("cpu", "optimizer.clip_norm=1.0"), {"optimizer.lr": 1e-4}),
    ("barlow", Failure.COMPLETE, ("l4",), {"optimizer.lr": 0.02, "optimizer.lr_1d": 4.8e-4}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "failure", "recipe", "first"), SICK)
def test_what_is_wrong_is_named_first(
    name: str, failure: Failure, recipe: tuple[str, ...], first: dict[str, Any]
) -> None:
    preset, *options = recipe
    found = {change.cure.key: change.cure.to for change in wanted(name, failure, preset, *options)}
    assert list(found.items())[: len(first)] == list(first.items())


def test_a_default_of_the_method_counts_as_a_value_that_the_run_has() -> None:
    keys = {cure.key for cure in method_class("dino").cures_for(Failure.ONE_HOT_TEACHER, {"method": {}})}
    assert keys >= {"method.centring", "method.teacher_temperature"}
    assert "method.freeze_last_layer_epochs" not in keys


def test_fine_tuning_trains_the_stages_that_were_published() -> None:
    assert all(1 <= method_class(name).unfreeze_from <= 5 for name in TABLE)
    assert (Method.unfreeze_from, SparK.unfreeze_from) == (2, 3)
