"""Duplicates, near-duplicates, and films that lie on their side, upside down or inverted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from scarce_cli.data.audit import _chest, look_of, mark_duplicates, suspicion_of
from scarce_cli.data.manifest import DONE, SKIPPED, Row


def chest(seed: int = 0, size: int = 256) -> np.ndarray:
    """Drawn independently of the template: dark lungs as ellipses, bright spine, heart and belly, dark air."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    film = np.full((size, size), 150.0)
    film[(np.abs(x) > 0.85) | ((np.abs(x) > 0.45) & (y < -0.75))] = 10
    film[((np.abs(x) - 0.4) / 0.27) ** 2 + ((y + 0.1) / 0.65) ** 2 < 1] = 50
    film[np.abs(x) < 0.12] = 220
    film[((x - 0.15) / 0.3) ** 2 + ((y - 0.3) / 0.3) ** 2 < 1] = 215
    film[(y > 0.55) & (np.abs(x) < 0.85)] = 230
    coarse = Image.fromarray(rng.normal(0, 12, (24, 24)).astype(np.float32))
    film += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return film.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (lambda film: film, ""),
        (lambda film: film[:, ::-1], ""),
        (np.rot90, "on its side"),
        (lambda film: np.rot90(film, 3), "on its side"),
        (lambda film: np.rot90(film, 2), "upside down"),
        (lambda film: 255 - film, "inverted"),
        (lambda film: 255 - np.rot90(film), "inverted and turned"),
    ],
)
def test_how_a_film_lies(seed: int, turn: object, expected: str) -> None:
    assert suspicion_of(look_of(np.ascontiguousarray(turn(chest(seed))))) == expected  # type: ignore[operator]


def test_exposure_and_resolution_do_not_matter() -> None:
    film = chest()
    small = np.asarray(Image.fromarray(film).resize((64, 64), Image.Resampling.LANCZOS))
    brighter = (255 * (film / 255.0) ** 0.6).astype(np.uint8)
    look = np.unpackbits(np.frombuffer(bytes.fromhex(look_of(film)), np.uint8))
    for other in (small, brighter):
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(look_of(other)), np.uint8))
        assert (bits != look).sum() <= 10


@pytest.mark.parametrize("shape", [(256, 1), (3, 256), (17, 16), (1, 1)])
def test_any_shape_has_a_look(shape: tuple[int, int]) -> None:
    look = look_of(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    assert len(look) == 64


def test_a_flat_film_has_no_contrast() -> None:
    assert suspicion_of(look_of(np.full((64, 64), 7, np.uint8))) == "no contrast"


def test_the_drawing_is_square_and_symmetric() -> None:
    assert _chest().shape == (16, 16)
    assert np.array_equal(_chest(), _chest()[:, ::-1])


def row(path: str, square: np.ndarray, pixel_hash: str | None = None) -> Row:
    look = look_of(square)
    return Row(
        path, DONE, pixel_hash=pixel_hash or path, look=look, suspicion=suspicion_of(look), total=int(square.sum())
    )


def test_duplicates_name_the_first_and_near_duplicates_are_proved() -> None:
    squares = {f"{seed}": chest(seed, 64) for seed in range(6)}
    squares["again"] = squares["2"]
    squares["paler"] = np.clip(squares["3"].astype(int) + 4, 0, 255).astype(np.uint8)
    squares["lookalike"] = ((squares["4"] > 100) * 90 + 60).astype(np.uint8)
    rows = [row(name, square, "2" if name == "again" else None) for name, square in squares.items()]
    rows.append(Row("bad", SKIPPED))
    marked = {r.path: r for r in mark_duplicates(rows, 64, lambda r: squares[r.path])}
    assert {name for name, r in marked.items() if r.duplicate_of} == {"again"}
    assert marked["again"].duplicate_of == "2"
    assert {name for name, r in marked.items() if r.near_duplicate_of} == {"paler"}
    assert marked["paler"].near_duplicate_of == "3"


def test_marks_of_an_earlier_audit_are_renewed() -> None:
    square = chest()
    stale = replace(row("a", square), duplicate_of="gone", near_duplicate_of="gone")
    marked = mark_duplicates([stale], 256, lambda r: square)
    assert (marked[0].duplicate_of, marked[0].near_duplicate_of) == ("", "")


def test_candidates_agree_with_all_pairs() -> None:
    """Against comparing every film with every other, in blocks smaller than the set."""
    rng = np.random.default_rng(3)
    base = [chest(seed, 32) for seed in range(4)]
    squares = {}
    for number in range(120):
        noise = rng.normal(0, rng.uniform(0, 25), (32, 32))
        squares[f"{number:03d}"] = np.clip(base[number % 4] + noise, 0, 255).astype(np.uint8)
    rows = [row(name, square) for name, square in squares.items()]
    marked = {r.path: r.near_duplicate_of for r in mark_duplicates(rows, 32, lambda r: squares[r.path])}
    looks = {r.path: np.unpackbits(np.frombuffer(bytes.fromhex(r.look), np.uint8)) for r in rows}
    for later, earlier in marked.items():
        if earlier:
            assert earlier < later
            assert (looks[later] != looks[earlier]).sum() <= 12
            assert np.abs(squares[later].astype(int) - squares[earlier]).mean() <= 6
    assert any(marked.values())


def test_many_equal_films_end_soon() -> None:
    square = chest(0, 32)
    rows = [row(f"{number:04d}", square) for number in range(3000)]
    marked = mark_duplicates(rows, 32, lambda r: square)
    assert sum(bool(r.near_duplicate_of) for r in marked) == 2999
