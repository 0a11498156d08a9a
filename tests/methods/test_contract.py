"""The contract between methods and engine, run over every method that is built and over one made up here."""

from __future__ import annotations

import copy
import json
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scarce_cli.config import AugmentSettings, RunConfig, Settings
from scarce_cli.data.augment import View, draw_parameters, make_view
from scarce_cli.engine.device import autocast
from scarce_cli.engine.optim import build_optimizer
from scarce_cli.errors import UsageError
from scarce_cli.methods import TABLE, check_name, method_class
from scarce_cli.methods.base import Method, Progress, StepOutput, ViewSpec
from scarce_cli.models.resnet import Encoder, build_encoder
from scarce_cli.presets import load_preset, preset_names, validate
from scarce_cli.vitals import Expectations

BUILT = list(TABLE)
SPARSE = ("data.size=64", "method.masking=sparse", "method.patch=32", "method.decoder_width=32", "optimizer.lr=0.01")
CPU = torch.device("cpu")


class FakeSettings(Settings):
    """Settings of the method made up here."""

    scale: float = 1.0


class Fake(Method):
    """Learns how bright a film is, and keeps a teacher: enough to need every part of the contract."""

    settings_type: ClassVar[type[Settings]] = FakeSettings

    def __init__(self, encoder: Encoder, scale: float) -> None:
        super().__init__(encoder)
        self.scale = scale
        self.head = nn.Linear(encoder.features, 1)
        self.teacher = copy.deepcopy(encoder).requires_grad_(False)

    @classmethod
    def build(cls, encoder: Encoder, settings: Settings, size: int) -> Fake:
        assert isinstance(settings, FakeSettings)
        return cls(encoder, settings.scale)

    def view_specs(self, size: int, augment: AugmentSettings) -> Sequence[ViewSpec]:
        return [ViewSpec(size, augment), ViewSpec(size, augment)]

    def forward(self, views: Sequence[View], progress: Progress, generator: torch.Generator) -> StepOutput:
        x = torch.cat([view.image_BCHW for view in views])
        x = x + 0.01 * torch.randn(x.shape, generator=generator)
        features = self.encoder(x)
        loss = (self.head(features)[:, 0] * self.scale - x.mean(dim=(1, 2, 3))).square().mean()
        return StepOutput(loss, {"bias": self.head.bias.detach()[0]}, features.detach())

    @torch.no_grad()
    def after_step(self, progress: Progress, taken: Tensor) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            slow.copy_(torch.where(taken, slow.lerp(fast, 0.5), slow))

    def evaluation_encoder(self) -> Encoder:
        return self.teacher


@dataclass
class Training:
    """A method with its optimizer at smoke size; steps go as in the engine."""

    method: Method
    config: RunConfig
    optimizer: torch.optim.Optimizer

    def step(self, number: int = 0, *, views: Sequence[View] | None = None, precision: str = "fp32") -> StepOutput:
        progress = Progress(number, 100, 10)
        self.method.train()
        with autocast(CPU, precision):  # type: ignore[arg-type]
            output: StepOutput = self.method(
                self.views(number) if views is None else views, progress, torch.Generator().manual_seed(number)
            )
        self.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        self.method.after_backward(progress)
        self.optimizer.step()
        self.method.after_step(progress, torch.tensor(True))
        return output

    def views(self, number: int) -> list[View]:
        size, data = self.config.data.size, self.config.data
        films = np.random.default_rng(number).integers(0, 256, (8, 2, 2), dtype=np.uint8).repeat(24, 1).repeat(24, 2)
        views = []
        for index, spec in enumerate(self.method.view_specs(size, self.config.augment)):
            drawn = draw_parameters(spec.augment, 48, seed=0, epoch=0, films=np.arange(8), view=index)
            views.append(
                make_view(torch.from_numpy(films), spec.augment, drawn, size=spec.size, mean=data.mean, std=data.std)
            )
        return views


Start = Callable[..., Training]


