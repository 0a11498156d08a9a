"""The manifest's rows survive every name, and its measures are exact."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scarce_cli.data.manifest import (
    DONE,
    SKIPPED,
    Row,
    cache_order,
    film_columns,
    films_digest,
    measure,
    pixel_hashes,
    pixel_keys,
    read_manifest,
    row_from_json,
    row_to_json,
    write_manifest,
)
from scarce_cli.errors import DamagedData, UnsafeInput

NAMES = ["plain.png", "a, b;c.png", 'quo"te.png', "new\nline.png", "ü/ñ.png", os.fsdecode(b"latin\xe9.png"), "=1+1.png"]


def rows() -> list[Row]:
    return [
        Row(
            name, DONE, "", "PNG", "L", 8, 30, 20, -1.5, 1e-7, number % 2 == 0, f"{number:032x}",
            f"images/{name}", "", "", "inverted", "0" * 64, 10, 2**60 + number, 99, 2**40, 2**50,
        )
        for number, name in enumerate(NAMES)
    ] + [Row("bad.png", SKIPPED, "truncated PNG")]  # fmt: skip


def test_round_trip_of_csv_and_journal(tmp_path: Path) -> None:
    write_manifest(tmp_path, rows())
    assert read_manifest(tmp_path) == rows()
    assert [row_from_json(row_to_json(row)) for row in rows()] == rows()
    assert (tmp_path / "bad_files.csv").read_text().splitlines() == ["path,reason", "bad.png,truncated PNG"]


def test_no_manifest_has_no_rows(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == []


def test_pixel_hashes_are_found_by_name(tmp_path: Path) -> None:
    assert pixel_hashes(tmp_path, ["plain.png"]) == ("",)
    write_manifest(tmp_path, rows())
    hashes = [f"{number:032x}" for number in range(len(NAMES))]
    assert pixel_hashes(tmp_path, [*NAMES[::-1], "bad.png", "gone.png"]) == (*hashes[::-1], "", "")
    found = film_columns(tmp_path, [NAMES[1], "gone.png"], ("bits", "width"))
    assert found == {"bits": ("8", ""), "width": ("30", "")}
    (tmp_path / "manifest.csv").write_text("path,status\nx,done\n")
    with pytest.raises(DamagedData, match=r"manifest\.csv"):
        pixel_hashes(tmp_path, ["x"])


def test_keys_are_the_first_64_bits_in_order() -> None:
    hashes = ["f" * 16 + "0" * 16, "0" * 15 + "1" + "e" * 16, "f" * 32, "", "no hash", "7" * 31]
    assert pixel_keys(hashes).tolist() == [-1, 1]


@pytest.mark.parametrize("text", ["path,status\nx.png,done\n", "\x00\n", "path\n1,2,3\n"])
def test_a_broken_manifest_is_damaged_data(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    if text != "\x00\n":
        with pytest.raises(DamagedData, match=r"manifest\.csv"):
            read_manifest(tmp_path)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b.png"])
@pytest.mark.parametrize("field", ["path", "output"])
def test_a_path_out_of_the_folder_is_unsafe(tmp_path: Path, field: str, path: str) -> None:
    write_manifest(tmp_path, [replace(rows()[0], **{field: path})])
    with pytest.raises(UnsafeInput, match="leads out"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "line", ["", "[1, 2]", "{}", '["a.png", "done"', row_to_json(rows()[0]).replace("8,", '"8",', 1)]
)
def test_a_torn_journal_line_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        row_from_json(line)


def test_measures_are_those_of_all_pixels() -> None:
    films = np.random.default_rng(0).integers(0, 256, (7, 32, 32), np.uint8)
    made = [
        Row(str(i), DONE, total=int(film.sum(dtype=int)), squares=int((film.astype(int) ** 2).sum()))
        for i, film in enumerate(films)
    ]
    count, mean, std = measure([*made, Row("bad", SKIPPED)], 32)
    assert count == 7
    assert mean == pytest.approx((films / 255).mean(), abs=1e-12)
    assert std == pytest.approx((films / 255).std(), abs=1e-12)
    assert measure([], 32) == (0, 0.0, 0.0)
    assert measure(made[::-1], 32) == measure(made, 32)


def test_digest_knows_names_pixels_and_order() -> None:
    first = rows()
    assert films_digest(first) == films_digest(rows())
    assert films_digest(first[::-1]) != films_digest(first)
    assert films_digest([replace(first[0], pixel_hash="f"), *first[1:]]) != films_digest(first)
    assert films_digest(first[:-1]) == films_digest(first)  # what was skipped is not in the set


@pytest.mark.parametrize(
    ("statuses", "order"),
    [
        ("....", [0, 1, 2, 3]),
        (".x..", [0, 3, 2]),
        ("x..x", [2, 1]),
        ("xxxx", []),
        ("x", []),
        ("..xx", [0, 1]),
        ("xx...", [4, 3, 2]),
    ],
)
def test_the_last_films_take_the_places_of_bad_ones(statuses: str, order: list[int]) -> None:
    made = [Row(str(i), DONE if c == "." else SKIPPED) for i, c in enumerate(statuses)]
    assert cache_order(made) == order
