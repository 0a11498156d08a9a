"""``scarce visualize``: a picture, or one message that says what to give instead."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Scarce = Callable[..., Any]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The finished run's files in a folder to write into (links: every file is replaced, never changed)."""
    return Path(shutil.copytree(trained, tmp_path / "run", copy_function=os.link))


def test_a_picture_beside_the_checkpoint(run: Path, scarce: Scarce) -> None:
    done = scarce("visualize", "spark", run / "last.pt", "--films", 2)
    assert done.code == 0, done.err
    assert done.out == f"Written: {run / 'reconstructions.png'}\n"
    with Image.open(run / "reconstructions.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"))
    assert pixels.std() > 20


def test_the_seed_fixes_films_and_masks(run: Path, scarce: Scarce) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        done = scarce("visualize", "spark", run / "last.pt", "--films", 2, "--seed", seed, "--out", f"new/{name}.png")
        assert done.code == 0, done.err
    a, b, c = (Path(f"new/{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_picture_has_64_rows_at_most(run: Path, scarce: Scarce) -> None:
    assert scarce("visualize", "spark", run / "last.pt", "--films", 65).code == 2


def test_a_snapshot_of_the_encoder_cannot_paint(run: Path, scarce: Scarce) -> None:
    path = run / "encoders" / "epoch-0001.pt"
    done = scarce("visualize", "spark", path)
    assert done.code == 2
    assert f"{path} holds an encoder only" in done.err
    assert "last.pt" in done.err
    assert not list(run.rglob("reconstruct*.png"))


def test_a_method_that_does_not_exist(run: Path, scarce: Scarce) -> None:
    done = scarce("visualize", "sprak", run / "last.pt")
    assert done.code == 2
    assert "did you mean 'spark'" in done.err


@pytest.mark.parametrize("content", [None, "text"])
def test_what_is_not_a_checkpoint(content: str | None, tmp_path: Path, scarce: Scarce) -> None:
    path = tmp_path / "x.pt"
    if content:
        path.write_text(content)
    done = scarce("visualize", "spark", path)
    assert done.code == 2
    assert str(path) in done.err


def test_the_data_set_can_be_named(run: Path, dataset: Path, tmp_path: Path, scarce: Scarce) -> None:
    copy = shutil.copytree(dataset, tmp_path / "elsewhere")
    assert scarce("visualize", "spark", run / "last.pt", "--data", copy, "--films", 1).code == 0
    done = scarce("visualize", "spark", run / "last.pt", "--data", tmp_path / "nothing")
    assert done.code == 2
    assert str(tmp_path / "nothing") in done.err


def test_names_that_look_like_markup_or_formulas_are_shown_as_they_are(run: Path, scarce: Scarce) -> None:
    folder = run.rename(run.with_name("[red]run[bold]"))
    for file in list(folder.glob("last.pt*")):
        file.rename(folder / file.name.replace("last", "$\\frac{"))
    done = scarce("visualize", "spark", folder / "$\\frac{.pt", "--films", 1)
    assert done.code == 0, done.err
    assert done.out == f"Written: {folder / 'reconstructions.png'}\n"


def test_a_folder_that_cannot_be_written(run: Path, tmp_path: Path, scarce: Scarce) -> None:
    (tmp_path / "file").write_text("")
    done = scarce("visualize", "spark", run / "last.pt", "--out", tmp_path / "file" / "x.png")
    assert done.code == 8
    assert str(tmp_path / "file") in done.err
