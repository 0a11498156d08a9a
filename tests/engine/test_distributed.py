"""Two processes as torchrun starts them: the run of one, one writer, and going on after one of them died."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scarce_cli.checkpoint import load
from scarce_cli.runs import RunFolder, read_metrics

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "run.epochs=1",
    "run.batch_size=12",
    "optimizer.name=sgd",
    "optimizer.lr=0.001",
    "model.sync_batch_norm=true",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SCARCE_LONG" not in os.environ, reason="a minute of starts and restarts: set SCARCE_LONG=1"),
]


def _start(dataset: Path, out: str, *more: str, ranks: int = 1, restarts: int = 0, **environment: str) -> Any:
    launcher = [] if ranks == 1 else ["torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"]
    launcher += [f"--max-restarts={restarts}"] if restarts else []
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = ["-m", *launcher, *(["-m"] if launcher else []), "scarce_cli", "pretrain", "spark", "--preset", "smoke"]
    return subprocess.run(
        [sys.executable, *command, "--data", str(dataset), "--out", out, *settings, *more],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with the whole batch."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done = _start(dataset, str(out))
    assert done.returncode == 0, done.stderr
    return out


def _losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(RunFolder(run).metrics) if line["kind"] == "step"]


def _check_same(run: Path, alone: Path) -> None:
    assert _losses(run) == pytest.approx(_losses(alone), rel=1e-4)
    mine, theirs = (load(RunFolder(folder).last)[0] for folder in (run, alone))
    for name, weights in theirs["state"]["method"].items():
        torch.testing.assert_close(mine["state"]["method"][name], weights, rtol=2e-3, atol=2e-4, msg=name)


def test_two_processes_are_one_with_the_whole_batch(dataset: Path, alone: Path) -> None:
    done = _start(dataset, "two", ranks=2)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in Path("two").iterdir()}
    assert names == {path.name for path in alone.iterdir()} | {".torchrun"}
    assert done.stdout.count("Done. Checkpoint: two/last.pt") == 1
    assert done.stderr.count("48 films of") == 1
    assert "Warning" not in done.stderr.replace("OMP_NUM_THREADS", "")
    _check_same(Path("two"), alone)
    assert "2 processes" in Path("two/README.md").read_text()


def test_two_processes_that_compile_recompute_their_stages(dataset: Path, alone: Path) -> None:
    """Each with norms over its own half of the batch."""
    more = ("--set", "run.compile=true", "--set", "model.gradient_checkpointing=4")
    done = _start(dataset, "compiled", *more, "--set", "model.sync_batch_norm=false", ranks=2)
    assert done.returncode == 0, done.stderr
    assert _losses(Path("compiled"))[0] == pytest.approx(_losses(alone)[0], rel=0.2)  # norms of half the batch


def test_a_process_that_dies_is_started_again_and_loses_no_saved_step(dataset: Path, alone: Path) -> None:
    """Killed while it keeps the encoder: torchrun starts both again, which go on by themselves."""
    done = _start(
        dataset,
        "elastic",
        *("--set", "run.checkpoint_steps=1"),
        ranks=2,
        restarts=1,
        SCARCE_FAULT="ckpt.pre_rename:4:kill",
    )
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stderr
    _check_same(Path("elastic"), alone)
    assert [line["step"] for line in read_metrics(RunFolder(Path("elastic")).metrics) if line["kind"] == "step"] == [
        1, 2, 3, 4,
    ]  # fmt: skip
