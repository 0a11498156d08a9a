"""Every way to learn from a support set gives scores of the test films, from features that are computed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from scarce_cli.checkpoint import EncoderInfo
from scarce_cli.data.cache import open_cache
from scarce_cli.evaluation.collapse import l2_normalize
from scarce_cli.evaluation.features import extract_features
from scarce_cli.evaluation.fewshot import scoring
from scarce_cli.evaluation.fewshot.contenders import Contender
from scarce_cli.evaluation.fewshot.drawing import draw_episodes
from scarce_cli.evaluation.fewshot.episodes import EpisodeSettings
from scarce_cli.evaluation.fewshot.films import Films
from scarce_cli.evaluation.fewshot.finetune import FinetuneSettings
from scarce_cli.evaluation.fewshot.linear import CS
from scarce_cli.evaluation.fewshot.nearest import score_prototype
from scarce_cli.evaluation.fewshot.result import Initialisation
from scarce_cli.evaluation.fewshot.scoring import FineTuned, Material
from scarce_cli.evaluation.fewshot.store import Store
from scarce_cli.models.resnet import build_encoder

INFO = EncoderInfo("resnet18", 32, 0.4, 0.2)
ROW = Initialisation("random", "random", "", "", "resnet18", 32, "", None, weights=2)
TWO = Contender(
    ROW, INFO, tuple(lambda n=n: build_encoder("resnet18", seed=n).eval() for n in (0, 1)), ("random 0", "random 1")
)


@pytest.fixture
def material(dataset: Path) -> Material:
    cache = open_cache(dataset)
    rows = np.arange(len(cache.names))[::-1].copy()  # a film's number is not its row
    names = tuple(cache.names[row] for row in rows)
    number = [int(name[1:3]) for name in names]
    films = Films(
        names=names,
        patients=tuple(f"P{n // 2}" for n in number),
        findings=tuple(frozenset({"Disc" if n // 2 % 2 else "No Finding"}) for n in number),
        pixels=("",) * len(names),
        views=("",) * len(names),
    )
    episodes = draw_episodes(films, ["Disc"], None, EpisodeSettings(shots=(1, 5), draws=3, test_fraction=0.4))
    return Material(films, rows, cache, episodes, torch.device("cpu"), Store(Path("kept")), 4, lambda *told: None)


def units(material: Material, seed: int) -> np.ndarray:
    """(F, D) of all films, by their numbers."""
    encoder = build_encoder("resnet18", seed=seed).eval()
    features = extract_features(encoder, INFO, material.cache, material.rows, torch.device("cpu"))
    return l2_normalize(features.astype(np.float64))


def test_linear_scores_are_those_of_scikit_learn_on_the_same_films(material: Material) -> None:
    (task,) = material.episodes.tasks
    scorer = scoring.linear(TWO, material, 10.0)
    for shots in (1, 5):
        found = scorer.scores(task, shots)
        assert found.shape == (2, 3, len(task.test))
        assert scorer.chosen(task, shots) == {"10": 6}
        for seed in (0, 1):
            x = units(material, seed)
            for draw, support in enumerate(task.supports[shots]):
                model = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000)
                model.fit(x[support.films], support.labels)
                np.testing.assert_allclose(
                    found[seed, draw], model.decision_function(x[task.test]), rtol=1e-3, atol=1e-3
                )


def test_c_is_chosen_from_the_grid(material: Material) -> None:
    (task,) = material.episodes.tasks
    chosen = scoring.linear(TWO, material, None).chosen(task, 5)
    assert chosen is not None
    assert sum(chosen.values()) == 6
    assert {float(c) for c in chosen} <= {*CS, 1.0}


def test_nearest_ones_are_scored_by_number_of_the_film(material: Material) -> None:
    (task,) = material.episodes.tasks
    found = scoring.prototype(TWO, material).scores(task, 5)
    for seed in (0, 1):
        expected = score_prototype(units(material, seed), task.supports[5], task.test)
        np.testing.assert_allclose(found[seed], expected, atol=1e-5)
    neighbours = scoring.knn(TWO, material)
    assert neighbours.scores(task, 1).shape == (2, 3, len(task.test))
    assert neighbours.chosen(task, 1) is None
    assert ((neighbours.scores(task, 5) >= 0) & (neighbours.scores(task, 5) <= 1)).all()


def test_features_are_not_computed_twice(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = material.episodes.tasks
    first = scoring.linear(TWO, material, 1.0).scores(task, 5)
    never = replace(TWO, encoders=(pytest.fail, pytest.fail))
    np.testing.assert_array_equal(scoring.linear(never, material, 1.0).scores(task, 5), first)


def test_fine_tuned_scores_are_kept_draw_by_draw(material: Material) -> None:
    """An interrupted probe goes on; another setting begins anew."""
    (task,) = material.episodes.tasks
    small = replace(task, test=task.test[:4], labels=task.labels[:4], supports={1: task.supports[1][:2]})
    one = replace(TWO, encoders=TWO.encoders[:1], identities=TWO.identities[:1])
    told: list[int] = []
    material = replace(material, progress=lambda what, of, n: told.append(n))
    settings = FinetuneSettings(unfreeze_from=4, steps=1)
    found = FineTuned(one, material, settings).scores(small, 1)
    assert found.shape == (1, 2, 4)
    assert len(list(Path("kept").glob("scores-*.npz"))) == 2
    total = sum(told)
    next(iter(Path("kept").glob("scores-*.npz"))).unlink()
    again = FineTuned(one, material, settings).scores(small, 1)
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-4)
    assert sum(told) == 2 * total
    other = FineTuned(one, material, replace(settings, lr=1e-2)).scores(small, 1)
    assert len(list(Path("kept").glob("scores-*.npz"))) == 4
    assert not np.allclose(other, found)
