"""``scarce monitor-collapse``: numbers, verdict and exit code for checkpoints as they come."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from scarce_cli import checkpoint
from scarce_cli.checkpoint import EncoderInfo, load_encoder
from scarce_cli.commands import console, inputs
from scarce_cli.data.cache import open_cache
from scarce_cli.evaluation.collapse import collapse_metrics
from scarce_cli.evaluation.features import extract_features, restore_encoder
from scarce_cli.files import sha256
from scarce_cli.models.resnet import Encoder, build_encoder

Scarce = Callable[..., Any]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The finished run's files in a folder to write into (links: every file is replaced, never changed)."""
    return Path(shutil.copytree(trained, tmp_path / "run", copy_function=os.link))


def save(path: Path, dataset: Path, encoder: Encoder | None = None, **origin: Any) -> Path:
    """An encoder alone, as the program saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cache = open_cache(dataset)
    data = {"folder": str(dataset.resolve()), "digest": cache.digest, "films": len(cache.names)}
    state = (encoder or build_encoder("resnet18", seed=1)).state_dict()
    fields = {"method": "spark", "preset": "smoke", "step": 6, "epoch": 1, "seed": 0, "settings": {}, "data": data}
    checkpoint.save(path, encoder=state, info=EncoderInfo("resnet18", 32, 0.5, 0.25), origin=fields | origin)
    return path


def constant_encoder(value: float) -> Encoder:
    """Blind: its first filter is zero, so every film gives the same features."""
    encoder = build_encoder("resnet18", seed=0)
    with torch.no_grad():
        encoder.conv1.weight.zero_()
        encoder.bn1.bias.fill_(value)
    return encoder


def result(folder: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in collapse.json")

    loaded: dict[str, Any] = json.loads((folder / "collapse.json").read_text(), parse_constant=refuse)
    return loaded


def test_a_checkpoint(run: Path, dataset: Path, scarce: Scarce) -> None:
    done = scarce("monitor-collapse", run / "last.pt")
    assert done.code == 0, done.err
    assert "Verdict: healthy" in done.out
    found = result(run)
    assert found["verdict"] == "healthy"
    (one,) = found["runs"]
    (row,) = one["checkpoints"]
    saved = load_encoder(run / "last.pt")
    features = extract_features(
        restore_encoder(saved), saved.info, open_cache(dataset), np.arange(48), torch.device("cpu")
    )
    for name, value in asdict(collapse_metrics(features)).items():
        assert row[name] == pytest.approx(value, rel=1e-4), name
    assert row["sha256"] == sha256(run / "last.pt")
    assert one["random_initialisation"]["films"] == 48
    with Image.open(run / "collapse.png") as image:
        assert image.format == "PNG"


def test_a_run_s_folder_is_a_curve_over_its_epochs(run: Path, scarce: Scarce) -> None:
    done = scarce("monitor-collapse", run)
    assert done.code == 0, done.err
    (one,) = result(run)["runs"]
    assert [row["epoch"] for row in one["checkpoints"]] == [1, 2]
    assert done.out.index("random initialisation") < done.out.index("epoch-0001.pt") < done.out.index("epoch-0002.pt")
    assert not (run / "encoders" / "collapse.json").exists()


def test_a_run_without_snapshots_is_its_last_checkpoint(run: Path, scarce: Scarce) -> None:
    shutil.rmtree(run / "encoders")
    assert scarce("monitor-collapse", run).code == 0
    assert [row["epoch"] for row in result(run)["runs"][0]["checkpoints"]] == [2]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_collapsed_encoder_gives_nine(dataset: Path, tmp_path: Path, scarce: Scarce, value: float) -> None:
    path = save(tmp_path / "run" / "last.pt", dataset, constant_encoder(value))
    done = scarce("monitor-collapse", path)
    assert done.code == 9, done.err
    assert "Verdict: collapsed (all films have nearly the same features" in done.out
    assert "undefined of 47" in done.out
    assert done.err == ""
    found = result(path.parent)
    assert found["verdict"] == "collapsed"
    assert "the features are constant" in found["runs"][0]["reasons"]
    assert found["runs"][0]["checkpoints"][0]["effective_rank"] is None
    assert (path.parent / "collapse.png").is_file()


def test_several_runs_are_judged_one_by_one(dataset: Path, tmp_path: Path, scarce: Scarce) -> None:
    """A healthy run given last does not hide a collapsed one, and no trend is seen across runs."""
    dead = save(tmp_path / "dead" / "last.pt", dataset, constant_encoder(1.0), method="dino")
    good = [save(tmp_path / "good" / "encoders" / f"epoch-{n}.pt", dataset, epoch=n) for n in (1, 2)]
    done = scarce("monitor-collapse", dead, *good, "--out", "both")
    assert done.code == 9
    found = result(Path("both"))
    assert found["verdict"] == "collapsed"
    assert [(one["method"], one["verdict"], len(one["checkpoints"])) for one in found["runs"]] == [
        ("dino", "collapsed", 1),
        ("spark", "healthy", 2),
    ]
    assert done.out.count("Verdict:") == 2
    assert scarce("monitor-collapse", *good).code == 0
    assert (tmp_path / "good" / "collapse.json").is_file()


def test_fewer_films_can_be_looked_at(run: Path, scarce: Scarce) -> None:
    assert scarce("monitor-collapse", run / "last.pt", "--films", 12).code == 0
    assert result(run)["runs"][0]["checkpoints"][0]["films"] == 12
    assert scarce("monitor-collapse", run / "last.pt", "--films", 1).code == 2


def test_the_result_is_repeatable(run: Path, scarce: Scarce) -> None:
    scarce("monitor-collapse", run / "last.pt", "--films", 20, "--out", "a")
    scarce("monitor-collapse", run / "last.pt", "--films", 20, "--out", "b")
    scarce("monitor-collapse", run / "last.pt", "--films", 20, "--seed", 1, "--out", "c")
    assert result(Path("a")) == result(Path("b")) != result(Path("c"))


def test_names_that_look_like_markup_are_shown_as_they_are(dataset: Path, tmp_path: Path, scarce: Scarce) -> None:
    path = save(tmp_path / "[red]run[/red]" / "[bold]$x$.pt", dataset)
    done = scarce("monitor-collapse", path)
    assert done.code == 0, done.err
    assert "[bold]$x$.pt" in done.out
    assert f"Written: {path.parent}/collapse.json" in done.out
    broken = tmp_path / "[red]x[bold].pt"
    broken.write_text("no checkpoint")
    done = scarce("monitor-collapse", broken)
    assert done.code == 2
    assert str(broken) in done.err


def test_control_characters_do_not_reach_the_terminal(dataset: Path, tmp_path: Path, scarce: Scarce) -> None:
    path = save(tmp_path / "run" / "a\x1b[2J.pt", dataset)
    done = scarce("monitor-collapse", path)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    assert "a\\x1b[2J.pt" in done.out


def test_a_name_that_is_not_utf8_is_no_obstacle(dataset: Path, tmp_path: Path, process: Scarce) -> None:
    path = save(tmp_path / "caf\udce9" / "last.pt", dataset)
    done = process("monitor-collapse", path)
    assert done.code == 0, done.err
    assert "caf\\udce9" in done.out


def test_no_checkpoint_in_a_folder(tmp_path: Path, scarce: Scarce) -> None:
    done = scarce("monitor-collapse", tmp_path)
    assert done.code == 2
    assert f"no checkpoint in {tmp_path}" in done.err
    assert "last.pt" in done.err


@pytest.mark.parametrize(("content", "code"), [(None, 2), (b"not a checkpoint", 2), (b"\x80\x04.", 4)])
def test_what_is_not_a_checkpoint(content: bytes | None, code: int, tmp_path: Path, scarce: Scarce) -> None:
    path = tmp_path / "x.pt"
    if content is not None:
        path.write_bytes(content)
    done = scarce("monitor-collapse", path)
    assert done.code == code
    assert str(path) in done.err
    assert "What to do:" in done.err
    assert "Traceback" not in done.err


def test_weights_that_do_not_fit_or_are_not_finite(dataset: Path, tmp_path: Path, scarce: Scarce) -> None:
    encoder = build_encoder("resnet18", seed=0)
    with torch.no_grad():
        encoder.layer1[0].conv1.weight[0] = torch.nan
    done = scarce("monitor-collapse", save(tmp_path / "nan.pt", dataset, encoder))
    assert done.code == 5
    assert "layer1.0.conv1.weight" in done.err
    done = scarce("monitor-collapse", save(tmp_path / "big.pt", dataset, build_encoder("resnet50", seed=0)))
    assert done.code == 2
    assert "does not hold a resnet18" in done.err
    assert not list(tmp_path.glob("collapse.*"))


def test_the_data_set_can_be_named(run: Path, dataset: Path, tmp_path: Path, scarce: Scarce) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "elsewhere"))
    done = scarce("monitor-collapse", run / "last.pt", "--data", copy)
    assert done.code == 0, done.err
    assert done.err == ""
    assert scarce("monitor-collapse", run / "last.pt", "--data", tmp_path / "nothing").code == 2


def test_a_moved_data_set_is_found_in_the_current_folder(dataset: Path, tmp_path: Path, scarce: Scarce) -> None:
    gone = {"folder": str(tmp_path / "gone"), "digest": open_cache(dataset).digest, "films": 48}
    path = save(tmp_path / "run" / "last.pt", dataset, data=gone)
    done = scarce("monitor-collapse", path)
    assert done.code == 2  # neither there nor here
    shutil.copytree(dataset, tmp_path / dataset.name)
    done = scarce("monitor-collapse", path)
    assert done.code == 0, done.err
    assert f"{tmp_path / 'gone'} that the checkpoint was trained on is gone" in done.err
    assert "are not those" not in done.err


def test_other_films_than_those_of_the_training_are_a_warning(dataset: Path, tmp_path: Path, scarce: Scarce) -> None:
    for folder in (dataset, tmp_path / "gone"):
        data = {"folder": str(folder), "digest": "0" * 16, "films": 48}
        path = save(tmp_path / "run" / "last.pt", dataset, data=data)
        shutil.copytree(dataset, tmp_path / dataset.name, dirs_exist_ok=True)
        done = scarce("monitor-collapse", path)
        assert done.code == 0, done.err
        assert "are not those that the checkpoint was trained on" in done.err


def test_a_folder_that_cannot_be_written(run: Path, tmp_path: Path, scarce: Scarce) -> None:
    (tmp_path / "file").write_text("")
    done = scarce("monitor-collapse", run / "last.pt", "--out", tmp_path / "file" / "x")
    assert done.code == 8
    assert str(tmp_path / "file") in done.err


@pytest.mark.parametrize("width", [80, 36])
def test_the_table_fits_the_terminal_and_cuts_nothing(
    run: Path, scarce: Scarce, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(console, "stdout", lambda: Console(width=width))
    monkeypatch.setattr(inputs, "stdout", console.stdout)
    done = scarce("monitor-collapse", run / "last.pt")
    assert done.code == 0, done.err
    table = done.out.partition("features\n")[2].partition("Verdict")[0]
    assert 0 < max(map(len, table.splitlines())) <= width
    assert "…" not in table
    (one,) = result(run)["runs"]
    rows = [one["random_initialisation"], *one["checkpoints"]]
    shown = "".join(f"{r['relative_std']:.3f}{r['mean_cosine']:.4f}{r['effective_rank']:.1f}47" for r in rows)
    shown += str(one["checkpoints"][0]["epoch"])
    assert {d: table.count(d) for d in "0123456789"} == {d: shown.count(d) for d in "0123456789"}
