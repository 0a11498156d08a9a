"""The question asked directly: there are 23 labelled cases of a finding; how good is this backbone?

Every labelled case is used for learning and for testing, patients apart: pairs of patients are left out, labels are
shuffled to see what chance does, and a learning curve says what more cases would bring.

Shape suffixes: N films, D features, P patients, K resamples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from scarce_cli.evaluation.fewshot.episodes import Skipped
from scarce_cli.evaluation.fewshot.films import REST, Bools, Films, Floats, Ints, nobody_has
from scarce_cli.evaluation.fewshot.interval import resampled_weights, score_interval, widening
from scarce_cli.evaluation.fewshot.learning import draw_curve
from scarce_cli.evaluation.fewshot.leave_out import People, leave_pairs_out
from scarce_cli.evaluation.fewshot.projection import Today, project
from scarce_cli.evaluation.fewshot.result import Cases, CurvePoint, Difference, Estimate, Projection

FEWEST = 5
"""Patients of either class that anything can be said with."""


@dataclass(frozen=True)
class CasesSettings:
    """How a handful of cases is used."""

    cs: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)  # weights of the data to choose from, ascending
    permutations: int = 199  # shufflings of the labels
    resamples: int = 1000  # of patients, for the interval
    repeats: int = 40  # of each size of the learning curve
    target: float = 0.8  # AUC that the interval is to lie above
    seed: int = 0


@dataclass(frozen=True)
class Chosen:
    """Films of the patients that are used."""

    films: Ints  # (N,) numbers of films, ascending
    labels: Bools  # (N,) the patient is a case
    patients: Ints  # (N,) number of the film's patient, 0 to P - 1


@dataclass(frozen=True)
class CasesFound:
    """What the cases say of one initialisation."""

    cases: int  # patients
    controls: int
    auc: Estimate
    p: float
    shuffled: float
    permutations: int
    curve: tuple[CurvePoint, ...]
    projection: Projection | None
    note: str
    scores: Floats = field(repr=False)  # (N,) of films, by models without their patient, in standard deviations
    resampled: Floats = field(repr=False)  # AUC by resample of patients, the same for every initialisation

    def result(
        self,
        finding: str,
        against: str,
        initialisation: str,
        differences: tuple[Difference, ...] = (),
        p_holm: float | None = None,
    ) -> Cases:
        """As it stands in the report."""
        return Cases(
            finding=finding,
            against=against,
            initialisation=initialisation,
            cases=self.cases,
            controls=self.controls,
            films=len(self.scores),
            auc=self.auc,
            p=self.p,
            p_holm=self.p if p_holm is None else p_holm,
            shuffled=self.shuffled,
            permutations=self.permutations,
            curve=self.curve,
            projection=self.projection,
            differences=differences,
            note=self.note,
        )


def choose_cases(films: Films, finding: str, against: str | None, cases: int, seed: int) -> Chosen | Skipped:
    """Up to ``cases`` patients with the finding and as many without, with all their films of their class.

    A patient with a film of the finding is never a control. With a named ``against``, films that show both or neither
    are left out; without, a film of which the table says nothing is no control's. Where there are more patients than
    wanted, hashes of (seed, finding, name) choose, so films that are added later change little.

    Raises:
        UsageError: no film is labelled with ``finding`` or with ``against``.
    """
    against = None if against == REST else against
    for name in (finding, against):
        if name is not None and not films.showing(name).any():
            raise nobody_has(films, name)
    has, other = films.classes(finding, against)
    showing = {films.patients[i] for i in np.flatnonzero(films.showing(finding))}
    with_finding = _first({films.patients[i] for i in np.flatnonzero(has)}, cases, seed, finding)
    without = {films.patients[i] for i in np.flatnonzero(other)} - showing
    controls = _first(without, len(with_finding), seed, finding)
    for people, what in ((with_finding, f"'{finding}'"), (controls, f"'{against}'" if against else "controls")):
        if len(people) < FEWEST:
            reason = f"{len(people)} patients with films of {what}; at least {FEWEST} are needed"
            return Skipped(finding, against or REST, None, reason)
    case = np.array([name in with_finding for name in films.patients])
    control = np.array([name in controls for name in films.patients])
    used = np.flatnonzero((has & case) | (other & control))
    return Chosen(used, has[used], np.unique(np.array(films.patients)[used], return_inverse=True)[1].astype(np.int64))


def _first(patients: Iterable[str], count: int, seed: int, finding: str) -> frozenset[str]:
    def position(patient: str) -> bytes:
        return hashlib.blake2b(f"{seed}/{finding}/{patient}".encode("utf-8", "surrogatepass"), digest_size=16).digest()

    return frozenset(sorted(patients, key=position)[:count])


def run_cases(
    x_ND: Floats,
    labels: Bools,
    patients: Ints,
    settings: CasesSettings,
    on_step: Callable[[], None] = lambda: None,
) -> CasesFound:
    """All that the chosen films say of their features.

    The AUC is the share of pairs of a case's and a control's film that a model without both patients puts in order.
    The p-value is one-sided, (1 + shufflings that do as well) / (1 + shufflings), each with all of the procedure.

    Args:
        x_ND: float64, unit rows.
        labels: (N,) alike for all films of a patient; `FEWEST` patients or more of either class.
        on_step: hears of each shuffling: ``settings.permutations`` times.
    """
    people = People.of(x_ND, labels, patients)
    left_out = leave_pairs_out(people, settings.cs, np.random.default_rng((settings.seed, 0)))
    shuffled = _shuffle(people, settings, on_step)
    cases, controls = left_out.wins_AB.shape
    rng = np.random.default_rng((settings.seed, 1))
    weights = resampled_weights(cases, settings.resamples, rng), resampled_weights(controls, settings.resamples, rng)
    aucs_K = left_out.aucs(*weights)
    wider = widening(left_out, aucs_K)
    auc = left_out.auc()
    estimate = Estimate(auc, 0.0, *score_interval(auc, cases, controls, wider))
    points, curve = draw_curve(people, weights, settings.cs, settings.repeats, settings.seed)
    p = (1 + sum(other >= auc for other in shuffled)) / (1 + len(shuffled))
    projection, note = project(curve, Today(cases, estimate.low, wider), settings.target)
    return CasesFound(
        cases=cases,
        controls=controls,
        auc=estimate,
        p=p,
        shuffled=float(np.mean(shuffled)),
        permutations=len(shuffled),
        curve=points,
        projection=projection,
        note=note,
        scores=left_out.scores_N,
        resampled=aucs_K[np.isfinite(aucs_K)],
    )


def _shuffle(people: People, settings: CasesSettings, on_step: Callable[[], None]) -> Sequence[float]:
    """AUCs of the whole procedure with the patients' labels in other orders."""
    aucs = []
    for number in range(settings.permutations):
        rng = np.random.default_rng((settings.seed, 2, number))
        aucs.append(leave_pairs_out(people.with_labels(rng.permutation(people.case_P)), settings.cs, rng).auc())
        on_step()
    return aucs
