"""07_collapse_metrics: how much of their space features fill."""

from __future__ import annotations

import numpy as np

from scarce_cli.evaluation.collapse import (
    alignment,
    collapse_metrics,
    dimension_std,
    effective_rank,
    numerical_rank,
    rankme,
    singular_values,
    uniformity,
)
from tests.official.common import EXACT, Data, Family, close


def _effective_rank(data: Data) -> None:
    found = collapse_metrics(np.asarray(data["features"])).effective_rank
    assert (found is None) == bool(data["effective_rank_undefined"])
    if found is not None:
        close(found, data, "effective_rank_centered")
        assert found <= min(len(data["features"]) - 1, data["features"].shape[1]) + EXACT


def _std(data: Data) -> None:
    found = collapse_metrics(np.asarray(data["features"]))
    on_sphere = found.relative_std / found.dimensions**0.5
    np.testing.assert_allclose(on_sphere, data["mean_std_l2normalized_unbiased"], rtol=EXACT, atol=1e-15)


def _raw_std(data: Data) -> None:
    _stds(data, "mean_std_unbiased", unbiased=True)
    found = collapse_metrics(np.asarray(data["features"])).std
    rounding = 1e-15 * np.abs(np.asarray(data["features"], np.float64)).max()
    np.testing.assert_allclose(found, data["mean_std_unbiased"], rtol=EXACT, atol=rounding)


def _cosine(data: Data) -> None:
    found = collapse_metrics(np.asarray(data["features"])).mean_cosine
    np.testing.assert_allclose(found, data["mean_pairwise_cosine_all_pairs"], rtol=EXACT, atol=1e-15)


def _rankme(data: Data, key: str, *, centred: bool) -> None:
    found = rankme(np.asarray(data["features"]), centred=centred)
    assert (found is None) == np.isnan(data[key])
    if found is not None:
        close(found, data, key)


def _values(data: Data, key: str, *, centred: bool) -> None:
    """Values far below the largest are rounding on both sides."""
    close(singular_values(np.asarray(data["features"]), centred=centred), data, key, atol=1e-14)


def _stds(data: Data, key: str, *, unbiased: bool) -> None:
    """A dimension of one value has the std 0 or a rounding of that value."""
    found = dimension_std(np.asarray(data["features"]), unbiased=unbiased)
    rounding = 1e-15 * np.abs(np.asarray(data["features"], np.float64)).max()
    found = found.mean() if key.startswith("mean") else found
    np.testing.assert_allclose(found, data[key], rtol=EXACT, atol=rounding, err_msg=key)


def _uniformity(data: Data) -> None:
    """The official sum of exponentials near 1 holds no more than 1e-16."""
    np.testing.assert_allclose(uniformity(np.asarray(data["features"])), data["uniformity_t2"], rtol=EXACT, atol=1e-15)


def _alignment(data: Data) -> None:
    found = alignment(np.asarray(data["features"]), np.asarray(data["features_pos"]))
    np.testing.assert_allclose(found, data["alignment_alpha2"], rtol=EXACT, atol=1e-20)


def _numerical_rank(data: Data) -> None:
    assert numerical_rank(np.asarray(data["features"])) == data["numerical_rank_centered"]


COLLAPSE = Family(
    checks={
        "std_biased_per_dim": lambda data: _stds(data, "std_biased_per_dim", unbiased=False),
        "mean_std_biased": lambda data: _stds(data, "mean_std_biased", unbiased=False),
        "std_unbiased_per_dim": lambda data: _stds(data, "std_unbiased_per_dim", unbiased=True),
        "mean_std_unbiased": _raw_std,
        "mean_std_l2normalized_unbiased": _std,
        "mean_pairwise_cosine_all_pairs": _cosine,
        "singular_values_centered": lambda data: _values(data, "singular_values_centered", centred=True),
        "singular_values_uncentered": lambda data: _values(data, "singular_values_uncentered", centred=False),
        "effective_rank_centered": _effective_rank,
        "effective_rank_undefined": _effective_rank,
        "effective_rank_uncentered": lambda data: close(
            effective_rank(np.asarray(data["features"]), centred=False), data, "effective_rank_uncentered"
        ),
        "rankme_uncentered_eps1e_7": lambda data: _rankme(data, "rankme_uncentered_eps1e_7", centred=False),
        "rankme_centered_eps1e_7": lambda data: _rankme(data, "rankme_centered_eps1e_7", centred=True),
        "alignment_alpha2": _alignment,
        "uniformity_t2": _uniformity,
        "numerical_rank_centered": _numerical_rank,
    },
    unchecked={"features": "input", "features_pos": "input"},
)


FAMILIES = {"07_collapse_metrics": COLLAPSE}
