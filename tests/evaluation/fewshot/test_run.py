"""The whole probe on scores that are known: every part is that of its oracle, paired, corrected, left out or kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from scarce_cli.checkpoint import EncoderInfo
from scarce_cli.evaluation.fewshot.contenders import Contender
from scarce_cli.evaluation.fewshot.drawing import draw_episodes
from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings, Task
from scarce_cli.evaluation.fewshot.exchange import exchange_p, holm
from scarce_cli.evaluation.fewshot.films import Films
from scarce_cli.evaluation.fewshot.result import Initialisation, Score
from scarce_cli.evaluation.fewshot.run import Found, Statistics, patients_of, run_probe
from tests.evaluation.fewshot.tables import some_films

QUICK = Statistics(min_patients=10, resamples=200, permutations=199, prevalence=0.05)
DRAWS = 4


def contender(name: str, weights: int, *baselines: str) -> Contender:
    row = Initialisation(name, "random" if not baselines else "checkpoint", "", "", "resnet18", 32, "", None, weights)
    return Contender(row, EncoderInfo("resnet18", 32, 0.5, 0.2), (), (), baselines)


COMPARED = (contender("random", 3), contender("ours", 1, "random"), contender("other", 1, "random", "ours"))


class Drawn:
    """Scores of ``strength`` for the finding, the same whenever they are asked for."""

    def __init__(self, strength: float, weights: int, seed: int) -> None:
        self.strength, self.weights, self.seed = strength, weights, seed

    def scores(self, task: Task, shots: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, shots, len(task.finding)))
        draws = len(task.supports[shots])
        return self.strength * task.labels + rng.standard_normal((self.weights, draws, len(task.test)))

    def chosen(self, task: Task, shots: int) -> dict[str, int]:
        return {"1": shots}


SCORERS = {"random": Drawn(0.3, 3, 0), "ours": Drawn(1.2, 1, 1), "other": Drawn(1.2, 1, 2)}


@pytest.fixture(scope="module")
def films() -> Films:
    return some_films(400)


@pytest.fixture(scope="module")
def episodes(films: Films) -> Episodes:
    settings = EpisodeSettings(shots=(1, 5), draws=DRAWS, test_fraction=0.4)
    return draw_episodes(films, ["nodule", "effusion"], None, settings)


@pytest.fixture(scope="module")
def found(films: Films, episodes: Episodes) -> Found:
    return run(films, episodes)


def run(films: Films, episodes: Episodes, settings: Statistics = QUICK, log_odds: bool = True) -> Found:
    heard: list[int] = []
    made = run_probe(
        films, episodes, SCORERS, COMPARED, settings, log_odds=log_odds, progress=lambda what, of, n: heard.append(n)
    )
    assert sum(heard) == 4
    return made


def test_every_finding_shots_and_initialisation_once(found: Found) -> None:
    places = [(s.finding, s.shots, s.initialisation) for s in found.scores]
    assert places == [(f, n, i) for f in ("nodule", "effusion") for n in (1, 5) for i in ("random", "ours", "other")]
    assert [(m.shots, m.initialisation) for m in found.means] == [
        (n, i) for n in (1, 5) for i in ("random", "ours", "other")
    ]


def test_measures_are_means_over_draws_and_weights(found: Found, episodes: Episodes) -> None:
    for score in found.scores:
        task = next(task for task in episodes.tasks if task.finding == score.finding)
        scores = SCORERS[score.initialisation].scores(task, score.shots)
        aucs = np.array([[roc_auc_score(task.labels, row) for row in rows] for rows in scores])
        assert score.auc.mean == pytest.approx(aucs.mean(), abs=1e-12)
        assert score.auc.sd == pytest.approx(aucs.mean(axis=0).std(ddof=1), abs=1e-12)
        precision = np.mean([[average_precision_score(task.labels, row) for row in rows] for rows in scores])
        assert score.average_precision.mean == pytest.approx(precision, abs=1e-12)
        assert score.auc.low < score.auc.mean < score.auc.high
        assert score.ppv_90 is not None
        assert 0 <= score.ppv_90.low <= score.ppv_90.mean <= score.ppv_90.high
        assert score.ppv_90.high <= 0.05 / (0.05 + 0.1 * 0.95) + 1e-12  # with a sensitivity of 1
        assert score.c == {"1": score.shots}
        assert score.calibration is not None


def test_differences_are_paired_and_corrected_over_findings(found: Found, episodes: Episodes, films: Films) -> None:
    by_place = {(s.finding, s.shots, s.initialisation): s for s in found.scores}
    for name, baselines in (("random", ()), ("ours", ("random",)), ("other", ("random", "ours"))):
        ps = []
        for task in episodes.tasks:
            score = by_place[task.finding, 5, name]
            assert tuple(d.baseline for d in score.differences) == baselines
            for place, d in enumerate(score.differences):
                other = by_place[task.finding, 5, d.baseline]
                assert d.auc.mean == pytest.approx(score.auc.mean - other.auc.mean, abs=1e-12)
                ours, theirs = (SCORERS[n].scores(task, 5) for n in (name, d.baseline))
                patients = films.patient_numbers()[task.test]
                assert d.p == exchange_p(ours, theirs, task.labels, patients, permutations=199)[0]
                if place == 0:
                    ps.append((d.p, d.p_holm))
        if ps:
            assert [holm_p for _, holm_p in ps] == list(holm([p for p, _ in ps]))
    assert by_place["nodule", 5, "ours"].differences[0].auc.low > 0
    assert by_place["nodule", 5, "ours"].differences[0].p == pytest.approx(1 / 200)


def test_means_are_over_findings(found: Found) -> None:
    for mean in found.means:
        own = [s for s in found.scores if (s.initialisation, s.shots) == (mean.initialisation, mean.shots)]
        assert mean.findings == ("nodule", "effusion")
        assert mean.auc.mean == pytest.approx(np.mean([s.auc.mean for s in own]), abs=1e-12)
        assert mean.average_precision.mean == pytest.approx(np.mean([s.average_precision.mean for s in own]))
        assert len(mean.differences) == len(own[0].differences)
        for place, d in enumerate(mean.differences):
            assert d.auc.mean == pytest.approx(np.mean([s.differences[place].auc.mean for s in own]), abs=1e-12)
            assert d.p_holm is None
            assert d.p == pytest.approx(1 / 200) if d.baseline == "random" else d.p > 1 / 200


def test_a_finding_of_few_patients_is_no_part_of_the_mean_or_the_correction(films: Films, episodes: Episodes) -> None:
    patients = films.patient_numbers()
    counts = {task.finding: min(patients_of(task, patients)) for task in episodes.tasks}
    assert counts["effusion"] < counts["nodule"]
    found = run(films, episodes, replace(QUICK, min_patients=counts["effusion"] + 1))
    for score in found.scores:
        assert score.enough is (score.finding == "nodule")
        for d in score.differences:
            assert d.p_holm == (d.p if score.enough else None)
    assert {mean.findings for mean in found.means} == {("nodule",)}
    nobody = run(films, episodes, replace(QUICK, min_patients=1000))
    assert (nobody.means, len(nobody.scores)) == ((), 12)


def test_what_is_no_log_odds_is_not_calibrated_and_without_a_prevalence_nothing_is_predicted(
    films: Films, episodes: Episodes
) -> None:
    found = run(films, episodes, replace(QUICK, prevalence=None), log_odds=False)
    score: Score = found.scores[0]
    assert (score.calibration, score.ppv_90, score.ppv_95) == (None, None, None)


def test_patients_are_counted_by_class() -> None:
    task = Task("a", "b", np.array([0, 1, 2, 3]), np.array([True, True, False, False]), {})
    assert patients_of(task, np.array([5, 5, 5, 7])) == (1, 2)


def test_classes_exclude_both_and_unknown_and_numbers_cannot_be_changed(films: Films) -> None:
    has, other = films.classes("nodule", "effusion")
    assert not (has & other).any()
    np.testing.assert_array_equal(has | other, films.showing("nodule") != films.showing("effusion"))
    has, other = films.classes("nodule", None)
    np.testing.assert_array_equal(other, films.known() & ~has)
    with pytest.raises(ValueError, match="read-only"):
        films.patient_numbers()[0] = 9
