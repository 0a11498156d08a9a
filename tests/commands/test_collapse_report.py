"""What is said of a run: a table that fits, the command to copy, and JSON without NaN."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from scarce_cli.checkpoint import EncoderInfo, SavedEncoder
from scarce_cli.commands import console, inputs
from scarce_cli.commands.collapse_history import Checkpoint, History
from scarce_cli.commands.collapse_report import Found, as_curve, as_plain, command, show, worst
from scarce_cli.evaluation.collapse import CollapseMetrics, Reading, Verdict
from scarce_cli.vitals import Change, Cure, Expectations, Failure

HEALTHY = Verdict("healthy", None, ("films are told apart",))
CHANGES = (
    Change(Cure("optimizer.lr", 1e-3, "it learned"), 3e-4),
    Change(Cure("augment.crop_scale", [0.5, 1.0], "larger"), [0.1, 1.0]),
    Change(Cure("optimizer.name", "a b;$(c)", "hostile"), None),
)


def metrics(std: float, **changed: Any) -> CollapseMetrics:
    values: dict[str, Any] = {
        "films": 48, "dimensions": 512, "std": std, "relative_std": std, "dead_dimensions": 3, "mean_cosine": 0.91234,
        "mean_cosine_centred": -0.0123, "effective_rank": 21.25, "rank_cap": 47, "rankme": 9.31, "alpha": 1.234,
        "alpha_range": (6, 40), "uniformity": -0.5123, "alignment": 0.0412, "retrieval": 0.0521, "lidar": 31.71,
    }  # fmt: skip
    return CollapseMetrics(**values | changed)


def found(folder: Path = Path("runs/a b"), verdict: Verdict = HEALTHY, **changed: Any) -> Found:
    info = EncoderInfo("resnet18", 32, 0.5, 0.25)
    saved = SavedEncoder({}, info, folder / "last.pt", "ab", "spark", 2, 0, {"films": 48, "folder": "gone"})
    one = Checkpoint(saved, {"step": 12, "preset": "smoke", "settings": {}})
    expected = Expectations({"loss": 1.0, "reconstruction": 1.0, "explained": 0.0})
    said = Reading(12, 1.0, metrics(0.2), {"loss": 0.75, "reconstruction": 0.75, "explained": math.nan, "x": 5.0})
    history = History(None, expected, (Reading(6, 0.5, metrics(0.15), {"loss": 0.9}),), None, ())
    features = np.eye(4, 8)
    made = Found(
        name=str(folder), checkpoints=[one], metrics=[metrics(0.2)], random=metrics(0.1, lidar=12.0),
        last_ND=features, random_ND=features, history=history, readings=[*history.readings, said], verdict=verdict,
        changes=(),
    )  # fmt: skip
    return replace(made, **changed)


NARROW = {"relative_std": 3, "dead_dimensions": 0, "mean_cosine": 4, "effective_rank": 1, "alpha": 2, "retrieval": 3}
NARROW |= {"lidar": 1}
WIDE = {"mean_cosine_centred": 4, "rankme": 1}
WIDEST = {"uniformity": 3, "alignment": 3}


@pytest.mark.parametrize(
    ("width", "columns"), [(36, NARROW), (80, NARROW), (100, NARROW | WIDE), (120, NARROW | WIDE | WIDEST)]
)
def test_the_table_fits_the_terminal_and_cuts_nothing(
    width: int, columns: dict[str, int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "stdout", lambda: Console(width=width))
    monkeypatch.setattr(inputs, "stdout", console.stdout)
    one = found()
    show(one)
    table = capfd.readouterr().out.partition("features\n")[2].partition("Signals")[0]
    assert 0 < max(map(len, table.splitlines())) <= width
    assert "…" not in table
    shown = "".join(f"{getattr(m, name):.{n}f}" for m in (one.random, *one.metrics) for name, n in columns.items())
    shown += "472"  # the rank's cap and the epoch
    assert {d: table.count(d) for d in "0123456789"} == {d: shown.count(d) for d in "0123456789"}
    if width == 80:
        assert len(table.splitlines()) == 5


def test_what_is_not_known_is_no_number_and_no_column(capfd: pytest.CaptureFixture[str]) -> None:
    unknown = {"alignment": None, "retrieval": None, "lidar": None, "alpha": None}
    show(found(metrics=[metrics(0.0, effective_rank=None, **unknown)], random=metrics(0.1, **unknown)))
    out = capfd.readouterr().out
    for absent in ("LiDAR", "views", "alpha", "None", "nan"):
        assert absent not in out
    (row,) = [line for line in out.splitlines() if line.startswith("last.pt")]
    assert row.split() == ["last.pt", "2", "0.000", "3", "0.9123", "-0.0123", "-", "9.3"]


def test_signals_are_said_beside_what_a_blind_network_has(capfd: pytest.CaptureFixture[str]) -> None:
    show(found())
    assert (
        "told apart): loss 0.75 (1), explained not finite (0)\nVerdict: healthy\n  films are" in capfd.readouterr().out
    )


def test_a_failure_without_a_known_cure_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    show(found(verdict=Verdict("suspicious", Failure.SHRINKING, ("std fell",))))
    out = capfd.readouterr().out
    assert "Verdict: suspicious: shrinking features\n  std fell\nWhat to change is not known" in out


def test_the_command_can_be_copied_whatever_is_in_it(tmp_path: Path) -> None:
    """The recipe beside the checkpoint holds what was changed on the command line as well."""
    folder = tmp_path / "a b"
    sets = ["optimizer.lr=0.001", "augment.crop_scale=[0.5,1.0]", "optimizer.name=a b;$(c)"]
    changes = [word for changed in sets for word in ("--set", changed)]
    words = ["scarce", "pretrain", "spark", "--preset"]
    end = [*changes, "--out", f"{folder}-2"]
    one = found(folder, changes=CHANGES)
    assert shlex.split(command(one)) == [*words, "smoke", *end]
    folder.mkdir()
    (folder / "settings.yaml").write_text("")
    assert shlex.split(command(one)) == [*words, str(folder / "settings.yaml"), *end]
    (folder / "settings.yaml").unlink()
    for preset in ("mine.yaml", "/etc", 3, None):
        other = Checkpoint(one.newest.saved, dict(one.newest.origin) | {"preset": preset})
        assert shlex.split(command(replace(one, checkpoints=[other]))) == changes


def test_the_data_set_of_the_run_is_named_while_it_is_there(tmp_path: Path) -> None:
    one = found(changes=CHANGES[:1])
    there = replace(one.newest.saved, data={"folder": str(tmp_path)})
    one = replace(one, checkpoints=[Checkpoint(there, one.newest.origin)])
    assert f"--preset smoke --data {tmp_path} --set" in command(one)


def test_json_has_everything_and_no_nan() -> None:
    one = found(verdict=Verdict("collapsed", Failure.DIVERGED, ("a", "b")), changes=CHANGES)
    plain = json.loads(json.dumps(as_plain(one), allow_nan=False))
    assert (plain["verdict"], plain["failure"], plain["evidence"]) == ("collapsed", "diverged", ["a", "b"])
    assert plain["changes"][0] == {"key": "optimizer.lr", "now": 3e-4, "to": 1e-3, "why": "it learned"}
    assert plain["command"] == command(one)
    assert CollapseMetrics.from_plain(plain["random_initialisation"]) == one.random
    assert CollapseMetrics.from_plain(plain["checkpoints"][0]) == one.metrics[0]
    assert [reading["step"] for reading in plain["readings"]] == [6, 12]
    assert plain["readings"][1]["signals"]["explained"] is None
    assert as_plain(found())["command"] is None


def test_the_curve_has_the_run_s_own_looks_and_finite_signals() -> None:
    curve = as_curve(found())
    assert curve.epochs == [2.0]  # the settings are not known, so that the epoch is all there is
    assert curve.looks == [(1.0, metrics(0.15))]
    assert curve.signals == {"loss": ([1.0, 2.0], [0.9, 0.75]), "reconstruction": ([2.0], [0.75]), "x": ([2.0], [5.0])}


def test_of_several_verdicts_the_worst_counts() -> None:
    assert worst(["healthy", "collapsed", "suspicious"]) == "collapsed"
    assert worst(["healthy", "suspicious"]) == "suspicious"
    assert worst(["healthy"]) == "healthy"
