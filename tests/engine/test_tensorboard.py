"""Event files for TensorBoard, read by TensorBoard's own reader."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from scarce_cli.engine import tensorboard
from scarce_cli.engine.tensorboard import TensorBoard

STEADY = settings(max_examples=60, deadline=None, derandomize=True)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> (step, value), as TensorBoard shows them."""
    reader = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def events(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Every record of one file: step and values."""
    return [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in LegacyEventFileLoader(str(path)).Load()]


def session(folder: Path, steps: range, from_step: int, **values: float) -> None:
    board = TensorBoard(folder, from_step=from_step, warn=pytest.fail)
    for step in steps:
        board.log({name: value * step for name, value in values.items()}, step)
    board.finish()


def test_off_writes_nothing(tmp_path: Path) -> None:
    board = TensorBoard(None, from_step=0, warn=pytest.fail)
    board.log({"loss": 1.0}, 1)
    board.finish()
    assert list(tmp_path.iterdir()) == []


def test_its_own_reader_finds_every_value(tmp_path: Path) -> None:
    session(tmp_path / "tensorboard", range(1, 8), 0, loss=0.25, lr=-1e-3)
    found = scalars(tmp_path / "tensorboard")
    assert found["loss"] == [(n, 0.25 * n) for n in range(1, 8)]
    assert found["lr"] == [(n, float(np.float32(-1e-3 * n))) for n in range(1, 8)]
    assert [*found] == ["loss", "lr"]


@STEADY
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.text(max_size=300), st.floats() | st.integers(-(2**200), 2**200), max_size=4),
            st.integers(0, 2**63 - 2),
        ),
        max_size=4,
    )
)
def test_any_tag_value_and_step_arrive(tmp_path_factory: pytest.TempPathFactory, sets: list) -> None:
    folder = tmp_path_factory.mktemp("events")
    board = TensorBoard(folder, from_step=0, warn=pytest.fail)
    for values, step in sets:
        board.log(values, step)
    board.finish()
    (path,) = folder.iterdir()
    head, start, *found = events(path)
    assert (head, start) == ((0, {}), (1, {}))
    for (values, step), (found_step, found_values) in zip(sets, found, strict=True):
        assert found_step == step
        with np.errstate(over="ignore"):
            wanted = {tag.encode("utf-8", "replace").decode(): float(np.float32(v)) for tag, v in values.items()}
        np.testing.assert_equal(found_values, wanted)


def test_values_beyond_float32_are_infinite_and_what_is_not_a_number_stays_so(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, from_step=0, warn=pytest.fail)
    values = {"large": 1e39, "small": -1e39, "nan": math.nan, "inf": math.inf, "most": 3.4028234663852886e38}
    board.log(values, 1)
    board.finish()
    found = {tag: value for tag, ((_, value),) in scalars(tmp_path).items()}
    np.testing.assert_equal(
        found, {"large": math.inf, "small": -math.inf, "nan": math.nan, "inf": math.inf, "most": values["most"]}
    )


def test_a_run_that_was_rolled_back_shows_each_step_once(tmp_path: Path) -> None:
    session(tmp_path, range(1, 8), 0, loss=1.0)
    session(tmp_path, range(4, 10), 3, loss=100.0)
    assert scalars(tmp_path)["loss"] == [(1, 1), (2, 2), (3, 3), *((n, 100.0 * n) for n in range(4, 10))]
    session(tmp_path, range(0), 5, loss=1.0)  # what was logged after step 5 is hidden before anything new is there
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [1, 2, 3, 4, 5]


def test_files_are_in_order_though_the_clock_was_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for time, steps, from_step in ((2_000_000_000, range(1, 8), 0), (1_000_000_000, range(4, 10), 3)):
        monkeypatch.setattr(tensorboard.time, "time", lambda time=time: time)
        session(tmp_path, steps, from_step, loss=1.0)
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_other_files_in_the_folder_do_not_matter(tmp_path: Path) -> None:
    for name in ("events.out.tfevents.", "events.out.tfevents.x.y", "events.out.tfevents.²", "notes.txt"):
        (tmp_path / name).touch()
    session(tmp_path, range(1, 3), 0, loss=1.0)
    assert len(scalars(tmp_path)["loss"]) == 2


def test_a_record_is_whole_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, from_step=0, warn=pytest.fail)
    (path,) = tmp_path.iterdir()
    for step in (1, 2, 3):
        board.log({"loss": 1.0}, step)
        assert [number for number, _ in events(path)[2:]] == [*range(1, step + 1)]
    board.finish()


def test_a_record_cut_by_a_kill_costs_only_itself(tmp_path: Path) -> None:
    session(tmp_path, range(1, 4), 0, loss=1.0)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    assert length == 24  # the version: 9 bytes for the time, 2 and 13 for the text
    path.write_bytes(whole[:-5])
    session(tmp_path, range(3, 5), 2, loss=1.0)
    assert scalars(tmp_path)["loss"] == [(n, float(n)) for n in range(1, 5)]


def test_a_flipped_bit_is_seen_by_the_reader(tmp_path: Path) -> None:
    """The checksums are right, and are looked at."""
    session(tmp_path, range(1, 4), 0, loss=1.0)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    assert len(events(path)) == 2 + 2


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()
    warnings: list[str] = []
    board = TensorBoard(tmp_path / "tensorboard", from_step=0, warn=warnings.append)
    for step in (1, 2):
        board.log({"loss": 1.0}, step)
    board.finish()
    (warning,) = warnings
    assert warning.startswith("TensorBoard failed (ResourceError: cannot write ")
    assert warning.endswith("metrics.jsonl goes on without it")


def test_a_disk_that_fills_up_is_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    board = TensorBoard(tmp_path, from_step=0, warn=warnings.append)
    assert board._handle is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, board._handle.fileno())
    os.close(full)
    for step in (1, 2, 3):
        board.log({"loss": 1.0}, step)
    board.finish()
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]
