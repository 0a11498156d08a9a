"""Planted failures and healthy runs on real films: what does the monitor call them, and when?

    python tests/bench/planted.py --data films-96 --out planted [--cases ...] [--seeds 0 1 2] [--judge]

Every case is a run by the command line with ``--on-collapse stop``; a healthy one runs to its end (or
``--healthy-part`` of it), a planted one until it is stopped or a tenth of its plan has passed. Prints, for every run,
what was planted, what was called, at which step, and the evidence; then the table of planted against called, and writes
planted.json. A run that is there already is not repeated; ``--judge`` judges the logs of such runs again and trains
nothing.

"one-group" may or may not leak: with 32 films in a group it is seen to learn like a healthy run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scarce_cli.checkpoint import load
from scarce_cli.config import AugmentSettings, MonitorSettings, Settings
from scarce_cli.data.augment import View
from scarce_cli.errors import Diverged
from scarce_cli.evaluation.collapse import Verdict, is_confirmed, judge, readings_of
from scarce_cli.methods import TABLE
from scarce_cli.methods.base import Method, Progress, StepOutput, ViewSpec
from scarce_cli.methods.settings import SETTINGS
from scarce_cli.models.heads import two_layer_projector
from scarce_cli.models.resnet import Encoder
from scarce_cli.runs import read_metrics
from scarce_cli.vitals import Expectations, Failure

HEALTHY = "healthy"
PLAN = 1024  # steps of a planned run; films are 2,048
EARLY = 0.1  # of the plan, before which a failure is to be called


@dataclass(frozen=True)
class Case:
    """What is planted, and how: a recipe and changes to it."""

    planted: str  # a Failure, or healthy
    method: str
    settings: tuple[str, ...] = ()
    preset: str = "cpu"
    batch: int = 32


SMALL = ("data.size=64", "run.log_steps=1", "monitor.films=64", "monitor.steps=10")
CASES = {
    "moco": Case(HEALTHY, "moco"),
    "barlow": Case(HEALTHY, "barlow"),
    "dino": Case(HEALTHY, "dino"),
    "spark": Case(HEALTHY, "spark"),
    "published": Case(Failure.UNIFORM_TEACHER, "dino", preset="cpu-published"),
    "uncentred": Case(
        Failure.ONE_HOT_TEACHER,
        "dino",
        ("method.centring=centre", "method.centre_momentum=1.0", "method.head_batch_norm=false"),
    ),
    "no-stop": Case(Failure.COMPLETE, "agree"),
    "diagonal": Case(Failure.DIMENSIONAL, "barlow", ("method.lambd=0.0",)),
    "one-group": Case(
        Failure.LEAKAGE, "moco", ("method.bn_splits=1", "method.shuffle_keys=false", "method.queue=64")
    ),
    "no-rate": Case(Failure.NOT_LEARNING, "spark", ("optimizer.lr=1.0e-30", "schedule.warmup_epochs=0")),
    "overflow": Case(Failure.DIVERGED, "barlow", ("run.precision=fp16", "data.std=1.0e-6", "data.size=32"), batch=8),
}  # fmt: skip


class AgreeSettings(Settings):
    """None."""


class Agree(Method):
    """BYOL's aim without its predictor, teacher and stop of the gradient: two views are to agree, nothing else.

    Its minimum is a constant.
    """

    settings_type = AgreeSettings

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self.projector = two_layer_projector(encoder.features, 128)

    @classmethod
    def build(cls, encoder: Encoder, settings: Settings, size: int) -> Agree:
        """Any size."""
        return cls(encoder)

    def view_specs(self, size: int, augment: AugmentSettings) -> Sequence[ViewSpec]:
        """Two."""
        return [ViewSpec(size, augment)] * 2

    def forward(self, views: Sequence[View], progress: Progress, generator: torch.Generator) -> StepOutput:
        """Minus the mean cosine of a film's two views."""
        one, other = (self.projector(self.encoder(view.image_BCHW)) for view in views)
        loss: Tensor = -F.cosine_similarity(one, other, dim=1).mean()
        return StepOutput(loss)

    def expectations(self) -> Expectations:
        """-1 is its minimum, and what a constant gives."""
        return Expectations({"loss": -1.0})


PRESET = """\
run: {epochs: 16, batch_size: 32, device: cpu, precision: fp32}
model: {backbone: resnet18}
data: {size: 64}
augment: {crop_scale: [0.5, 1.0], brightness: 0.1, contrast: 0.1, blur_probability: 0.0, noise_std: 0.0}
optimizer: {name: adamw, lr: 1.0e-3, weight_decay: 1.0e-4}
"""