@pytest.fixture
def fake_in_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake method, in a module of its own, with its line in the table."""
    module = types.ModuleType("a_method_of_the_tests")
    module.Fake = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(TABLE, "fake", f"{module.__name__}:Fake")


@pytest.fixture(params=[*BUILT, "sparse spark", "fake"])
def start(request: pytest.FixtureRequest, fake_in_table: None) -> Start:
    """Every method by its smoke preset, SparK also as in the paper, and the fake one."""
    overrides = SPARSE if request.param == "sparse spark" else ()
    name = str(request.param).split()[-1]
    preset = load_preset("smoke", "spark" if name == "fake" else name, overrides)

    def build(seed: int = 0) -> Training:
        kind = method_class(name)
        values = {**preset.values, "method": {}} if name == "fake" else preset.values
        loaded = type(preset)(preset.name, name, values, preset.lines)
        config = validate(loaded, RunConfig)
        encoder = build_encoder(config.model.backbone, seed=seed)
        torch.manual_seed(seed + 1)
        method = kind.build(encoder, validate(loaded, kind.settings_type, ("method",)), config.data.size)
        return Training(method, config, build_optimizer(method.trained_parameters(), config.optimizer))

    return build


def test_two_steps_move_the_encoder_and_stay_finite(start: Start) -> None:
    training = start()
    before = {name: p.detach().clone() for name, p in training.method.encoder.named_parameters()}
    for number in (0, 1):
        output = training.step(number)
        assert output.loss.ndim == 0
        assert torch.isfinite(output.loss)
    for parameter_name, parameter in training.method.encoder.named_parameters():
        assert torch.isfinite(parameter).all(), parameter_name
        assert not torch.equal(parameter, before[parameter_name]), parameter_name


def test_only_trained_parameters_get_a_gradient(start: Start) -> None:
    training = start()
    training.step()
    trained = {id(p) for _, p in training.method.trained_parameters()}
    for parameter_name, parameter in training.method.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained), parameter_name


def test_what_a_step_returns_holds_no_graph(start: Start) -> None:
    training = start()
    output = training.step()
    for value in output.scalars.values():
        assert value.ndim == 0
        assert not value.requires_grad
    if output.embeddings_ND is not None:
        assert output.embeddings_ND.ndim == 2
        assert not output.embeddings_ND.requires_grad
        assert torch.isfinite(output.embeddings_ND).all()


def test_what_a_method_expects_is_of_scalars_that_it_gives(start: Start) -> None:
    training = start()
    given = {"loss", *training.step().scalars}
    expected = training.method.expectations()
    assert expected.blind.keys() <= given
    assert Expectations.from_plain(json.loads(json.dumps(expected.as_plain()))) == expected


def test_the_encoder_to_keep_is_an_encoder_with_its_own_names(start: Start) -> None:
    training = start()
    training.step()
    kept = training.method.evaluation_encoder()
    assert isinstance(kept, Encoder)
    assert kept.state_dict().keys() == build_encoder(kept.backbone, seed=0).state_dict().keys()


def test_the_state_goes_round_exactly(start: Start) -> None:
    """Into a fresh method of another seed; the next step then gives the same bits."""
    one, other = start(0), start(50)
    one.step(0)
    other.method.load_state_dict(one.method.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    assert torch.equal(one.step(1).loss, other.step(1).loss)
    theirs = other.method.state_dict()
    assert theirs.keys() == one.method.state_dict().keys()
    for state_name, tensor in one.method.state_dict().items():
        assert torch.equal(tensor, theirs[state_name]), state_name


def test_all_randomness_comes_from_the_generator(start: Start) -> None:
    one, other = start(), start()
    torch.manual_seed(1)
    first = one.step(3).loss
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(other.step(3).loss, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_repeated_batch_is_learned(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same aim at every step: what a method moves by itself, such as a queue of keys, is held still."""
    training = start()
    monkeypatch.setattr(training.method, "after_step", lambda progress, taken: None)
    views = training.views(0)
    losses = [training.step(0, views=views).loss.detach() for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_step_that_is_not_taken_changes_nothing(start: Start) -> None:
    """Also where the batch held NaN. The engine puts back itself what the forward pass gathers (BatchNorm)."""
    training = start()
    training.step(0)
    views = [View(view.image_BCHW * torch.nan, view.clean_BCHW * torch.nan) for view in training.views(1)]
    progress = Progress(1, 100, 10)
    training.method(views, progress, torch.Generator().manual_seed(1))
    before = copy.deepcopy(training.method.state_dict())
    training.method.after_step(progress, torch.tensor(False))
    for state_name, tensor in training.method.state_dict().items():
        torch.testing.assert_close(tensor, before[state_name], rtol=0, atol=0, equal_nan=True, msg=state_name)


def test_whether_a_step_is_taken_is_never_read_on_the_host(start: Start) -> None:
    """A tensor without values has nothing to read: `bool` or `item` of it raise."""
    training = start()
    training.step(0)
    views, progress = training.views(1), Progress(1, 100, 10)
    training.method(views, progress, torch.Generator().manual_seed(1))
    meta = training.method.to("meta")
    for kept in ("_new_keys_MD", "_new_centre"):
        if hasattr(meta, kept):
            setattr(meta, kept, getattr(meta, kept).to("meta"))
    meta.after_step(progress, torch.zeros((), dtype=torch.bool, device="meta"))


def test_mixed_precision_stays_finite_and_near(start: Start) -> None:
    exact, mixed = (start().step(precision=precision).loss.detach() for precision in ("fp32", "bf16"))
    torch.testing.assert_close(mixed.float(), exact, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("built", BUILT)
def test_every_shipped_preset_fits_the_method(built: str) -> None:
    kind = method_class(built)
    assert {"l4", "cpu", "smoke"} <= set(preset_names(built))
    for preset_name in preset_names(built):
        preset = load_preset(preset_name, built)
        config = validate(preset, RunConfig)
        with torch.device("meta"):  # no memory, as nothing is computed
            encoder = build_encoder(config.model.backbone, seed=0)
            method = kind.build(encoder, validate(preset, kind.settings_type, ("method",)), config.data.size)
        assert method.view_specs(config.data.size, config.augment)


@pytest.fixture
def fake_run(dataset: Path, tmp_path: Path, fake_in_table: None, scarce: Callable) -> Path:
    """A run of the fake method through the command line."""
    smoke = (Path(__file__).parents[2] / "presets" / "smoke" / "spark.yaml").read_text()
    Path("mine.yaml").write_text(smoke.partition("method:")[0] + "method:\n  scale: 2.0\n")
    options = ("--data", dataset, "--out", "run", "--set", "run.epochs=1")
    done = scarce("pretrain", "fake", "--preset", "mine.yaml", *options)
    assert done.code == 0, done.err
    return tmp_path / "run"


def test_a_new_method_needs_one_line_in_the_table(fake_run: Path, scarce: Callable) -> None:
    """Engine, checkpoints and evaluation work for a method that they have never heard of."""
    lines = [json.loads(line) for line in (fake_run / "metrics.jsonl").read_text().splitlines()]
    steps, looks = ([line for line in lines if line["kind"] == kind] for kind in ("step", "collapse"))
    assert {"loss", "bias"} <= steps[0].keys()
    assert looks[0]["step"] == 0
    assert {"loss", "bias"} <= looks[-1]["signals"].keys()
    done = scarce("monitor-collapse", fake_run / "last.pt")
    assert done.code in (0, 9), done.err
    done = scarce("visualize", "fake", fake_run / "last.pt")
    assert done.code == 2
    assert "Fake does not reconstruct films" in done.err


def test_an_unknown_method_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match="no method 'sprak'; did you mean 'spark'") as raised:
        check_name("sprak")
    assert raised.value.remedy == f"methods: {', '.join(TABLE)}"
    assert raised.value.exit_code == 2


def test_every_built_method_has_the_class_that_the_table_names() -> None:
    for built in BUILT:
        kind = method_class(built)
        assert issubclass(kind, Method)
        assert issubclass(kind.settings_type, Settings)


@pytest.mark.parametrize(("films", "ranks", "named"), [(9, 2, 8), (2, 2, 4), (30, 8, 24), (6, 4, 8)])
def test_a_batch_that_ranks_cannot_share_is_refused(
    films: int, ranks: int, named: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Fake(build_encoder("resnet18", seed=0), 1.0)
    method.check_batch(films)
    monkeypatch.setattr("scarce_cli.methods.base.world_size", lambda: ranks)
    with pytest.raises(UsageError, match=f"run.batch_size is {films}: {ranks} processes cannot have") as raised:
        method.check_batch(films)
    assert raised.value.remedy.startswith(f"--set run.batch_size={named}, or ")
    method.check_batch(named)


def test_progress_counts_from_nought_to_one() -> None:
    assert (Progress(0, 100, 10).fraction, Progress(0, 100, 10).epoch) == (0, 0)
    assert (Progress(99, 100, 10).fraction, Progress(99, 100, 10).epoch) == (0.99, 9)
