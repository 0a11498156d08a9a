"""``scarce probe``: the planted finding is found, and every mistake in the table is one message."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from scarce_cli.commands import console, inputs
from scarce_cli.files import sha256

Scarce = Callable[..., Any]
QUICK = ("--finding", "Disc", "--test-fraction", 0.4, "--shots", "1,5")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The finished run's files in a folder to write into (links: every file is replaced, never changed)."""
    return Path(shutil.copytree(trained, tmp_path / "run", copy_function=os.link))


@pytest.fixture
def labels(films_folder: Path) -> Path:
    return films_folder / "labels.csv"


def changed(labels: Path, path: Path, change: Callable[[str], str]) -> Path:
    path.write_text(change(labels.read_text()))
    return path


def test_the_planted_finding_is_found(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK)
    assert done.code == 0, done.err
    document = json.loads((run / "probe" / "probe.json").read_text())
    best = {(s["initialisation"], s["shots"]): s["auc"]["mean"] for s in document["scores"]}
    assert set(best) == {(name, shots) for name in ("random", "spark epoch 2") for shots in (1, 5)}
    assert best["spark epoch 2", 5] > 0.95
    assert document["checkpoints"][0]["sha256"] == sha256(run / "last.pt")
    assert document["settings"]["shots"] == [1, 5]
    assert document["note"] == "For research; not for diagnosis."
    assert "Disc against the rest (tested on " in done.out
    assert "left out" not in done.out
    with Image.open(run / "probe" / "probe.png") as image:
        assert image.format == "PNG"


def test_the_table_of_numbers_is_the_document(run: Path, labels: Path, scarce: Scarce) -> None:
    scarce("probe", run / "last.pt", "--labels", labels, *QUICK, "--out", "there")
    scores = json.loads(Path("there/probe.json").read_text())["scores"]
    with open("there/probe.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(scores) == 4
    for row, score in zip(rows, scores, strict=True):
        for name in ("finding", "negative", "initialisation"):
            assert row[name] == score[name]
        for name in ("shots", "draws", "test_positives", "test_negatives"):
            assert int(row[name]) == score[name]
        assert float(row["auc"]) == pytest.approx(score["auc"]["mean"], abs=1e-6)
        for name in ("sd", "low", "high"):
            assert float(row[name]) == pytest.approx(score["auc"][name], abs=1e-6)
        if score["difference"] is None:
            assert row["difference"] == row["difference_low"] == row["difference_high"] == ""
        else:
            assert float(row["difference"]) == pytest.approx(score["difference"]["mean"], abs=1e-6)
            assert float(row["difference_low"]) == pytest.approx(score["difference"]["low"], abs=1e-6)
            assert float(row["difference_high"]) == pytest.approx(score["difference"]["high"], abs=1e-6)


def test_the_result_is_repeatable_and_the_seed_changes_it(run: Path, labels: Path, scarce: Scarce) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert scarce("probe", run / "last.pt", "--labels", labels, *QUICK, "--seed", seed, "--out", folder).code == 0
    a, b, c = (Path(folder, "probe.csv").read_text() for folder in "abc")
    assert a == b != c


def test_checkpoints_are_compared_side_by_side(run: Path, labels: Path, scarce: Scarce) -> None:
    shutil.copy(run / "last.pt", "copy.pt")
    done = scarce(
        "probe", run / "last.pt", run / "encoders" / "epoch-0001.pt", "copy.pt", "--labels", labels, *QUICK,
        "--out", "there",
    )  # fmt: skip
    assert done.code == 0, done.err
    with open("there/probe.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    names = list(dict.fromkeys(row["initialisation"] for row in rows))
    assert names == ["random", f"spark epoch 2 ({run / 'last.pt'})", "spark epoch 1", "spark epoch 2 (copy.pt)"]
    by_name = {row["initialisation"]: row["auc"] for row in rows if row["shots"] == "5"}
    assert by_name[names[1]] == by_name[names[3]]


def test_a_named_negative(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK, "--negative", "No Finding")
    assert done.code == 0, done.err
    assert "Disc against No Finding" in done.out


def test_findings_are_chosen_and_healthy_is_none_of_them(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, "--test-fraction", 0.5, "--shots", 1, "--seed", 1)
    assert done.code == 0, done.err
    assert "Disc against the rest" in done.out
    assert "No Finding against" not in done.out


def test_too_few_films_for_any_finding(run: Path, labels: Path, scarce: Scarce) -> None:
    few = changed(labels, Path("few.csv"), lambda text: text.replace("Disc", "No Finding", 20))
    done = scarce("probe", run / "last.pt", "--labels", few)
    assert done.code == 2
    assert "no finding has enough films" in done.err


def test_more_shots_than_films_are_named_and_left_out(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK[:-1], "1,50")
    assert done.code == 0, done.err
    assert "left out: Disc against the rest, 50 shots: only " in done.out
    assert "50 shots " not in done.out.partition("left out")[0]
    document = json.loads((run / "probe" / "probe.json").read_text())
    assert [row["shots"] for row in document["skipped"]] == [50]


def test_nothing_to_compute_still_leaves_a_document(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK[:-1], "40,50")
    assert done.code == 0, done.err
    assert not (run / "probe" / "probe.png").exists()
    document = json.loads((run / "probe" / "probe.json").read_text())
    assert (document["scores"], len(document["skipped"])) == ([], 2)


def test_a_finding_that_nobody_has(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, "--finding", "Disk")
    assert done.code == 2
    assert "no film is labelled 'Disk'; did you mean 'Disc'?" in done.err
    assert "Disc (24)" in done.err
    assert "No Finding (24)" in done.err


def test_a_table_without_the_column(run: Path, labels: Path, scarce: Scarce) -> None:
    path = changed(labels, Path("x.csv"), lambda text: text.replace("image,", "photo,", 1))
    done = scarce("probe", run / "last.pt", "--labels", path)
    assert done.code == 2
    assert "x.csv has no image column" in done.err
    assert "photo" in done.err


def test_no_table(run: Path, tmp_path: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", tmp_path / "nothing.csv")
    assert done.code == 2
    assert str(tmp_path / "nothing.csv") in done.err


def test_what_is_not_a_checkpoint(labels: Path, tmp_path: Path, scarce: Scarce) -> None:
    (tmp_path / "x.pt").write_text("text")
    for path in (tmp_path / "x.pt", tmp_path / "missing.pt", tmp_path):
        done = scarce("probe", path, "--labels", labels)
        assert done.code == 2
        assert str(path) in done.err


@pytest.mark.parametrize("path", ["../f00.png", "/etc/passwd", "a/../../f00.png", "C:\\f00.png"])
def test_a_path_that_leads_out_is_refused(run: Path, labels: Path, scarce: Scarce, path: str) -> None:
    table = changed(labels, Path("x.csv"), lambda text: text.replace("f00.png", path))
    done = scarce("probe", run / "last.pt", "--labels", table, *QUICK)
    assert done.code == 4
    assert "x.csv, line 2" in done.err
    assert not (run / "probe").exists()


def test_labels_without_films_are_counted_and_too_many_are_three(run: Path, labels: Path, scarce: Scarce) -> None:
    extra = "".join(f"gone{n:02d}.png,Q{n},Disc\n" for n in range(7))
    table = changed(labels, Path("x.csv"), lambda text: text + extra)
    done = scarce("probe", run / "last.pt", "--labels", table, *QUICK)
    assert done.code == 3
    assert "7 of 55 labels in x.csv have no film" in done.err
    assert "gone00.png, gone01.png, gone02.png, gone03.png, gone04.png, …" in done.err
    assert "--max-bad" in done.err
    done = scarce("probe", run / "last.pt", "--labels", table, *QUICK, "--max-bad", 0.2)
    assert done.code == 0
    assert "warning: 7 labels have no film" in done.err


def test_films_without_labels_are_left_out_and_counted(run: Path, labels: Path, scarce: Scarce) -> None:
    table = changed(labels, Path("x.csv"), lambda text: "\n".join(text.splitlines()[:41]))
    done = scarce("probe", run / "last.pt", "--labels", table, *QUICK)
    assert done.code == 0, done.err
    assert "8 films have no label and are left out" in done.err


def test_no_label_fits_any_film(run: Path, labels: Path, scarce: Scarce) -> None:
    table = changed(labels, Path("x.csv"), lambda text: text.replace("f", "g").replace("gindings", "findings"))
    done = scarce("probe", run / "last.pt", "--labels", table, *QUICK)
    assert done.code == 2
    assert "no image of x.csv is a film of" in done.err
    assert "f00.png" in done.err
    assert "g00.png" in done.err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--shots", "1,x"), "--shots 1,x"),
        (("--shots", "0,5"), "--shots 0,5"),
        (("--shots", ""), "--shots"),
        (("--c", "0"), "--c 0"),
        (("--c", "nan"), "--c nan"),
        (("--draws", "1"), "--draws"),
        (("--test-fraction", "1"), "--test-fraction"),
    ],
)
def test_options_out_of_range(run: Path, labels: Path, scarce: Scarce, options: tuple[str, str], named: str) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, *options)
    assert done.code == 2
    assert named in done.err


