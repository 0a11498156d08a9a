"""Labelled films that never were, for the tests of episodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from scarce_cli.evaluation.fewshot.films import Films

FINDINGS = ("nodule", "effusion", "hernia")


def make_films(*rows: tuple[str, str, str], pixels: tuple[str, ...] = ()) -> Films:
    """One film for each (name, patient, findings separated by commas)."""
    names, patients, findings = zip(*rows, strict=True)
    return Films(
        names=names,
        patients=patients,
        findings=tuple(frozenset(cell.split(",")) - {""} for cell in findings),
        pixels=pixels or tuple(f"{n:032x}" for n in range(len(rows))),
        views=("PA",) * len(rows),
    )


def some_films(count: int = 120, per_patient: int = 2, seed: int = 0) -> Films:
    """Half of the films show a nodule, a third an effusion, some both; each says at least "normal"."""
    rng = np.random.default_rng(seed)
    shares = (("nodule", 0.5), ("effusion", 0.3), ("normal", 1))
    return make_films(
        *(
            (f"a/{n:05d}.png", f"P{n // per_patient:05d}", ",".join(f for f, share in shares if rng.random() < share))
            for n in range(count)
        )
    )


ODD = ("", "0", " ", "\x00", "é", "e\u0301", "肺", "'\"", "\udcff", "\n")
"""What names may begin with."""


@st.composite
def tables(draw: st.DrawFn) -> Films:
    """Any table: patients of a few films or many, findings rare or frequent, films of nothing, odd names."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, patients = draw(st.integers(30, 60) | st.integers(1, 60)), draw(st.integers(10, 40) | st.integers(1, 40))
    shares = [draw(st.sampled_from([0.5, 0.3, 0.1])) for _ in FINDINGS]
    odd, bearer = draw(st.sampled_from(ODD)), rng.integers(patients, size=count)
    return Films(
        names=tuple(f"a/{odd}{n}.png" for n in range(count)),
        patients=tuple(f"{odd if n % 2 else ''}{n}" for n in bearer),
        findings=tuple(frozenset(f for f, s in zip(FINDINGS, shares, strict=True) if rng.random() < s) for _ in bearer),
        pixels=tuple(f"{n:032x}" if n % 7 else "" for n in range(count)),
        views=("",) * count,
    )


def shuffled(films: Films, seed: int) -> tuple[Films, np.ndarray]:
    """The same films in another order, and the number that each had before."""
    order = np.random.default_rng(seed).permutation(len(films))
    return chosen(films, order), order


def chosen(films: Films, numbers: np.ndarray) -> Films:
    """Only these films, in this order."""
    parts = {key: tuple(getattr(films, key)[n] for n in numbers) for key in ("names", "patients", "findings")}
    return replace(films, **parts, pixels=tuple(films.pixels[n] for n in numbers), views=("",) * len(numbers))