def main() -> None:
    """Train what is missing, judge, print."""
    options = _options()
    if options.one:
        _train(*options.one, options)
    rows = []
    for seed in options.seeds:
        for name in options.cases:
            if not options.judge and not (_folder(name, seed, options) / "ended.json").is_file():
                _run(name, seed, options)
            rows.append(_called(name, seed, options))
            console().print(rows[-1])
    (options.out / "planted.json").write_text(json.dumps(rows, indent=1))
    console().print(_confusion(rows))


def _run(name: str, seed: int, options: argparse.Namespace) -> None:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--one", name, str(seed), "--plan", str(options.plan)]
    command += ["--data", str(options.data), "--out", str(options.out), "--healthy-part", str(options.healthy_part)]
    subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": str(options.threads)})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set of real films")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--plan", type=int, default=PLAN, help="steps of a planned run")
    parser.add_argument("--healthy-part", type=float, default=1.0, help="of its plan that a healthy run is trained for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--judge", action="store_true", help="judge the logs of finished runs again")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "SEED"), help=argparse.SUPPRESS)
    return parser.parse_args()


def console() -> Console:
    """As wide as a page."""
    return Console(width=120, highlight=False)


def _folder(name: str, seed: int, options: argparse.Namespace) -> Path:
    folder: Path = options.out / f"{name}-{seed}"
    return folder


def _train(name: str, seed: str, options: argparse.Namespace) -> None:
    """One run in this process, which ends with it."""
    from scarce_cli.cli import app
    from scarce_cli.data.cache import open_cache

    case, folder = CASES[name], _folder(name, int(seed), options)
    films = len(open_cache(options.data).names)
    epochs = max(1, round(options.plan * case.batch / films))
    preset = case.preset
    if case.method == "agree":
        TABLE["agree"], SETTINGS["agree"] = f"{__name__}:Agree", AgreeSettings
        preset = str(options.out / "agree.yaml")
        Path(preset).write_text(PRESET)
    settings = [*SMALL, f"run.batch_size={case.batch}", f"run.epochs={epochs}", *case.settings]
    command = ["pretrain", case.method, "--preset", preset, "--data", str(options.data), "--out", str(folder)]
    command += ["--seed", seed, "--on-collapse", "stop", *[p for s in settings for p in ("--set", s)]]
    part = EARLY if case.planted != HEALTHY else options.healthy_part
    if part < 1:
        _stop_after(folder, round(part * options.plan) + 1)
    code: Any = app(command, standalone_mode=False)
    (folder / "ended.json").write_text(json.dumps({"code": code or 0}))
    raise SystemExit(code)


def _stop_after(folder: Path, step: int) -> None:
    """Ends this process like Ctrl-C when a run has come so far: a failure that nobody called."""

    def watch() -> None:
        while True:
            time.sleep(1.0)
            if any(line.get("step", 0) >= step for line in read_metrics(folder / "metrics.jsonl")[-1:]):
                os.kill(os.getpid(), signal.SIGINT)
                return

    threading.Thread(target=watch, daemon=True).start()


def _called(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What the log of a run says by today's thresholds: the first verdict that would have stopped it, or healthy."""
    folder, case = _folder(name, seed, options), CASES[name]
    ended = json.loads((folder / "ended.json").read_text())
    found = {"case": name, "planted": case.planted, "seed": seed, "exit": ended["code"]}
    if ended["code"] == Diverged.exit_code:
        last = read_metrics(folder / "metrics.jsonl")[-1]["step"]
        return found | {"called": Failure.DIVERGED, "step": last, "evidence": ("the run ended by itself",)}
    random, readings = readings_of(read_metrics(folder / "metrics.jsonl"))
    expected = Expectations.from_plain(load(folder / "last.pt")[0]["origin"]["vitals"]["expected"])
    worst = Verdict("healthy", None, ())
    for count, reading in enumerate(readings, 1):
        verdict = judge(readings[:count], random, expected)
        if reading.progress >= MonitorSettings().grace and is_confirmed(readings[:count], random, expected):
            return found | {"called": verdict.failure, "step": reading.step, "evidence": verdict.evidence}
        worst = verdict if verdict.state != "healthy" else worst
    return found | {"called": HEALTHY, "step": readings[-1].step, "evidence": worst.evidence}


def _confusion(rows: Sequence[dict[str, Any]]) -> Table:
    """Planted against called; a cell is the number of runs."""
    counts = Counter((str(row["planted"]), str(row["called"])) for row in rows)
    planted = list(dict.fromkeys(str(row["planted"]) for row in rows))
    called = list(dict.fromkeys([*planted, *(str(row["called"]) for row in rows)]))
    table = Table("planted", *called, title="planted against called")
    for one in planted:
        table.add_row(one, *(str(counts[one, other] or "") for other in called))
    return table


if __name__ == "__main__":
    main()
