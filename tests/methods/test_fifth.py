"""A fifth method, here only: SimSiam (Chen & He, 2021, arXiv 2011.10566). One file, one line in the table, one preset.

Nothing of the engine, the checkpoints or the evaluation knows of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scarce_cli.config import AugmentSettings, Settings
from scarce_cli.data.augment import View
from scarce_cli.methods import TABLE
from scarce_cli.methods.base import Method, Progress, StepOutput, ViewSpec
from scarce_cli.models.resnet import Encoder

PRESET = """\
run: {epochs: 2, batch_size: 8, device: cpu, precision: fp32, snapshot_epochs: 1}
model: {backbone: resnet18}
data: {size: 32}
augment: {crop_scale: [0.5, 1.0], blur_kernel: [3, 5]}
optimizer: {name: sgd, lr: 0.05, weight_decay: 1.0e-4}
method: {width: 32}
"""


class SimSiamSettings(Settings):
    """Width of projector and predictor."""

    width: int = 2048


class SimSiam(Method):
    """Two views; a predictor on one side, no gradient on the other."""

    settings_type = SimSiamSettings

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__(encoder)
        layers = [nn.Linear(encoder.features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        self.projector = nn.Sequential(
            *layers, nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, affine=False)
        )
        hidden = max(1, width // 4)
        self.predictor = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    @classmethod
    def build(cls, encoder: Encoder, settings: Settings, size: int) -> SimSiam:
        assert isinstance(settings, SimSiamSettings)
        return cls(encoder, settings.width)

    def view_specs(self, size: int, augment: AugmentSettings) -> Sequence[ViewSpec]:
        return [ViewSpec(size, augment)] * 2

    def forward(self, views: Sequence[View], progress: Progress, generator: torch.Generator) -> StepOutput:
        one, other = (self.encoder(view.image_BCHW) for view in views)
        z1, z2 = self.projector(one), self.projector(other)
        loss = -(_agreement(self.predictor(z1), z2) + _agreement(self.predictor(z2), z1)) / 2
        return StepOutput(loss, embeddings_ND=one.detach())


def _agreement(predicted_ND: Tensor, target_ND: Tensor) -> Tensor:
    return F.cosine_similarity(predicted_ND, target_ND.detach(), dim=1).mean()


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its one line in the table, and its one preset."""
    monkeypatch.setitem(TABLE, "simsiam", f"{__name__}:SimSiam")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[SimSiam.__module__])
    Path("simsiam.yaml").write_text(PRESET)


@pytest.fixture
def run(dataset: Path, tmp_path: Path, scarce: Callable) -> Path:
    """SimSiam trained by the command line, stopped by nothing."""
    done = scarce("pretrain", "simsiam", "--preset", "simsiam.yaml", "--data", dataset, "--out", "run")
    assert done.code == 0, done.err
    return tmp_path / "run"


def test_a_fifth_method_trains_is_judged_and_goes_on(run: Path, dataset: Path, scarce: Callable) -> None:
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in epochs if line["kind"] == "epoch"]
    assert len(losses) == 2
    assert all(-1 <= loss <= 1 for loss in losses)
    assert losses[0] != losses[1]
    done = scarce("monitor-collapse", run / "last.pt")
    assert done.code in (0, 9), done.err
    assert "simsiam" in done.out
    done = scarce("pretrain", "simsiam", "--preset", "simsiam.yaml", "--data", dataset, "--out", "run", "--resume")
    assert done.code == 0, done.err


def test_a_mistake_in_its_settings_is_named(dataset: Path, scarce: Callable) -> None:
    done = scarce("pretrain", "simsiam", "--preset", "simsiam.yaml", "--data", dataset, "--set", "method.widht=3")
    assert done.code == 2
    assert "did you mean 'width'?" in done.err
