"""``scarce monitor-collapse``: numbers, verdict, cures and exit code for checkpoints as they come."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scarce_cli import checkpoint
from scarce_cli.checkpoint import EncoderInfo, load_encoder
from scarce_cli.commands.monitor_collapse import FailOn, _draw, _fails
from scarce_cli.config import RunConfig
from scarce_cli.data.cache import open_cache
from scarce_cli.evaluation.collapse import Reading, collapse_metrics
from scarce_cli.evaluation.features import extract_features, extract_view_features, restore_encoder
from scarce_cli.files import sha256
from scarce_cli.methods import settings_class
from scarce_cli.methods.dino import DINO
from scarce_cli.models.resnet import Encoder, build_encoder
from scarce_cli.presets import load_preset, validate
from scarce_cli.vitals import Expectations, Failure

Scarce = Callable[..., Any]
FEW = ("--images", 12, "--views", 0)  # where what is measured does not matter


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The finished run's files in a folder to write into (links: every file is replaced, never changed)."""
    return Path(shutil.copytree(trained, tmp_path / "run", copy_function=os.link))


def save(path: Path, dataset: Path, encoder: Encoder | None = None, **origin: Any) -> Path:
    """An encoder alone, as the program saves it; ``epoch`` of two, of 6 steps each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cache = open_cache(dataset)
    data = {"folder": str(dataset.resolve()), "digest": cache.digest, "films": len(cache.names)}
    state = (encoder or build_encoder("resnet18", seed=1)).state_dict()
    fields = {"method": "spark", "preset": "smoke", "epoch": 1, "seed": 0, "settings": {}, "data": data}
    fields |= {"step": 6 * origin.get("epoch", 1)}
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


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn, which takes longer than the rest."""
    monkeypatch.setattr("scarce_cli.figures.collapse.draw_collapse", lambda curves, path: path.touch())


def settings(method: str) -> dict[str, Any]:
    """As a checkpoint of a smoke run holds them."""
    preset = load_preset("smoke", method)
    own = validate(preset, settings_class(method), ("method",)).model_dump(mode="json")
    return validate(preset, RunConfig).model_dump(mode="json") | {"method": own}


def vitals(*said: dict[str, float], blind: dict[str, float]) -> dict[str, Any]:
    """Of a run of 12 steps whose method said that, in the middle and at the end."""
    readings = [Reading(step, step / 12, None, signals).as_plain() for step, signals in zip((6, 12), said, strict=True)]
    return {"expected": Expectations(blind).as_plain(), "random": None, "readings": readings}


def test_a_checkpoint(run: Path, dataset: Path, scarce: Scarce) -> None:
    done = scarce("monitor-collapse", run / "last.pt")
    assert done.code == 0, done.err
    assert done.err == ""
    assert "Verdict: healthy" in done.out
    assert "Signals (in brackets: where films are not told apart): loss " in done.out
    found = result(run)
    assert found["verdict"] == "healthy"
    assert found["data"] == {"folder": str(dataset), "digest": open_cache(dataset).digest, "films": 48}
    (one,) = found["runs"]
    (row,) = one["checkpoints"]
    saved, rows = load_encoder(run / "last.pt"), np.arange(48)
    seen = (restore_encoder(saved), saved.info, open_cache(dataset), rows, torch.device("cpu"))
    augment = RunConfig.model_validate_json(json.dumps(settings("spark"))).augment
    views = extract_view_features(*seen, augment=augment, views=2, seed=0)
    for name, value in collapse_metrics(extract_features(*seen), views).as_plain().items():
        assert row[name] == (value if name == "alpha_range" else pytest.approx(value, rel=1e-3, abs=1e-6)), name
    assert row["sha256"] == sha256(run / "last.pt")
    assert (row["epoch"], row["step"], row["progress"]) == (2, 12, 1.0)
    assert one["random_initialisation"]["films"] == 48
    with Image.open(run / "collapse.png") as image:
        assert image.format == "PNG"


