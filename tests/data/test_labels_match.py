"""Labels and films find each other by path; fault B3."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from scarce_cli.data.labels import Labels, match
from scarce_cli.errors import UsageError


def labels_for(*images: str) -> Labels:
    n = len(images)
    return Labels(images, images, (frozenset({"Mass"}),) * n, ("",) * n, (), Path("labels.csv"))


def pairs(images: list[str], names: list[str]) -> dict[str, str]:
    """film -> label"""
    matched = match(labels_for(*images), names)
    assert matched.rows.dtype == matched.labels.dtype == np.int64
    assert list(matched.rows) == sorted(set(matched.rows))
    return {names[row]: images[label] for row, label in zip(matched.rows, matched.labels, strict=True)}


@pytest.mark.parametrize(
    "label", ["images/x.jpg", "x.jpg", "x", "./images//x.jpg", "x.dcm", "images/x", "cxr/images/x.jpg"]
)
@pytest.mark.parametrize("film", ["images/x.jpg", "a/images/x.jpg"])
def test_a_label_finds_its_film_however_it_is_written(label: str, film: str) -> None:
    assert pairs([label], ["images/other.jpg", film, "x_1.jpg"]) == {film: label}


def test_nih_films_keep_their_folders() -> None:
    films = ["images_001/images/00000001_000.png", "images_002/images/00001336_000.png"]
    assert pairs(["00001336_000.png", "00000001_000.png"], films) == {
        films[0]: "00000001_000.png",
        films[1]: "00001336_000.png",
    }


def test_dots_in_a_name_are_not_an_ending() -> None:
    assert pairs(["1.2.840.1", "1.2.840.2.dcm"], ["1.2.840.2", "1.2.840.1.dcm"]) == {
        "1.2.840.1.dcm": "1.2.840.1",
        "1.2.840.2": "1.2.840.2.dcm",
    }


def test_an_exact_path_wins_over_a_shared_name() -> None:
    films = ["x.png", "a/x.png", "b/x.png"]
    assert pairs(films[::-1], films) == {film: film for film in films}


@pytest.mark.parametrize("label", ["x.png", "x"])
def test_a_name_that_fits_several_films_is_refused_with_the_candidates(label: str) -> None:
    with pytest.raises(UsageError) as caught:
        match(labels_for(label), ["a/x.png", "b/x.png", "c.png"])
    assert "'a/x.png', 'b/x.png'" in caught.value.message
    assert "c.png" not in caught.value.message
    assert caught.value.remedy


def test_two_labels_for_one_film_are_refused_unless_one_is_exact() -> None:
    with pytest.raises(UsageError, match=r"'x\.png' and 'a/x\.png' both name"):
        match(labels_for("x.png", "a/x.png"), ["b/a/x.png"])
    matched = match(labels_for("x.png", "a/x.png"), ["a/x.png"])
    assert (list(matched.labels), matched.without_film) == ([1], ("x.png",))
    assert match(labels_for("a/x.png", "x.png"), ["a/x.png"]).without_film == ("x.png",)


def test_a_name_shared_by_many_films_never_gives_one_patient_anothers_label() -> None:
    """CheXpert calls every film view1_frontal.jpg: only the folders tell them apart."""
    images = [f"CheXpert/train/patient{i}/view1_frontal.jpg" for i in range(5)]
    assert pairs(images, ["train/patient3/view1_frontal.jpg"]) == {"train/patient3/view1_frontal.jpg": images[3]}
    assert pairs(images[:3], ["train/patient3/view1_frontal.jpg"]) == {}
    assert pairs(["other/x.png"], ["a/x.png", "b/x.png"]) == {}


def test_b3_labels_without_film_and_films_without_label_are_counted() -> None:
    names = [f"{i}.png" for i in range(10)]
    matched = match(labels_for(*(f"{i}.png" for i in range(4, 20))), names)
    assert matched.without_film == tuple(f"{i}.png" for i in range(10, 20))
    assert matched.without_label == tuple(names[:4])
    assert matched.report() == [
        "10 labels without a film: '10.png', '11.png', '12.png', '13.png', '14.png', ...",
        "4 films without a label: '0.png', '1.png', '2.png', '3.png'",
    ]
    assert match(labels_for("0.png"), ["0.png"]).report() == []


def test_no_films_and_no_labels_at_all() -> None:
    matched = match(labels_for("a.png"), [])
    assert (matched.rows.shape, matched.without_film) == ((0,), ("a.png",))


def _slow_match(image: str, names: list[str]) -> str | None:
    """The same rules by looking at every film, for whole paths with their endings."""
    if image in names:
        return image
    ends = [name for name in names if name.endswith("/" + image)]
    if len(ends) > 1:
        return "several"
    longer = [name for name in names if "/" in name and image.endswith("/" + name)]
    return ends[0] if ends else max(longer, key=len, default=None)


@pytest.mark.parametrize("seed", range(20))
def test_against_a_quadratic_search(seed: int) -> None:
    source = random.Random(seed)
    paths = sorted({"/".join(source.choices("abc", k=source.randint(2, 4))) for _ in range(40)})
    names = sorted(source.sample(paths, len(paths) // 2))
    for image in paths:
        expected = _slow_match(image, names)
        if expected == "several":
            with pytest.raises(UsageError):
                match(labels_for(image), names)
            continue
        found = pairs([image], names)
        if expected is not None:
            assert found == {expected: image}
        else:
            assert all(film.rpartition("/")[2] == image.rpartition("/")[2] for film in found)


def test_the_order_of_labels_and_films_does_not_matter() -> None:
    names = [f"folder{i % 7}/film{i}.png" for i in range(200)]
    images = [f"film{i}" if i % 2 else f"folder{i % 7}/film{i}.png" for i in range(0, 200, 3)]
    source = random.Random(1)
    expected = pairs(images, names)
    assert len(expected) == len(images)
    assert pairs(source.sample(images, len(images)), source.sample(names, len(names))) == expected


def test_many_labels_and_films_take_linear_time() -> None:
    names = [f"images_{i % 12:03d}/images/{i:08d}_000.png" for i in range(40_000)]
    images = [f"{i:08d}_000.png" for i in range(60_000)]
    start = time.process_time()
    matched = match(labels_for(*images), names)
    assert time.process_time() - start < 5  # a quadratic search would take minutes
    assert np.array_equal(matched.rows, matched.labels)
    assert len(matched.rows) == 40_000
