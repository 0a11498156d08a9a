"""``scarce probe``: the planted finding is found, episodes are a file, every mistake in the table is one message."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scarce_cli import checkpoint
from scarce_cli.checkpoint import load
from scarce_cli.data.manifest import pixel_keys, read_manifest
from scarce_cli.evaluation.fewshot import finetune
from scarce_cli.files import sha256
from scarce_cli.models.resnet import build_encoder

Scarce = Callable[..., Any]
QUICK = ("--finding", "Disc", "--test-fraction", 0.4, "--random", 1, "--min-patients", 2, "--shots", "1,5")


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


def document(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "probe.json").read_text()))


def aucs(folder: Path) -> dict[tuple[str, int], float]:
    return {(s["initialisation"], s["shots"]): s["auc"]["mean"] for s in document(folder)["scores"]}


def test_the_planted_finding_is_found(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK)
    assert done.code == 0, done.err
    found, folder = aucs(run / "probe"), run / "probe"
    assert set(found) == {(name, shots) for name in ("random", "spark epoch 2") for shots in (1, 5)}
    assert found["spark epoch 2", 5] > 0.95
    told = document(folder)
    assert told["initialisations"][1]["sha256"] == sha256(run / "last.pt")
    assert told["labels_sha256"] == sha256(labels)
    assert told["episodes_sha256"] == sha256(folder / "episodes.json")
    assert told["settings"]["shots"] == [1, 5]
    assert "not for diagnosis" in (folder / "report.html").read_text()
    assert "not for diagnosis" in done.out
    with Image.open(folder / "probe.png") as image:
        assert image.format == "PNG"


def test_the_result_is_repeatable_and_the_seed_changes_it(run: Path, labels: Path, scarce: Scarce) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert scarce("probe", run / "last.pt", "--labels", labels, *QUICK, "--seed", seed, "--out", folder).code == 0
    a, b, c = (Path(folder, "probe.csv").read_text() for folder in "abc")
    assert a == b != c
    episodes = [Path(folder, "episodes.json").read_bytes() for folder in "abc"]
    assert episodes[0] == episodes[1] != episodes[2]


def test_episodes_given_back_are_the_same_test(run: Path, labels: Path, scarce: Scarce) -> None:
    """Whatever the seed and the numbers asked for; no patient stands in the file."""
    first = scarce("probe", run / "last.pt", "--labels", labels, *QUICK, "--seed", 3, "--draws", 2, "--out", "a")
    assert first.code == 0, first.err
    assert "P0" not in Path("a/episodes.json").read_text()
    again = ("--episodes", "a/episodes.json", "--random", 1, "--min-patients", 2)
    done = scarce("probe", run / "last.pt", "--labels", labels, *again, "--out", "b", "--seed", 3)
    assert done.code == 0, done.err
    assert aucs(Path("a")) == aucs(Path("b"))
    assert Path("a/episodes.json").read_bytes() == Path("b/episodes.json").read_bytes()
    assert scarce("probe", run / "last.pt", "--labels", labels, *again, "--finding", "Disc").code == 2
    other = changed(labels, Path("x.csv"), lambda text: text.replace("Disc", "No Finding", 6))
    done = scarce("probe", run / "last.pt", "--labels", other, *again)
    assert done.code == 2
    assert "a/episodes.json" in done.err
    whole = Path("a/episodes.json").read_text()
    for text, code in (("{}", 2), (whole.replace('"seed":3', '"seed":4'), 5), (whole[: len(whole) // 2], 5)):
        assert text != whole
        Path("a/episodes.json").write_text(text)
        assert scarce("probe", run / "last.pt", "--labels", labels, *again).code == code


def test_checkpoints_and_baselines_stand_side_by_side(run: Path, labels: Path, scarce: Scarce, weights: Path) -> None:
    shutil.copy(run / "last.pt", "copy.pt")
    done = scarce(
        "probe", run / "last.pt", run / "encoders" / "epoch-0001.pt", "copy.pt", "--labels", labels, *QUICK,
        "--out", "there", "--imagenet", weights,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = aucs(Path("there"))
    last, copy = f"spark epoch 2 ({run / 'last.pt'})", "spark epoch 2 (copy.pt)"
    assert list(dict.fromkeys(name for name, _ in found)) == ["random", "imagenet", last, "spark epoch 1", copy]
    assert found[last, 5] == found[copy, 5]
    scores = {s["initialisation"]: s for s in document(Path("there"))["scores"] if s["shots"] == 5}
    assert [d["baseline"] for d in scores["spark epoch 1"]["differences"]] == ["random", "imagenet", last]
    with open("there/probe.csv", newline="") as handle:
        assert {row["initialisation"] for row in csv.DictReader(handle)} == set(scores)
    torch.save(build_encoder("resnet50", seed=0).state_dict(), "r50.pth")
    for wrong, said in (("r50.pth", "r50.pth holds no weights of a resnet18"), ("copy.pt", "copy.pt is a checkpoint")):
        done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK, "--imagenet", wrong)
        assert done.code == 2
        assert said in done.err
    done = scarce("probe", "copy.pt", run / "last.pt", "copy.pt", "--labels", labels, *QUICK)
    assert done.code == 2
    assert "copy.pt was given twice" in done.err


@pytest.mark.parametrize("mode", ["knn", "prototype", "finetune"])
def test_other_ways_to_learn(
    run: Path, labels: Path, scarce: Scarce, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "FinetuneSettings", partial(finetune.FinetuneSettings, steps=2))
    few = ("--shots", 1, "--draws", 2, *(("--unfreeze", 4) if mode == "finetune" else ()))
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK[:-2], "--mode", mode, *few)
    assert done.code == 0, done.err
    told = document(run / "probe")
    assert (told["mode"], len(told["scores"])) == (mode, 2)
    assert (told["scores"][0]["calibration"] is None) is (mode != "finetune")


def test_all_cases_in_turn(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, "--finding", "Disc", "--cases", 5)
    assert done.code == 0, done.err
    found = {case["initialisation"]: case for case in document(run / "probe")["cases"]}
    assert [(c["cases"], c["controls"]) for c in found.values()] == [(5, 5), (5, 5)]
    best = found["spark epoch 2"]
    assert best["auc"]["mean"] > 0.95
    assert best["p"] < 0.05
    gain = best["differences"][0]
    assert (gain["baseline"], gain["p"]) == ("random", None)
    assert gain["auc"]["low"] <= gain["auc"]["mean"] <= gain["auc"]["high"]
    assert "draws" not in document(run / "probe")["settings"]
    assert (run / "probe" / "cases.png").exists()
    told = document(run / "probe")
    assert told["tested"][0]["seen"] == {"spark epoch 2": 20}
    assert any("5 of 12 patients with it are used; --cases 12 uses all." in caveat for caveat in told["caveats"])
    done = scarce("probe", run / "last.pt", "--labels", labels, "--finding", "Disc", "--cases", 8, "--seen", "refuse")
    assert done.code == 2
    assert "48 of 48 films are of patients" in done.err
    assert scarce("probe", run / "last.pt", "--labels", labels, "--cases", 8, "--mode", "knn").code == 2


def test_a_named_negative_and_a_filter(run: Path, labels: Path, scarce: Scarce) -> None:
    table = changed(labels, Path("x.csv"), lambda text: "".join(
        f"{line},{'site' if n == 0 else 'north' if n <= 40 else 'south'}\n" for n, line in enumerate(text.splitlines())
    ))  # fmt: skip
    more = ("--against", "no finding", "--where", "Site=nor*")
    done = scarce("probe", run / "last.pt", "--labels", table, *QUICK, *more)
    assert done.code == 0, done.err
    told = document(run / "probe")
    assert (told["data"]["labelled"], told["tested"][0]["against"]) == (40, "No Finding")
    for where, named in (("side=x", "'side'"), ("site=east", "east"), ("site", "COLUMN=VALUE")):
        done = scarce("probe", run / "last.pt", "--labels", table, *QUICK, "--where", where)
        assert done.code == 2
        assert named in done.err
    done = scarce("probe", run / "last.pt", "--labels", table, "--task", "padchest-raer")
    assert done.code == 2
    assert "did you mean 'padchest-rare'?" in done.err


def test_what_the_encoder_has_seen_is_said_left_out_or_refused(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK)
    tested = document(run / "probe")["tested"][0]
    assert tested["seen"] == {"spark epoch 2": tested["positives"] + tested["negatives"]}
    assert "Test patients were in the pretraining set of spark epoch 2" in done.out
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK, "--seen", "refuse")
    assert done.code == 2
    assert "--seen leave-out" in done.err
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK, "--seen", "leave-out")
    assert done.code == 0, done.err
    assert document(run / "probe")["scores"] == []
    half = part_of_the_films(run, Path("half.pt"))
    done = scarce("probe", half, "--labels", labels, *QUICK, "--seen", "leave-out", "--out", "there")
    assert done.code == 0, done.err
    left = document(Path("there"))["tested"][0]
    assert 0 < left["positives"] + left["negatives"] < tested["positives"] + tested["negatives"]
    assert left["seen"] == {"spark epoch 2": 0}


def test_a_patient_is_known_by_a_film_that_is_not_tested(run: Path, labels: Path, scarce: Scarce) -> None:
    """Pretrained on the first film of every patient; only the second ones are asked about."""
    half = part_of_the_films(run, Path("half.pt"), every=2)
    table = changed(labels, Path("x.csv"), lambda text: "\n".join(
        f"{line},{'number' if n == 0 else n % 2}" for n, line in enumerate(text.splitlines())
    ))  # fmt: skip
    done = scarce("probe", half, "--labels", table, *QUICK[:-1], "1", "--where", "number=0", "--seen", "refuse")
    assert done.code == 2
    assert "test films are of patients that a checkpoint was pretrained on" in done.err
    done = scarce("probe", half, "--labels", table, *QUICK[:-1], "1", "--where", "number=0", "--out", "there")
    assert done.code == 0, done.err
    tested = document(Path("there"))["tested"][0]
    assert tested["seen"] == {"spark epoch 2": tested["positives"] + tested["negatives"]}


def test_without_hashes_nobody_knows_what_was_seen(run: Path, labels: Path, scarce: Scarce, dataset: Path) -> None:
    bare = Path(shutil.copytree(dataset, "bare"))
    (bare / "manifest.csv").unlink()
    other = part_of_the_films(run, Path("other.pt"))
    done = scarce("probe", other, "--labels", labels, *QUICK, "--data", bare)
    assert done.code == 0, done.err
    assert "films have no hash" in done.out
    done = scarce("probe", other, "--labels", labels, *QUICK, "--data", bare, "--seen", "refuse")
    assert done.code == 2
    assert "spark epoch 2 saw in pretraining is not known" in done.err


def part_of_the_films(run: Path, path: Path, every: int = 16) -> Path:
    """The run's checkpoint, as if it had been trained on each so many-th film of another data set."""
    payload, _ = load(run / "last.pt")
    rows = read_manifest(Path(payload["origin"]["data"]["folder"]))
    keys = pixel_keys(row.pixel_hash for row in sorted(rows, key=lambda row: row.path)[::every])
    data = {**payload["origin"]["data"], "digest": "another"}
    origin = {**payload["origin"], "trained_on": torch.from_numpy(keys), "data": data}
    info = checkpoint.EncoderInfo(**payload["info"])
    checkpoint.save(path, encoder=payload["encoder"], info=info, origin=origin)
    return path


