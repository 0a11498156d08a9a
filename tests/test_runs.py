"""A run's folder: never overwritten, one writer, a log that survives kills, settings that repeat the run."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scarce_cli import runs
from scarce_cli.config import RunConfig
from scarce_cli.errors import Locked, ResourceError, UsageError
from scarce_cli.presets import load_preset, preset_folder, validate
from scarce_cli.runs import (
    MetricsLog,
    RunFolder,
    check_empty,
    check_new_run,
    existing_run,
    new_run,
    read_metrics,
    record_skipped,
    write_settings,
)

SHIPPED = sorted(preset_folder().glob("*/*.yaml"))


def _config(*overrides: str) -> RunConfig:
    return validate(load_preset("smoke", "spark", overrides), RunConfig)


def test_a_new_run_has_its_folders_and_paths() -> None:
    run = new_run(Path("runs/a"))
    assert sorted(path.name for path in run.path.rglob("*")) == ["encoders"]
    names = [p.name for p in (run.last, run.previous, run.settings, run.metrics, run.skipped, run.curves, run.readme)]
    assert names == [
        "last.pt", "previous.pt", "settings.yaml", "metrics.jsonl", "skipped.jsonl", "curves.png", "README.md",
    ]  # fmt: skip
    assert (run.tensorboard.name, run.wandb.name) == ("tensorboard", "wandb.json")
    for epoch in (10, 2, 100):
        run.snapshot(epoch).touch()
    run.snapshot(2).with_suffix(".pt.sha256").touch()
    assert [path.name for path in run.snapshots()] == ["epoch-0002.pt", "epoch-0010.pt", "epoch-0100.pt"]


def test_a_run_is_never_overwritten() -> None:
    run = new_run(Path("runs/a"))
    run.settings.write_text("x")
    for action in (check_new_run, check_empty, new_run):
        with pytest.raises(UsageError, match="the run folder runs/a exists already") as error:
            action(run.path)
        assert "--resume" in error.value.remedy
        assert "--out" in error.value.remedy
    assert run.settings.read_text() == "x"
    Path("file").touch()
    with pytest.raises(UsageError, match="file is a file, not a run's folder"):
        check_new_run(Path("file"))


def test_what_a_start_that_failed_left_is_no_obstacle() -> None:
    """Killed between making the folder and writing the settings: neither a new run nor --resume would work."""
    run = new_run(Path("runs/a"))
    with run.lock():
        (run.path / ".settings.yaml.1.scarce-tmp").touch()
    new_run(run.path)
    (run.path / "encoders" / "mine.txt").touch()
    with pytest.raises(UsageError):
        new_run(run.path)


def test_checking_writes_nothing(tmp_path: Path) -> None:
    check_new_run(Path("runs/deep/a"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UsageError):
        check_new_run(tmp_path / "photos")
    with pytest.raises(UsageError, match="no run to go on with in photos"):
        existing_run(Path("photos"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.jpg", "photos"]


def test_a_folder_that_cannot_be_written_is_found_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    for path in (Path("file/a"), Path("file/a/b")):
        for action in (check_new_run, new_run):
            with pytest.raises(ResourceError, match="cannot write"):
                action(path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ResourceError, match="cannot write in ") as error:
        check_new_run(Path("runs/a"))
    assert error.value.remedy


def test_a_second_run_in_the_folder_is_locked_out() -> None:
    run = new_run(Path("runs/a"))
    with run.lock():
        run.settings.write_text("x")
        for action in (check_new_run, existing_run, lambda path: RunFolder(path).lock().__enter__()):
            with pytest.raises(Locked, match=f"runs/a is in use: a run writes there .process {os.getpid()} on "):
                action(run.path)
    existing_run(run.path)


def test_the_lock_clears_what_killed_runs_left() -> None:
    run = new_run(Path("runs/a"))
    dead = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(dead, 0)
    for folder in (run.path, run.path / "encoders"):
        (folder / f".last.pt.{dead}.scarce-tmp").touch()
        (folder / "kept.pt").touch()
    with run.lock():
        left = sorted(path.name for path in run.path.rglob("*"))
    assert left == [".lock", "encoders", "kept.pt", "kept.pt"]


def _log(from_step: int, *lines: tuple[str, dict]) -> None:
    log = MetricsLog(Path("m.jsonl"), from_step=from_step)
    for kind, values in lines:
        log.write(kind, values)
    log.close()


def test_the_log_goes_on_where_the_run_was_rolled_back_to() -> None:
    steps = [("step", {"step": n, "loss": n / 10}) for n in range(1, 7)]
    _log(0, *steps[:3], ("epoch", {"step": 3, "epoch": 1}), *steps[3:])
    _log(3, ("step", {"step": 4, "loss": 9.0}))
    found = read_metrics(Path("m.jsonl"))
    assert [(line["kind"], line["step"], line.get("loss")) for line in found] == [
        ("step", 1, 0.1), ("step", 2, 0.2), ("step", 3, 0.3), ("epoch", 3, None), ("step", 4, 9.0),
    ]  # fmt: skip
    _log(0)
    assert Path("m.jsonl").read_text() == ""


def test_the_log_knows_how_far_it_was_before_the_roll_back() -> None:
    _log(0, *(("step", {"step": n}) for n in range(1, 7)))
    log = MetricsLog(Path("m.jsonl"), from_step=3)
    assert log.logged == 6
    log.close()
    Path("n.jsonl").write_text('{"step": "many"}\n{"loss": 1}\n{"step": null}\n{"step": 1e400}\n')
    for path, logged in (("m.jsonl", 3), ("n.jsonl", 0), ("none.jsonl", 0)):
        log = MetricsLog(Path(path), from_step=9)
        assert log.logged == logged
        log.close()


@pytest.mark.parametrize("line", ["[" * 100_000, '{"step": ' + "9" * 5_000 + "}", "[1, 2]", '{"step": '])
def test_a_line_that_nobody_of_ours_wrote_is_left_out(line: str) -> None:
    Path("metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    assert read_metrics(Path("metrics.jsonl")) == [{"step": 1}, {"step": 2}]


def test_a_line_cut_by_a_kill_is_left_out_and_the_next_is_whole() -> None:
    _log(0, ("step", {"step": 1, "loss": 0.1}), ("step", {"step": 2, "loss": 0.2}))
    path = Path("m.jsonl")
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert [line["step"] for line in read_metrics(path)] == [1]
    _log(5, ("step", {"step": 6, "loss": 0.6}))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 6]
    path.write_bytes(b'\xff\x00 no json\n[1]\n7\n{"step": "many"}\n{"step": 1}\n')
    _log(5)
    assert read_metrics(path) == [{"step": 1}]


def test_every_line_is_json_and_on_disk_at_once() -> None:
    log = MetricsLog(Path("m.jsonl"), from_step=0)
    log.write("step", {"step": 1, "loss": math.nan, "lr": math.inf, "scale": -math.inf, "note": "a\nb\u2028c"})
    (line,) = Path("m.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "kind": "step", "step": 1, "loss": None, "lr": None, "scale": None, "note": "a\nb\u2028c",
    }  # fmt: skip
    log.close()


def test_a_log_on_a_full_disk_is_a_message() -> None:
    log = MetricsLog(Path("m.jsonl"), from_step=0)
    log._handle.close()
    with open("/dev/full", "w") as full:
        log._handle = full
        with pytest.raises(ResourceError, match=r"the disk is full: cannot write m\.jsonl"):
            log.write("step", {"step": 1})
        log.close()
    Path("folder.jsonl").mkdir()
    with pytest.raises(ResourceError, match=r"cannot write folder\.jsonl"):
        MetricsLog(Path("folder.jsonl"), from_step=0)


def _skip(step: int, run: RunFolder) -> None:
    rows = np.arange(3) + step
    record_skipped(run, step=step, what="the loss is nan", films=[f"film {row}.png" for row in rows], rows=rows)


def _skipped(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in run.skipped.read_text().splitlines()]


def test_a_step_that_could_not_be_taken_is_written_down_with_its_films() -> None:
    run = new_run(Path("runs/a"))
    hostile = ["a\nb.png", 'a"b.png', os.fsdecode(b"caf\xe9.png"), "肺.png"]
    record_skipped(run, step=7, what="the loss is nan", films=hostile, rows=[3, 1, 4, 1])
    assert _skipped(run) == [{"step": 7, "what": "the loss is nan", "films": hostile, "rows": [3, 1, 4, 1]}]
    _skip(9, run)
    assert [line["step"] for line in _skipped(run)] == [7, 9]
    assert _skipped(run)[1]["rows"] == [9, 10, 11]


def test_a_step_that_is_taken_again_after_a_roll_back_is_written_down_once() -> None:
    run = new_run(Path("runs/a"))
    for step in (5, 6, 5, 6, 7):
        _skip(step, run)
    assert [line["step"] for line in _skipped(run)] == [5, 6, 7]


def test_skipped_steps_fill_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_MOST_SKIPPED", 20)
    run = new_run(Path("runs/a"))
    sizes = set()
    for step in range(1, 321):
        _skip(step, run)
        if step > 20:
            sizes.add(run.skipped.stat().st_size)
    assert len(sizes) == 1
    *lines, last = _skipped(run)
    assert [line["step"] for line in lines] == [*range(1, 21)]
    assert last == {"more": 300}


def test_a_line_cut_by_a_kill_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_MOST_SKIPPED", 3)
    run = new_run(Path("runs/a"))
    for step in range(1, 6):
        _skip(step, run)
        with run.skipped.open("ab") as handle:
            handle.write(b'{"step": 99, "wh')
    lines = read_metrics(run.skipped)
    assert [line.get("step") for line in lines[:3]] == [1, 2, 3]
    assert [line.get("more") for line in lines[3:]] == [1, 2]


def test_a_skipped_step_is_on_the_disk_before_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run, synced = new_run(Path("runs/a")), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    _skip(1, run)
    assert synced == [run.skipped.stat().st_size] != [0]


def test_skipped_steps_that_cannot_be_written_are_a_message() -> None:
    run = RunFolder(Path("runs/none"))
    with pytest.raises(ResourceError, match=r"cannot write runs/none/skipped\.jsonl"):
        _skip(1, run)
    full = new_run(Path("runs/full"))
    full.skipped.symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"the disk is full: cannot write runs/full/skipped\.jsonl"):
        _skip(1, full)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_saved_settings_are_a_preset_that_repeats_the_run(path: Path) -> None:
    config = validate(load_preset(path.parent.name, path.stem), RunConfig)
    run = new_run(Path("runs/a"))
    write_settings(run, config.model_dump(mode="json"), "a run\nof two lines")
    assert validate(load_preset(str(run.settings), path.stem), RunConfig) == config
    assert run.settings.read_text().startswith("# a run\n# of two lines\n")


@given(
    lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False),
    low=st.floats(min_value=1e-300, max_value=1, allow_subnormal=False),
    method=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=3),
)
def test_any_value_survives_the_settings_file(lr: float, low: float, method: dict) -> None:
    config = _config()
    config = config.model_copy(
        update={
            "optimizer": config.optimizer.model_copy(update={"lr": lr}),
            "augment": config.augment.model_copy(update={"crop_scale": (low, 1.0)}),
            "method": method,
        }
    )
    run = RunFolder(Path())
    write_settings(run, config.model_dump(mode="json"), os.fsdecode(b"--out runs/\xff\nrun: evil"))
    assert validate(load_preset("settings.yaml", "spark"), RunConfig) == config