def test_a_run_s_folder_is_a_curve_over_its_epochs(run: Path, scarce: Scarce, unseen: None) -> None:
    done = scarce("monitor-collapse", run, *FEW)
    assert done.code == 0, done.err
    (one,) = result(run)["runs"]
    assert [row["epoch"] for row in one["checkpoints"]] == [1, 2]
    assert [row["retrieval"] for row in one["checkpoints"]] == [None, None]
    assert done.out.index("random") < done.out.index("epoch-0001.pt") < done.out.index("epoch-0002.pt")
    assert "last.pt" not in done.out
    assert not (run / "encoders" / "collapse.json").exists()
    (run / "encoders" / "epoch-0002.pt").unlink()
    done = scarce("monitor-collapse", run, *FEW)
    assert [Path(row["path"]).name for row in result(run)["runs"][0]["checkpoints"]] == ["epoch-0001.pt", "last.pt"]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_collapsed_encoder_gives_nine(
    dataset: Path, tmp_path: Path, scarce: Scarce, unseen: None, value: float
) -> None:
    path = save(tmp_path / "run" / "last.pt", dataset, constant_encoder(value), settings=settings("spark"))
    done = scarce("monitor-collapse", path)
    assert done.code == 9, done.err
    assert "Verdict: collapsed: complete collapse\n  the features of all 48 films are constant" in done.out
    found = result(path.parent)  # without NaN
    assert (found["verdict"], found["runs"][0]["failure"]) == ("collapsed", "complete collapse")
    row = found["runs"][0]["checkpoints"][0]
    assert row["effective_rank"] is row["alpha"] is row["lidar"] is None
    assert row["relative_std"] == pytest.approx(0.0, abs=1e-6)


def test_a_failure_is_named_with_what_to_change_and_a_command_to_copy(
    dataset: Path, tmp_path: Path, scarce: Scarce, unseen: None
) -> None:
    """The method's own signals decide where the features look healthy; each change is one that the run has not got."""
    top = math.log(32)
    said = {"loss": top, "mean_teacher_entropy": top, "teacher_information": 1e-4}
    origin = {"method": "dino", "epoch": 2, "settings": settings("dino")}
    blind = {"mean_teacher_entropy": top, "teacher_information": 0.0}
    path = save(tmp_path / "a run" / "last.pt", dataset, **origin, vitals=vitals(said, said, blind=blind))
    done = scarce("monitor-collapse", path, *FEW)
    assert done.code == 9, done.err
    assert "Verdict: collapsed: uniform teacher\n  teacher entropy 3.466 of ln K = 3.466" in done.out
    (one,) = result(path.parent)["runs"]
    wanted = DINO.cures_for(Failure.UNIFORM_TEACHER, settings("dino"))
    assert [change["key"] for change in one["changes"]] == [cure.key for cure in wanted]
    for change, cure in zip(one["changes"], wanted, strict=True):
        section, _, key = change["key"].partition(".")
        assert change["now"] == settings("dino")[section][key] != change["to"] == cure.to
        was, to = (value if isinstance(value, str) else json.dumps(value) for value in (change["now"], change["to"]))
        assert f"  {cure.key}: {was} -> {to} ({cure.why})".replace(", ", ",") in done.out.replace(", ", ",")
    assert f"Start anew: {one['command']}\n" in done.out
    words = shlex.split(one["command"])
    assert words[:5] == ["scarce", "pretrain", "dino", "--preset", "smoke"]
    assert words[5:7] == ["--data", str(dataset)]
    assert words[-2:] == ["--out", f"{path.parent}-2"]
    sets = words[8:-2:2]
    assert words[7:-2] == [word for change in sets for word in ("--set", change)]
    changed = validate(load_preset("smoke", "dino", sets), RunConfig).model_dump(mode="json")
    for cure in wanted:
        section, _, key = cure.key.partition(".")
        assert changed[section][key] == cure.to


