"""The whole probe: every finding, number of shots and initialisation, scored, measured and compared.

N test films, K draws, S sets of weights of an initialisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from scarce_cli.evaluation.fewshot.calibration import calibrate
from scarce_cli.evaluation.fewshot.contenders import Contender
from scarce_cli.evaluation.fewshot.episodes import Episodes, Task
from scarce_cli.evaluation.fewshot.exchange import Shares, holm, joint, p_value, patient_shares
from scarce_cli.evaluation.fewshot.films import Films, Floats, Ints
from scarce_cli.evaluation.fewshot.metrics import ppv
from scarce_cli.evaluation.fewshot.resample import (
    Resampler,
    Sampled,
    difference,
    estimate,
    mean_difference,
    mean_estimate,
    sample,
)
from scarce_cli.evaluation.fewshot.result import Difference, Estimate, MeanScore, Score
from scarce_cli.evaluation.fewshot.scoring import Progress, Scorer


@dataclass(frozen=True)
class Statistics:
    """How results are measured."""

    min_patients: int = 10  # test patients with a finding, and without, below which it is left out of the mean
    resamples: int = 1000  # behind every interval
    permutations: int = 9999  # behind every p
    prevalence: float | None = None  # where the model is to be used; above 0, below 1
    seed: int = 0


@dataclass(frozen=True)
class _Cell:
    """One finding, number of shots and initialisation, with what comparisons need."""

    score: Score
    sampled: Sampled
    shares: Mapping[str, Shares]  # by baseline


@dataclass(frozen=True)
class Found:
    """All scores and the means over findings."""

    scores: tuple[Score, ...]
    means: tuple[MeanScore, ...]
    left_out: Mapping[str, float]  # finding and what it is against -> share of resamples that lack a class, 0 to 1


def patients_of(task: Task, patients: Ints) -> tuple[int, int]:
    """How many test patients have a film with the finding, and how many one without.

    Args:
        patients: (F,) number of each film's patient.
    """
    return len(np.unique(patients[task.test[task.labels]])), len(np.unique(patients[task.test[~task.labels]]))


def run_probe(
    films: Films,
    episodes: Episodes,
    scorers: Mapping[str, Scorer],
    compared: Sequence[Contender],
    settings: Statistics,
    *,
    log_odds: bool,
    progress: Progress,
) -> Found:
    """Score and measure all tasks; the same test films, resamples and exchanges for every initialisation.

    Args:
        scorers: by name of the initialisation.
        log_odds: scores are log-odds at the balance of the support set, so that they can be calibrated.
    """
    run = _Run(films, episodes, scorers, compared, settings, log_odds)
    cells: list[_Cell] = []
    total = sum(len(task.supports) for task in episodes.tasks)
    for task in episodes.tasks:
        for shots in task.supports:
            cells += run.cells(task, shots)
            progress("statistics", total, 1)
    left_out = {f"{cell.score.finding} against {cell.score.against}": cell.sampled.left_out for cell in cells}
    return Found(tuple(_corrected([cell.score for cell in cells])), tuple(run.means(cells)), left_out)


@dataclass(frozen=True)
class _Run:
    films: Films
    episodes: Episodes
    scorers: Mapping[str, Scorer]
    compared: Sequence[Contender]
    settings: Statistics
    log_odds: bool

    @property
    def patients(self) -> Ints:
        """(F,)"""
        return self.films.patient_numbers()

    @cached_property
    def resampler(self) -> Resampler:
        """The same for all."""
        tested = np.unique(np.concatenate([task.test for task in self.episodes.tasks]))
        draws = self.episodes.settings.draws
        return Resampler.make(self.patients, tested, draws, self.settings.resamples, self.settings.seed)

    def cells(self, task: Task, shots: int) -> list[_Cell]:
        scores = {one.name: self.scorers[one.name].scores(task, shots) for one in self.compared}
        prevalence = self.settings.prevalence
        sampled = {name: sample(s, task.labels, task.test, self.resampler, prevalence) for name, s in scores.items()}
        return [self._cell(task, shots, one, scores, sampled) for one in self.compared]

    def _cell(
        self, task: Task, shots: int, one: Contender, scores: Mapping[str, Floats], sampled: Mapping[str, Sampled]
    ) -> _Cell:
        ours, patients = sampled[one.name], self.patients[task.test]
        shares = {b: patient_shares(scores[one.name], scores[b], task.labels, patients) for b in one.baselines}
        differences = tuple(
            Difference(name, difference(ours, sampled[name], "auc"), self._p(shares[name]), None)
            for name in one.baselines
        )
        score = Score(
            finding=task.finding,
            against=task.against,
            initialisation=one.name,
            shots=shots,
            auc=estimate(ours, "auc"),
            average_precision=estimate(ours, "average_precision"),
            sensitivity_90=estimate(ours, "sensitivity_90"),
            sensitivity_95=estimate(ours, "sensitivity_95"),
            ppv_90=self._predictive(ours, 0.90),
            ppv_95=self._predictive(ours, 0.95),
            calibration=calibrate(scores[one.name], task.labels) if self.log_odds else None,
            differences=differences,
            c=self.scorers[one.name].chosen(task, shots),
            enough=min(patients_of(task, self.patients)) >= self.settings.min_patients,
        )
        return _Cell(score, ours, shares)

    def _predictive(self, ours: Sampled, specificity: float) -> Estimate | None:
        """The ends of the interval are those of the sensitivity, of which a predictive value is a rising function: so
        they stay possible."""
        prevalence = self.settings.prevalence
        if prevalence is None:
            return None
        name = f"{100 * specificity:.0f}"
        ends = estimate(ours, f"sensitivity_{name}")
        low, high = ppv(np.array([ends.low, ends.high]), specificity, prevalence).tolist()
        found = estimate(ours, f"ppv_{name}")
        return Estimate(found.mean, found.sd, min(low, found.mean), max(high, found.mean))

    def _p(self, shares: Shares) -> float:
        return p_value(shares, self.settings.permutations, self.settings.seed)

    def means(self, cells: Sequence[_Cell]) -> list[MeanScore]:
        """For each number of shots and initialisation, over the findings that have enough test patients."""
        enough = [cell for cell in cells if cell.score.enough]
        found = []
        for shots in sorted({cell.score.shots for cell in enough}):
            of = {one.name: [c for c in enough if _is(c, one.name, shots)] for one in self.compared}
            found += [self._mean(one, shots, of) for one in self.compared]
        return found

    def _mean(self, one: Contender, shots: int, of: Mapping[str, Sequence[_Cell]]) -> MeanScore:
        ours = [cell.sampled for cell in of[one.name]]
        differences = tuple(
            Difference(
                name,
                mean_difference(ours, [cell.sampled for cell in of[name]], "auc"),
                self._p(joint([cell.shares[name] for cell in of[one.name]])),
                None,
            )
            for name in one.baselines
        )
        return MeanScore(
            initialisation=one.name,
            shots=shots,
            findings=tuple(cell.score.finding for cell in of[one.name]),
            auc=mean_estimate(ours, "auc"),
            average_precision=mean_estimate(ours, "average_precision"),
            differences=differences,
        )


def _is(cell: _Cell, name: str, shots: int) -> bool:
    return (cell.score.initialisation, cell.score.shots) == (name, shots)


def _corrected(scores: Sequence[Score]) -> list[Score]:
    """With p values corrected for the findings that are tested, at each number of shots and baseline by itself."""
    families: dict[tuple[str, int, str], list[tuple[int, int]]] = {}
    for number, score in enumerate(scores):
        for place, one in enumerate(score.differences):
            if score.enough:
                families.setdefault((score.initialisation, score.shots, one.baseline), []).append((number, place))
    corrected = [list(score.differences) for score in scores]
    for members in families.values():
        ps = holm([p for number, place in members if (p := corrected[number][place].p) is not None])
        for (number, place), p in zip(members, ps, strict=True):
            corrected[number][place] = replace(corrected[number][place], p_holm=p)
    return [replace(score, differences=tuple(new)) for score, new in zip(scores, corrected, strict=True)]
