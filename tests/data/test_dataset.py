"""dataset.json: claimed once, refused by name, found when there is one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from scarce_cli.data.dataset import Dataset, claim, find_dataset, read_dataset, write_dataset
from scarce_cli.data.film import Settings
from scarce_cli.errors import DamagedData, UsageError


def dataset(folder: Path) -> Dataset:
    folder.mkdir(exist_ok=True)
    return Dataset(folder, Path("/films"), Settings(256))


def test_claim_then_same_then_other_settings(tmp_path: Path) -> None:
    wanted = dataset(tmp_path)
    assert claim(wanted) == wanted
    write_dataset(replace(wanted, complete=True, mean=0.5, std=0.25, counts={"films": 3}, films="ab"))
    assert claim(wanted).mean == 0.5
    other = replace(wanted, settings=Settings(224, "minmax"), source=Path("/others"))
    with pytest.raises(UsageError) as error:
        claim(other)
    for part in ("size 256 there, 224 now", "window percentile there, minmax now", "/films there, /others now"):
        assert part in error.value.message
    assert "fit" not in error.value.message
    assert "--out" in error.value.remedy


def test_another_version_of_the_arithmetic_is_refused(tmp_path: Path) -> None:
    claim(dataset(tmp_path))
    path = tmp_path / "dataset.json"
    path.write_text(path.read_text().replace('"pixels_version": 1', '"pixels_version": 0'))
    with pytest.raises(UsageError, match="pixels_version 0 there, 1 now"):
        claim(dataset(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"settings": 3}', "[" * 100_000])
def test_broken(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DamagedData, match=r"dataset\.json"):
        read_dataset(tmp_path)


def test_impossible_settings_are_damage_and_not_usage(tmp_path: Path) -> None:
    claim(dataset(tmp_path))
    value = json.loads((tmp_path / "dataset.json").read_text())
    value["settings"]["size"] = 10**9
    (tmp_path / "dataset.json").write_text(json.dumps(value))
    with pytest.raises(DamagedData):
        read_dataset(tmp_path)


def test_find(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no prepared data set") as error:
        find_dataset(tmp_path, None)
    assert "scarce preprocess" in error.value.remedy
    claim(dataset(tmp_path / "a-256"))
    assert find_dataset(tmp_path, None) == tmp_path / "a-256"
    claim(dataset(tmp_path / "b-256"))
    with pytest.raises(UsageError, match="a-256, b-256") as error:
        find_dataset(tmp_path, None)
    assert "--data a-256" in error.value.remedy
    assert find_dataset(tmp_path, tmp_path / "b-256") == tmp_path / "b-256"
    with pytest.raises(UsageError, match="is no prepared data set"):
        find_dataset(tmp_path, tmp_path)


def test_twenty_jobs_that_start_at_once_claim_one_data_set(tmp_path: Path) -> None:
    children = []
    for number in range(20):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                claim(replace(dataset(tmp_path), settings=Settings(256 if number % 2 else 224)))
                code = 0
            except UsageError:
                code = 2
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0] * 10 + [2] * 10  # one of the two settings won, for all
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]