@pytest.mark.parametrize(
    ("states", "expected"),
    [(["healthy"], [0, 0, 0]), (["suspicious", "healthy"], [1, 0, 0]), (["healthy", "collapsed"], [1, 1, 0])],
)
def test_which_verdict_fails_can_be_chosen(states: list[str], expected: list[bool]) -> None:
    assert [_fails(states, FailOn(wanted)) for wanted in ("suspicious", "collapsed", "never")] == expected


def test_a_suspicious_run_fails_where_that_is_asked_for(
    dataset: Path, tmp_path: Path, scarce: Scarce, unseen: None
) -> None:
    said = vitals({"loss": 1.0}, {"loss": 0.5, "loss_bad": 0.1}, blind={})
    path = save(tmp_path / "last.pt", dataset, vitals=said, step=12)
    done = scarce("monitor-collapse", path, *FEW, "--fail-on", "suspicious")
    assert done.code == 9, done.err
    assert "Verdict: suspicious: diverged\n  the loss was not finite in 10.0% of the steps" in done.out
    assert scarce("monitor-collapse", path, "--fail-on", "always").code == 2


def test_json_is_all_there_is_on_stdout(dataset: Path, tmp_path: Path, scarce: Scarce, unseen: None) -> None:
    dead = save(tmp_path / "[red]\x1b[2J" / "last.pt", dataset, constant_encoder(1.0))
    done = scarce("monitor-collapse", dead, "--json")
    assert done.code == 9
    assert json.loads(done.out) == result(dead.parent)
    assert done.out.isascii()
    assert "\x1b" not in done.out + done.err
    assert "no views: its settings are not those of this version" in done.err
    assert "Verdict" not in done.err
    assert json.loads(done.out)["runs"][0]["notes"]


def test_several_runs_are_judged_one_by_one(dataset: Path, tmp_path: Path, scarce: Scarce, unseen: None) -> None:
    """A healthy run given last does not hide a collapsed one; a run's checkpoints are in the order of its steps."""
    dead = save(tmp_path / "dead" / "last.pt", dataset, constant_encoder(1.0), method="dino")
    good = [save(tmp_path / "good" / "encoders" / f"epoch-{n}.pt", dataset, epoch=n) for n in (2, 1)]
    done = scarce("monitor-collapse", dead, *good, "--out", "both", "--images", 12)
    assert done.code == 9
    found = result(Path("both"))
    assert found["verdict"] == "collapsed"
    assert [(one["method"], one["verdict"], [c["epoch"] for c in one["checkpoints"]]) for one in found["runs"]] == [
        ("dino", "collapsed", [1]),
        ("spark", "healthy", [1, 2]),
    ]
    assert done.out.count("Verdict:") == 2
    assert not (tmp_path / "good" / "collapse.json").exists()


def test_what_the_run_itself_saw_counts_where_it_is_worse(
    run: Path, dataset: Path, scarce: Scarce, unseen: None
) -> None:
    """Its films were others, so that its curve and ours are judged apart."""
    saved, _ = checkpoint.load(run / "last.pt")
    readings = [Reading.from_plain(values) for values in saved["origin"]["vitals"]["readings"]]
    worse = replace(readings[0].features, effective_rank=None, films=47)
    kept = [reading.as_plain() for reading in (*readings[:-1], replace(readings[-1], features=worse))]
    (run / "metrics.jsonl").unlink()
    origin = saved["origin"] | {"vitals": saved["origin"]["vitals"] | {"readings": kept}}
    path = save(run / "x.pt", dataset, **origin)
    assert scarce("monitor-collapse", path, *FEW).code == 9
    assert result(run)["runs"][0]["evidence"] == [
        "the features of all 47 films are constant",
        "(as the run measured it itself while it went)",
    ]


