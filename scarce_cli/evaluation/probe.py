"""Few-shot linear probe: what frozen features are worth with 1 to 50 labelled films of a finding.

Films are split by patient. A draw is N films with the finding and N without, from training patients; a
logistic regression on L2-normalised features is tested on all test patients. Every initialisation gets the
same draws and the same test films, so differences are paired.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.collapse import l2_normalize
from scarce_cli.evaluation.fewshot.drawing import in_test_part
from scarce_cli.evaluation.fewshot.logistic import fit_logistic
from scarce_cli.evaluation.statistics import Estimate, auc, bootstrap_means, summarize
from scarce_cli.presets import nearest

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

REST = "the rest"
_LISTED = 20  # findings in a message; PadChest has more than a hundred


@dataclass(frozen=True)
class ProbeSettings:
    """How the probe is done."""

    shots: tuple[int, ...] = (1, 5, 10, 20, 50)  # films with the finding in a draw, and as many without
    draws: int = 10
    # Weight of the data against the penalty. Unit features of one modality lie close together, so small weights
    # leave little but class means; on real films 100 was at least as good as 1 for random and pretrained features.
    c: float = 100.0
    test_fraction: float = 0.2  # of patients
    seed: int = 0
    stage: int = 4  # of the encoder, 1 to 4, whose output is the feature vector
    resamples: int = 500  # of the bootstrap behind every interval


@dataclass(frozen=True)
class Films:
    """Labelled films: all arrays and tuples have one entry for each."""

    patients: tuple[str, ...]
    findings: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class Task:
    """One finding against the rest or against a named negative, split by patient."""

    finding: str
    negative: str  # a finding's name, or `REST`
    films: Ints  # numbers of the films used, of those given
    labels: Bools
    patients: Ints  # numbers of the patients
    test: Bools  # the film is in the test part

    def available(self) -> int:
        """The largest number of shots: films of the rarer class among training patients."""
        train = self.labels[~self.test]
        return int(min(train.sum(), (~train).sum()))

    def missing(self) -> str:
        """Why the finding cannot be tested, or an empty string."""
        for name, part in (("test", self.test), ("training", ~self.test)):
            for label, what in ((True, self.finding), (False, self.negative)):
                if not (self.labels[part] == label).any():
                    return f"no {name} patient has a film of '{what}'"
        return ""


@dataclass(frozen=True)
class Score:
    """One row of the result."""

    finding: str
    negative: str
    initialisation: str
    shots: int
    auc: Estimate
    difference: Estimate | None  # to the first initialisation, paired; None for the first itself
    draws: int
    test_positives: int
    test_negatives: int


@dataclass(frozen=True)
class Skipped:
    """A row that cannot be computed, and why."""

    finding: str
    negative: str
    shots: int | None
    reason: str


def make_task(films: Films, finding: str, negative: str | None, settings: ProbeSettings) -> Task:
    """Choose films and split them. With a named negative, films of neither (or both) are left out.

    Raises:
        UsageError: nobody has the finding, or the negative.
    """
    has = np.array([finding in f for f in films.findings], dtype=bool)
    against = ~has if negative is None else np.array([negative in f for f in films.findings], dtype=bool)
    for name, found in ((finding, has), (negative, against)):
        if not found.any():
            raise UsageError(*_nobody_has(name or REST, films))
    used = np.flatnonzero(has != against)
    names = np.array(films.patients)[used]
    return Task(
        finding=finding,
        negative=negative or REST,
        films=used,
        labels=has[used],
        patients=np.unique(names, return_inverse=True)[1].astype(np.int64),
        test=in_test_part(films.patients, settings.test_fraction, settings.seed)[used],
    )


def _nobody_has(name: str, films: Films) -> tuple[str, str]:
    """Message and remedy: the nearest finding, and the most frequent ones with their films."""
    counts = Counter(finding for findings in films.findings for finding in findings)
    listed = ", ".join(f"{finding} ({count})" for finding, count in counts.most_common(_LISTED))
    more = f", and {len(counts) - _LISTED} more" if len(counts) > _LISTED else ""
    return f"no film is labelled '{name}'{nearest(name, counts)}", f"findings: {listed}{more}"


def draw_supports(task: Task, shots: int, settings: ProbeSettings) -> list[Ints]:
    """For each draw the numbers (within the task) of its films: ``shots`` positives, then as many
    negatives. Different patients as far as there are enough; fixed by the seed, the finding and shots."""
    key = zlib.crc32(f"{task.finding}/{task.negative}".encode())
    rng = np.random.default_rng((settings.seed, key, shots))
    train = np.flatnonzero(~task.test)
    classes = [train[task.labels[train]], train[~task.labels[train]]]
    return [
        np.concatenate([_pick(films, task.patients[films], shots, rng) for films in classes])
        for _ in range(settings.draws)
    ]


def _pick(films: Ints, patients: Ints, count: int, rng: np.random.Generator) -> Ints:
    order = rng.permutation(len(films))
    _, first = np.unique(patients[order], return_index=True)  # one film of each patient comes first
    head = np.sort(first)
    rest = np.setdiff1d(np.arange(len(films)), head)
    return films[order[np.concatenate([head, rest])][:count]]


def run_task(
    task: Task, features: Mapping[str, NDArray[np.floating]], settings: ProbeSettings
) -> Iterator[Score | Skipped]:
    """All shots of one task for every initialisation.

    Args:
        features: name of the initialisation -> (films, D), rows as in the `Films` the task was made of.
            The first is the reference that the others are compared with.
    """
    reason = task.missing()
    if reason:
        yield Skipped(task.finding, task.negative, None, reason)
        return
    units = {name: l2_normalize(np.asarray(f[task.films], np.float64)) for name, f in features.items()}
    for shots in settings.shots:
        if shots > task.available():
            yield Skipped(
                task.finding,
                task.negative,
                shots,
                f"only {task.available()} training films of the rarer class",
            )
        else:
            yield from _run_shots(task, units, shots, settings)


def _run_shots(task: Task, units: Mapping[str, Floats], shots: int, settings: ProbeSettings) -> Iterator[Score]:
    supports = draw_supports(task, shots, settings)
    labels, patients = task.labels[task.test], task.patients[task.test]
    reference: tuple[Floats, Floats] | None = None
    for name, unit in units.items():
        scores = np.stack([fit_logistic(unit[s], task.labels[s], settings.c).scores(unit[task.test]) for s in supports])
        aucs = np.array([auc(row, labels) for row in scores])
        means = bootstrap_means(scores, labels, patients, resamples=settings.resamples, seed=settings.seed)
        difference = None
        if reference is None:
            reference = (aucs, means)
        else:
            difference = summarize(aucs - reference[0], means - reference[1])
        yield Score(
            finding=task.finding,
            negative=task.negative,
            initialisation=name,
            shots=shots,
            auc=summarize(aucs, means),
            difference=difference,
            draws=settings.draws,
            test_positives=int(labels.sum()),
            test_negatives=int((~labels).sum()),
        )


def run_probe(
    tasks: Sequence[Task],
    features: Mapping[str, NDArray[np.floating]],
    settings: ProbeSettings,
    on_task: Callable[[Task], None] = lambda task: None,
) -> list[Score | Skipped]:
    """All tasks in order."""
    results: list[Score | Skipped] = []
    for task in tasks:
        if set(task.patients[task.test]) & set(task.patients[~task.test]):
            raise AssertionError("a patient is in both parts of a split")
        results.extend(run_task(task, features, settings))
        on_task(task)
    return results
