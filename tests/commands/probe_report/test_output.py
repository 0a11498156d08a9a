"""What is written: all of it, whole, and nothing of an earlier probe."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from scarce_cli.commands.probe_report import FILES, as_plain, write_result
from scarce_cli.errors import ResourceError
from scarce_cli.evaluation.fewshot.result import Estimate
from tests.evaluation.fewshot import examples


def small():
    """Cheap to draw."""
    return examples.linear(("Pneumonia",), (5,))


def test_a_probe_then_cases_in_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "episodes.json").write_text("{}")
    (tmp_path / ".probe.json.999999999.scarce-tmp").write_text("half")
    first = write_result(small(), tmp_path)
    assert [p.name for p in first] == ["probe.json", "probe.csv", "probe.png", "calibration.png", "report.html"]
    second = write_result(examples.cases(), tmp_path)
    assert [p.name for p in second] == ["probe.json", "cases.csv", "cases.png", "report.html"]
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in second} | {"episodes.json"}
    assert json.loads((tmp_path / "probe.json").read_text())["mode"] == "cases"


def test_nothing_to_draw_still_has_a_report(tmp_path: Path) -> None:
    written = write_result(replace(small(), scores=(), means=()), tmp_path / "new" / "folder")
    assert [p.name for p in written] == ["probe.json", "report.html"]
    assert "Nothing could be tested" in written[1].read_text()


def test_json_is_the_result_and_the_same_each_time(tmp_path: Path) -> None:
    result = examples.everything()
    assert as_plain(result) == json.loads(json.dumps(asdict(result)))  # an independent way, where all is finite
    hostile = examples.hostile()
    text = json.dumps(as_plain(hostile), allow_nan=False)
    assert json.loads(text)["scores"][-1]["sensitivity_90"] == {"mean": None, "sd": None, "low": None, "high": None}
    assert json.loads(text)["scores"][0]["finding"] == hostile.scores[0].finding
    write_result(examples.cases(), tmp_path)
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_result(examples.cases(), tmp_path)
    assert first == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_all_kinds_of_settings_become_plain() -> None:
    value = {"a": (1, 2.5), 3: Path("x/y"), "n": math.nan, "b": True, "s": frozenset({"b", "a"}), "none": None}
    made = as_plain({**value, "e": Estimate(1.0, 0.0, -math.inf, math.inf)})
    end = {"mean": 1.0, "sd": 0.0, "low": None, "high": None}
    wanted = {"a": [1, 2.5], "3": "x/y", "n": None, "b": True, "s": ["a", "b"], "none": None, "e": end}
    assert made == wanted
    assert made["b"] is True


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match=str(tmp_path)):
        write_result(small(), tmp_path)


@pytest.mark.parametrize("name", ["cases.csv", "probe.png"])
def test_what_stands_in_the_way_is_named(tmp_path: Path, name: str) -> None:
    """A file to replace, and one to remove."""
    (tmp_path / name).mkdir()
    with pytest.raises(ResourceError, match=name):
        write_result(examples.cases(), tmp_path)
    assert not list(tmp_path.glob(".*"))
    assert name in FILES


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scarce_cli import files

    (tmp_path / "probe.json").write_text("{}")
    files._fault_counts.clear()
    monkeypatch.setenv("SCARCE_FAULT", "figure.pre_rename:2:enospc")
    with pytest.raises(ResourceError, match="disk is full"):
        write_result(small(), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"probe.json", "probe.png"}
    assert (tmp_path / "probe.json").read_text() == "{}"