def test_fewer_films_and_more_views_can_be_looked_at(run: Path, scarce: Scarce, unseen: None) -> None:
    assert scarce("monitor-collapse", run / "last.pt", "--images", 12, "--views", 3).code == 0
    row = result(run)["runs"][0]["checkpoints"][0]
    assert row["films"] == 12
    assert row["lidar"] > 1
    for wrong in (("--images", 1), ("--images", 0), ("--views", 1), ("--views", -1), ("--films", 12)):
        assert scarce("monitor-collapse", run / "last.pt", *wrong).code == 2


def test_the_result_is_repeatable(run: Path, scarce: Scarce, unseen: None) -> None:
    looked = [scarce("monitor-collapse", run / "last.pt", "--images", 20, "--json").out for _ in range(2)]
    assert looked[0] == looked[1]
    assert (_draw(48, 20, seed=0) == _draw(48, 20, seed=0)).all()
    assert not (_draw(48, 20, seed=0) == _draw(48, 20, seed=1)).all()
    assert len(set(_draw(48, 20, seed=0))) == 20
    assert list(_draw(48, 2048, seed=0)) == list(range(48))


def test_names_are_shown_as_they_are_and_nothing_in_them_is_obeyed(
    dataset: Path, tmp_path: Path, scarce: Scarce, unseen: None
) -> None:
    """Markup, formulas, control characters and bytes that are not UTF-8."""
    path = save(tmp_path / "[red]run[/red]" / "[b]$x$\x1b[2J\udce9.pt", dataset)
    done = scarce("monitor-collapse", path, *FEW)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert "[b]$x$\\x1b[2J\\udce9.pt" in done.out
    assert f"Written: {path.parent}/collapse.json" in done.out
    broken = tmp_path / "[red]x[bold].pt"
    broken.write_text("no checkpoint")
    done = scarce("monitor-collapse", broken)
    assert done.code == 2
    assert str(broken) in done.err


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


def test_the_data_set_can_be_named(run: Path, dataset: Path, tmp_path: Path, scarce: Scarce, unseen: None) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "elsewhere"))
    done = scarce("monitor-collapse", run / "last.pt", "--data", copy, *FEW)
    assert done.code == 0, done.err
    assert done.err == ""
    assert scarce("monitor-collapse", run / "last.pt", "--data", tmp_path / "nothing").code == 2


def test_a_moved_data_set_is_found_in_the_current_folder(
    dataset: Path, tmp_path: Path, scarce: Scarce, unseen: None
) -> None:
    gone = {"folder": str(tmp_path / "gone"), "digest": open_cache(dataset).digest, "films": 48}
    path = save(tmp_path / "run" / "last.pt", dataset, data=gone)
    done = scarce("monitor-collapse", path, *FEW)
    assert done.code == 2  # neither there nor here
    shutil.copytree(dataset, tmp_path / dataset.name)
    done = scarce("monitor-collapse", path, *FEW)
    assert done.code == 0, done.err
    assert f"{tmp_path / 'gone'} that the checkpoint was trained on is gone" in done.err
    assert "are not those that" not in done.err


def test_other_films_than_those_of_the_training_are_a_warning(
    dataset: Path, tmp_path: Path, scarce: Scarce, unseen: None
) -> None:
    data = {"folder": str(dataset), "digest": "0" * 16, "films": 48}
    done = scarce("monitor-collapse", save(tmp_path / "run" / "last.pt", dataset, data=data), "--images", 12)
    assert done.code == 0, done.err
    assert "are not those that the checkpoint was trained on" in done.err


def test_a_folder_that_cannot_be_written(run: Path, tmp_path: Path, scarce: Scarce) -> None:
    (tmp_path / "file").write_text("")
    done = scarce("monitor-collapse", run / "last.pt", "--out", tmp_path / "file" / "x")
    assert done.code == 8
    assert str(tmp_path / "file") in done.err
