"""The demo walks the whole path; here with few films and one epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_demo_leaves_everything_and_says_where(scarce: Callable) -> None:
    result = scarce("demo", "--films", 80, "--epochs", 1, "--out", "d")
    assert result.code == 0, result.err
    run = Path("d/runs/spark-demo")
    places = [
        "d/phantoms/labels.csv",
        "d/phantoms-64/dataset.json",
        "d/phantoms-64/cache.npy",
        run / "last.pt",
        run / "collapse.png",
        run / "probe/probe.csv",
        run / "probe/probe.png",
        run / "reconstructions.png",
    ]
    for place in places:
        assert Path(place).is_file(), place
    for what in ("d/phantoms", "d/phantoms-64/cache.npy", str(run / "probe" / "probe.csv")):
        assert what in result.out.split("What there is:")[1]
    document = json.loads((run / "probe" / "probe.json").read_text())
    assert document["settings"]["stage"] == 3
    assert {score["initialisation"] for score in document["scores"]} == {"random", "spark epoch 1"}


def test_an_existing_folder_is_left_alone(scarce: Callable) -> None:
    Path("d").mkdir()
    result = scarce("demo", "--out", "d")
    assert result.code == 2
    assert "d exists already" in result.err
    assert list(Path("d").iterdir()) == []