def test_names_that_look_like_markup_are_shown_as_they_are(run: Path, labels: Path, scarce: Scarce) -> None:
    path = Path("[red]x[bold].csv")
    changed(labels, path, lambda text: text.replace("Disc", "Disc [red]$x$[/red]"))
    done = scarce(
        "probe", run / "last.pt", "--labels", path, "--finding", "Disc [red]$x$[/red]", *QUICK[2:], "--out", "[b]out"
    )
    assert done.code == 0, done.err
    assert "Disc [red]$x$[/red] against the rest (tested on" in done.out
    assert "[b]out/probe.json" in done.out
    done = scarce("probe", run / "last.pt", "--labels", path, "--finding", "[/red]")
    assert done.code == 2
    assert "no film is labelled '[/red]'" in done.err
    changed(labels, path, lambda text: text.replace("image,", "x,"))
    done = scarce("probe", run / "last.pt", "--labels", path)
    assert done.code == 2
    assert "[red]x[bold].csv has no image column" in done.err


def test_a_table_with_bad_rows_is_read_with_a_warning(run: Path, labels: Path, scarce: Scarce) -> None:
    table = changed(labels, Path("x.csv"), lambda text: text + "f00.png,P00\n[red]y.png,a,b,c,d\n")
    done = scarce("probe", run / "last.pt", "--labels", table, *QUICK)
    assert done.code == 0, done.err
    assert "line 50" in done.err
    assert "line 51" in done.err


def test_the_tables_fit_80_columns_and_cut_nothing(
    run: Path, labels: Path, scarce: Scarce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "stdout", lambda: Console(width=80))
    monkeypatch.setattr(inputs, "stdout", console.stdout)
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK[:-1], "1,2,3,4,5,6,7")
    assert done.code == 0, done.err
    table = done.out.partition("Written")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    assert table.count("±") == 1 + 2 * 7
    assert table.count("]") == 7
    assert "7 shots" in table
