"""The split by patient: a function of each patient's name and the seed, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarce_cli.evaluation.probe import in_test_part

STEADY = settings(max_examples=50, deadline=None, derandomize=True)
NAMES = st.text(min_size=1, max_size=6)


@STEADY
@given(
    patients=st.lists(NAMES, min_size=1, max_size=40),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_patient_is_never_in_both_parts(patients: list[str], fraction: float, seed: int) -> None:
    test = in_test_part(patients, fraction, seed)
    assert test.dtype == bool
    for patient in set(patients):
        assert len({bool(side) for name, side in zip(patients, test, strict=True) if name == patient}) == 1


@STEADY
@given(st.lists(NAMES, min_size=1, max_size=20), st.lists(NAMES, max_size=20), st.integers(0, 100))
def test_more_films_move_nobody(patients: list[str], more: list[str], seed: int) -> None:
    before, after = in_test_part(patients, 0.3, seed), in_test_part([*more, *patients], 0.3, seed)
    assert (after[len(more) :] == before).all()


def test_the_share_of_test_patients_is_the_one_asked_for() -> None:
    names = [f"{n:08d}_000" for n in range(5000)]
    for fraction in (0.1, 0.2, 0.5):
        assert in_test_part(names, fraction, 0).mean() == pytest.approx(fraction, abs=0.02)


def test_another_seed_is_another_split() -> None:
    """Two patients tested together once are together again no more often than by chance."""
    names = [f"{n:05d}" for n in range(400)]
    sides = np.array([in_test_part(names, 0.2, seed) for seed in range(60)], float)
    together = np.corrcoef(sides.T)[np.triu_indices(400, 1)]
    assert np.abs(together).max() < 0.8
    assert together.std() == pytest.approx(60**-0.5, rel=0.1)
