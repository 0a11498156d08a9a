"""Phantom films: reproducible, 16 bits, with patients, and findings that have to be looked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import rankdata

from scarce_cli.data.labels import match, read_labels
from scarce_cli.data.phantom import FINDINGS, Phantom, draw_phantom, write_phantoms
from scarce_cli.errors import ResourceError


@pytest.fixture(scope="module")
def films() -> list[Phantom]:
    return [draw_phantom(7, index, size=96) for index in range(600)]


def test_a_film_depends_on_seed_and_index_alone() -> None:
    first = draw_phantom(3, 12, size=128)
    for other in (1, 40, 2):  # other patients in between
        draw_phantom(3, other, size=128)
    again = draw_phantom(3, 12, size=128)
    assert np.array_equal(first.pixels, again.pixels)
    assert (first.patient, first.findings) == (again.patient, again.findings)
    assert not np.array_equal(first.pixels, draw_phantom(4, 12, size=128).pixels)
    assert not np.array_equal(first.pixels, draw_phantom(3, 13, size=128).pixels)


@pytest.mark.parametrize("size", [96, 256, 300, 512])
def test_sixteen_bits_are_used_in_part(size: int) -> None:
    pixels = draw_phantom(1, 5, size=size).pixels
    assert (pixels.shape, pixels.dtype) == ((size, size), np.uint16)
    assert len(np.unique(pixels)) > 2_000
    assert pixels.max() - pixels.min() > 5_000
    assert pixels.max() < 65_535


def test_sizes_show_the_same_chest() -> None:
    """Another size has other noise, but the same anatomy, pose and exposure."""
    large, small = (draw_phantom(1, 8, size=size).pixels.astype(float) for size in (512, 128))
    halved = large.reshape(128, 4, 128, 4).mean((1, 3))
    assert np.corrcoef(halved.ravel(), small.ravel())[0, 1] > 0.99


def test_a_chest_has_dark_lungs_beside_a_bright_middle(films: list[Phantom]) -> None:
    """Mean of many: dark lungs, brighter heart, spine and abdomen; the heart lies to the right."""
    mean = np.mean([film.pixels for film in films[:200]], axis=0)
    right_lung, left_lung = mean[36:46, 20:30].mean(), mean[36:46, 66:76].mean()
    assert max(right_lung, left_lung) < 0.7 * mean[30:70, 45:51].mean()
    assert max(right_lung, left_lung) < 0.7 * mean[80:, 30:66].mean()
    assert mean[58:64, 58:66].mean() > 1.1 * mean[58:64, 30:38].mean()
    assert mean[:4, :4].mean() < 0.5 * right_lung


def test_patients_have_one_to_four_films_in_a_row(films: list[Phantom]) -> None:
    patients = [film.patient for film in films]
    assert patients == sorted(patients)
    assert patients[0] == "P0001"
    counts = np.unique(patients, return_counts=True)[1]
    assert sorted(set(counts)) == [1, 2, 3, 4]
    assert np.bincount(counts)[1:].tolist() == [60, 60, 60, 60]


def test_a_patients_films_resemble_each_other_more_than_others(films: list[Phantom]) -> None:
    """Same anatomy, other pose and exposure: without brightness and contrast, nearer than strangers."""
    scale = np.stack([film.pixels[8:88, 8:88].astype(float).ravel() for film in films[:150]])
    scale = (scale - scale.mean(1, keepdims=True)) / scale.std(1, keepdims=True)
    alike = scale @ scale.T / scale.shape[1]
    patients = np.array([film.patient for film in films[:150]])
    same = (patients[:, None] == patients) & ~np.eye(150, dtype=bool)
    assert alike[same].mean() > alike[patients[:, None] != patients].mean() + 0.02
    assert alike[same].max() < 0.999  # no film twice


def test_prevalence_and_independence(films: list[Phantom]) -> None:
    shown = np.array([[name in film.findings for name in FINDINGS] for film in films])
    assert np.all((shown.mean(0) > 0.12) & (shown.mean(0) < 0.22))
    assert 0.40 < (~shown.any(1)).mean() < 0.56
    correlation = np.corrcoef(shown.T) - np.eye(len(FINDINGS))
    assert np.abs(correlation).max() < 0.15


# Largest part of a film that a finding may touch, and the least peak contrast against the film's own spread.
PLACES = {"nodule": (0.012, 0.08), "effusion": (0.15, 0.3), "band": (0.012, 0.08), "hernia": (0.05, 0.15)}


@pytest.mark.parametrize("name", FINDINGS)
@pytest.mark.parametrize("index", range(8))
def test_a_finding_changes_pixels_only_around_its_place(name: str, index: int) -> None:
    without = draw_phantom(5, index * 3, size=256, findings=frozenset())
    shown = draw_phantom(5, index * 3, size=256, findings=frozenset({name}))
    assert (without.findings, shown.findings) == (frozenset(), {name})
    difference = shown.pixels.astype(int) - without.pixels
    touched = difference != 0
    area, contrast = PLACES[name]
    assert 0.0002 < touched.mean() < area
    rows, columns = np.nonzero(touched)
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert box < 0.25 * touched.size  # in one place
    assert np.abs(difference).max() > contrast * without.pixels.std()


def test_findings_do_not_disturb_each_other() -> None:
    """Adding a nodule to a film with a hernia changes what adding it to a clean film changes."""
    clean, nodule, hernia, both = (
        draw_phantom(5, 4, size=256, findings=frozenset(names)).pixels.astype(int)
        for names in ([], ["nodule"], ["hernia"], ["nodule", "hernia"])
    )
    assert np.array_equal(nodule != clean, both != hernia)


def _auc(score: np.ndarray, truth: np.ndarray) -> float:
    rank, positives = rankdata(score), truth.sum()
    area = (rank[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(truth) - positives))
    return float(max(area, 1 - area))


@pytest.mark.parametrize("name", FINDINGS)
def test_no_finding_is_given_away_by_brightness_or_contrast(films: list[Phantom], name: str) -> None:
    truth = np.array([name in film.findings for film in films])
    pixels = [film.pixels.astype(float) for film in films]
    for statistic in (np.mean, np.std, np.median, np.min, np.max):
        assert _auc(np.array([statistic(film) for film in pixels]), truth) < 0.65, statistic


def test_a_folder_of_phantoms_is_read_like_any_other(tmp_path: Path) -> None:
    done: list[int] = []
    write_phantoms(tmp_path, count=12, seed=7, size=96, on_film=done.append)
    assert done == list(range(1, 13))
    labels = read_labels(tmp_path / "labels.csv")
    assert labels.problems == ()
    films = [draw_phantom(7, index, size=96) for index in range(12)]
    assert labels.patients == tuple(film.patient for film in films)
    assert labels.findings == tuple(film.findings or frozenset({"No Finding"}) for film in films)
    names = sorted(path.relative_to(tmp_path / "films").as_posix() for path in tmp_path.rglob("*.png"))
    matched = match(labels, names)
    assert (len(matched.rows), matched.without_film, matched.without_label) == (12, (), ())
    for image, film in zip(labels.images, films, strict=True):
        assert image.startswith(f"films/{film.patient}/{film.patient}_0")
        with Image.open(tmp_path / image) as stored:
            assert stored.mode == "I;16"
            assert np.array_equal(np.asarray(stored), film.pixels)
    assert {path.name for path in tmp_path.iterdir()} == {"films", "labels.csv"}
    assert not list(tmp_path.rglob(".*"))


def test_stopping_leaves_whole_films_and_no_table(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path, count=12, seed=7, size=96, on_film=stop)
    written = list(tmp_path.rglob("*.png"))
    assert len(written) == 3
    for path in written:
        with Image.open(path) as film:
            film.load()
            assert film.size == (96, 96)
    assert not (tmp_path / "labels.csv").exists()


def test_a_folder_that_cannot_be_made_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError):
        write_phantoms(tmp_path / "file", count=1, seed=1, size=96)
