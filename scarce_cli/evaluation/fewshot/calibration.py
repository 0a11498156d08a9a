"""Can the probabilities be believed? N test films, K draws, S sets of random weights."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from scarce_cli.evaluation.fewshot.films import Bools, Floats
from scarce_cli.evaluation.fewshot.result import Bin, Calibration

_BINS = 10


def calibrate(scores_SKN: Floats, labels: Bools, prevalence: float | None = None) -> Calibration:
    """Brier scores and the reliability curve of a model that was fitted to as many films with as without the finding.

    Such a model believes in a prevalence of one half. To its log-odds those of the true prevalence are added
    (Saerens, Latinne & Decaestecker, 2002, Neural Computation 14, eq. 2.4), else every rare finding would be
    overrated.

    Args:
        scores_SKN: finite log-odds.
        labels: (N,) both classes must be there.
        prevalence: where the model is to be used, above 0 and below 1: films are weighted as if they came from
            there. None: that of the test films.
    """
    share = float(labels.mean())
    prior = share if prevalence is None else prevalence
    predicted = expit(scores_SKN + logit(prior)).reshape(-1, len(labels))
    weights = np.where(labels, prior / share, (1 - prior) / (1 - share))
    return Calibration(
        brier=float((weights * (predicted - labels) ** 2).mean()),
        brier_prevalence=prior * (1 - prior),
        bins=_bins(predicted, labels, weights),
    )


def _bins(predicted_MN: Floats, labels: Bools, weights: Floats) -> tuple[Bin, ...]:
    """Ten bins of as many films each over all M draws and weights; fewer where many probabilities are equal."""
    edges = np.quantile(predicted_MN, np.linspace(0, 1, _BINS + 1)[1:-1])
    number = np.searchsorted(edges, predicted_MN).ravel()
    each = np.broadcast_to(weights, predicted_MN.shape)
    films, mass, predicted, observed = (
        np.bincount(number, x.ravel(), minlength=_BINS)
        for x in (np.ones(predicted_MN.shape), each, each * predicted_MN, each * labels)
    )
    draws = len(predicted_MN)
    return tuple(
        Bin(float(p / m), float(o / m), round(n / draws))
        for n, m, p, o in zip(films, mass, predicted, observed, strict=True)
        if n
    )
