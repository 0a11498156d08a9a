"""Two ranks that share a batch learn what one process learns from all of it: every method, to 1e-6 and better."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.methods.ranks_worker import APART, CASES, WORLD

ROOT = Path(__file__).parents[2]
SAME = 1e-8  # of float64, through two steps of twenty BatchNorms; found: 1e-9 and less
pytestmark = pytest.mark.slow

Report = dict[str, Any]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    """What each rank found; both processes are started once for all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-W", "error", "-m", "tests.methods.ranks_worker"]
    started = [
        subprocess.Popen(
            [*command, str(number), str(folder)], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE, text=True,
        )
        for number in range(WORLD)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * WORLD, said
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(WORLD)]


@pytest.fixture(scope="module")
def cases(reports: list[Report]) -> Report:
    """For each case how far the ranks are from one process."""
    return {name: distances for report in reports for name, distances in report["cases"].items()}


@pytest.mark.parametrize("name", [name for name in CASES if name != APART])
def test_loss_gradients_and_state_are_those_of_one_process(cases: Report, name: str) -> None:
    assert cases[name].keys() == {"loss", "scalar", "gradient", "parameter", "buffer"}
    assert max(cases[name].values()) < SAME, cases[name]


def test_ranks_that_normalise_by_themselves_learn_something_else(cases: Report) -> None:
    """So the distances above could have been large."""
    assert min(cases[APART].values()) > 1e-3


def test_what_ranks_exchange_and_its_gradients(reports: list[Report]) -> None:
    for report in reports:
        assert len(report["collectives"]) == 5
        assert max(report["collectives"].values()) < 1e-14


def test_batch_norm_over_ranks_is_that_of_the_whole_batch(reports: list[Report]) -> None:
    for report in reports:
        for name, distances in report["layers"].items():
            near = dict.fromkeys(distances, 1e-12)
            if name == "bfloat16":  # a step of it in what is handed on; sums and statistics are float32
                near = {kind: 0.02 if kind in ("output", "gradient") else 1e-5 for kind in distances}
            assert {"output", "gradient", "running_mean", "running_var", "num_batches_tracked"} <= distances.keys()
            assert all(distance <= near[kind] for kind, distance in distances.items()), (name, distances)