def test_one_picture_of_two_patients_is_refused_or_joined(run: Path, labels: Path, scarce: Scarce) -> None:
    folder = Path("films")
    shutil.copytree(labels.parent / "films", folder)
    shutil.copy(folder / "f00.png", folder / "f06.png")  # patients P00 and P03
    assert scarce("preprocess", "--src", folder, "--size", 32).code == 0
    assert scarce("cache", "films-32").code == 0
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK, "--data", "films-32")
    assert done.code == 2
    assert "'f00.png' and 'f06.png'" in done.err
    assert "--same-film join" in done.err
    assert "P0" not in done.err
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK, "--data", "films-32", "--same-film", "join")
    assert done.code == 0, done.err


def test_findings_are_chosen_and_healthy_is_none_of_them(run: Path, labels: Path, scarce: Scarce) -> None:
    few = ("--test-fraction", 0.5, "--shots", 1, "--random", 1, "--seed", 1)
    done = scarce("probe", run / "last.pt", "--labels", labels, *few)
    assert done.code == 0, done.err
    told = document(run / "probe")
    assert [t["finding"] for t in told["tested"]] == ["Disc"]
    assert (told["means"], told["tested"][0]["enough"]) == ([], False)


def test_too_few_films_for_any_finding(run: Path, labels: Path, scarce: Scarce) -> None:
    few = changed(labels, Path("few.csv"), lambda text: text.replace("Disc", "No Finding", 20))
    done = scarce("probe", run / "last.pt", "--labels", few)
    assert done.code == 2
    assert "no finding has 5 patients" in done.err


def test_more_shots_than_films_are_named_and_left_out(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK[:-1], "1,50")
    assert done.code == 0, done.err
    assert [row["shots"] for row in document(run / "probe")["skipped"]] == [50]
    assert "50 shots" in done.out


def test_nothing_to_compute_still_leaves_a_document(run: Path, labels: Path, scarce: Scarce) -> None:
    done = scarce("probe", run / "last.pt", "--labels", labels, *QUICK[:-1], "40,50")
    assert done.code == 0, done.err
    assert not (run / "probe" / "probe.png").exists()
    told = document(run / "probe")
    assert told["scores"] == []
    assert told["skipped"]


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
        (("--prevalence", "1"), "--prevalence 1"),
        (("--unfreeze", "5"), "--unfreeze 5"),
        (("--unfreeze", "all"), "--unfreeze has no effect"),
        (("--mode", "knn", "--c", "5"), "--c 5 has no effect"),
        (("--cases", "8", "--episodes", "x.json"), "do not go together"),
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
    assert "Disc [red]$x$[/red]" in done.out
    assert "[b]out" in done.out
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
