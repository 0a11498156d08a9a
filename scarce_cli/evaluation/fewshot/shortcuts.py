"""What a table and the files alone tell of a finding, without a look at any film.

Where films come from several hospitals, or in several sizes, a network can tell one hospital from another and so seem
to know the finding. Each column is tried by itself: the share of films with the finding in each of its groups, learned
from training films, is the score of a test film.

F films, n films of a task, N of them tested, G groups, B resamples.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape

import numpy as np

from scarce_cli.data.labels_tables import column_key
from scarce_cli.evaluation.fewshot.episodes import Task
from scarce_cli.evaluation.fewshot.films import Bools, Films, Floats, Ints
from scarce_cli.evaluation.fewshot.grouping import FEWEST, NOT_STATED, Groups, group
from scarce_cli.evaluation.fewshot.metrics import measures
from scarce_cli.evaluation.fewshot.resample import Resampler

TELLS = 0.6  # lower end of the AUC's interval above which a column is reported

LIGHT, CONTRAST = "brightness of the film", "contrast of the film"

_RESAMPLES, _SEED = 500, 0
_PRIOR = 2.0  # films at the mean share that are added to each group, so that small groups say little
_AGE = frozenset({"age", "patientage", "ageyears", "ageinyears", "patientageyears"})
_SEX = frozenset({"sex", "gender", "patientsex", "patientgender"})
_TOP = 2  # groups named for each class
_SHOWN = 40  # characters of a value among others
_PATTERN = 100  # characters of a value to keep to


@dataclass(frozen=True)
class Shortcut:
    """A column that tells the finding."""

    column: str  # as the table or the caller names it
    same: tuple[str, ...]  # further columns that group the films alike
    auc: float  # of the column alone, on the test films
    low: float  # 95 %, by bootstrap over test patients
    high: float
    text: str  # in words, with what to do


def find_shortcuts(films: Films, task: Task, facts: Mapping[str, tuple[str, ...]]) -> list[Shortcut]:
    """Columns that tell the finding of a task by themselves, the most telling first.

    A column is reported when the lower end of the 95 % interval of its AUC is above .6. Not looked at: names and text
    (`grouping.group`). Empty when either class has fewer than five patients on either side: nothing can be said then.

    Args:
        films: with their `columns`.
        task: of these films.
        facts: what we know of all F films from their files, under names that say so: "size of the file". `LIGHT`
            and `CONTRAST` are the mean and the standard deviation of a film's pixels.
    """
    used = _Used.of(films, task)
    if used is None:
        return []
    found: dict[bytes, list[tuple[str, Groups]]] = {}
    for name, column in {**films.columns, **facts}.items():
        cells = [column[film] for film in used.films]
        groups = group(cells, used.patients, ~used.test, measured=name in facts)
        if groups is not None:
            found.setdefault(_partition(groups), []).append((name, groups))
    patients = films.patient_numbers()
    weights = Resampler.make(patients, used.tested, 1, _RESAMPLES, _SEED).weights(used.tested, 0, _RESAMPLES)
    shortcuts = []
    for columns in found.values():
        named, groups = [name for name, _ in columns], columns[0][1]
        scores, labels = _shares(groups, used)[groups.codes[used.test]], used.labels[used.test]
        low, high = np.nanpercentile(measures(scores, labels, weights).auc, [2.5, 97.5])
        if low > TELLS:
            auc = (float(measures(scores, labels).auc[0]), float(low), float(high))
            text = _text(named, named[0] in films.columns, task, used, groups, auc)
            shortcuts.append(Shortcut(named[0], tuple(named[1:]), *auc, text))
    return sorted(shortcuts, key=lambda shortcut: -shortcut.auc)


@dataclass(frozen=True)
class _Used:
    """The films of a task, tested ones last, without training films of patients who are tested."""

    films: Ints  # (n,)
    labels: Bools  # (n,)
    patients: Ints  # (n,)
    test: Bools  # (n,)

    @property
    def tested(self) -> Ints:
        """(N,) numbers of the test films."""
        return self.films[self.test]

    @classmethod
    def of(cls, films: Films, task: Task) -> _Used | None:
        """None when a class has too few patients on a side to say anything."""
        has, against = films.classes(task.finding, task.against)
        patients = films.patient_numbers()
        train = np.flatnonzero((has | against) & ~np.isin(patients, patients[task.test]))
        used = np.concatenate([train, task.test])
        labels, test = np.concatenate([has[train], task.labels]), np.arange(len(used)) >= len(train)
        for side in (test, ~test):
            for label in (True, False):
                if len(np.unique(patients[used[side & (labels == label)]])) < FEWEST:
                    return None
        return cls(used, labels, patients[used], test)


def _partition(groups: Groups) -> bytes:
    """The same for two columns that group the films alike, whatever their values are called."""
    _, first, codes = np.unique(groups.codes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes].tobytes()


def _shares(groups: Groups, used: _Used) -> Floats:
    """(G,) share of training films with the finding, drawn towards the mean share by two films."""
    codes, labels = groups.codes[~used.test], used.labels[~used.test]
    films = np.bincount(codes, minlength=len(groups.names))
    positives = np.bincount(codes, weights=labels, minlength=len(groups.names))
    return (positives + _PRIOR * labels.mean()) / (films + _PRIOR)


def _text(named: Sequence[str], in_table: bool, task: Task, used: _Used, groups: Groups, auc: Sequence[float]) -> str:
    """What is told, by what, and what to do."""
    subject, key = " and ".join(map(repr, named)), column_key(named[0]).removesuffix("dicom")
    told = f"{task.finding} from {task.against} with an AUC of {auc[0]:.2f} ({auc[1]:.2f} to {auc[2]:.2f})"
    if key in _AGE and groups.numbers is not None:
        return f"Age alone ({subject}) tells {told}: {_older(groups.numbers, used.labels)}. A network may be using it."
    if named[0] in (LIGHT, CONTRAST) and groups.numbers is not None:
        return (
            f"The {named[0]} alone, in fifths, tells {told}. It may belong to the finding or to how the films were "
            "taken; random weights see it too, so compare with them."
        )
    mix = f"with it {_mix(groups, used.labels)}; without it {_mix(groups, ~used.labels)}"
    if key in _SEX:
        return f"Sex alone ({subject}) tells {told}: {mix}. A network may be using it."
    how = f"{' in fifths' if groups.numbers is not None else ''} {'tell' if len(named) > 1 else 'tells'}"
    return (
        f"{subject} alone{how} {told}, without a look at the film: {mix}. A network may learn this in place of the "
        f"finding. {_remedy(named[0], in_table, groups, used)}"
    )


def _older(ages: Floats, labels: Bools) -> str:
    """Median ages of films with and without, and how many state none."""
    parts, known = [], ~np.isnan(ages)
    if (known & labels).any() and (known & ~labels).any():
        with_it, without = (float(np.median(ages[known & side])) for side in (labels, ~labels))
        how = "older" if with_it > without else "younger" if with_it < without else "of other ages"
        parts.append(f"patients with it are {how} (median {with_it:.0f} against {without:.0f} years)")
    missing = [(~known)[side].mean() for side in (labels, ~labels)]
    if max(missing) > 0:
        parts.append(
            f"age is not stated for {missing[0]:.0%} of the films with it and {missing[1]:.0%} of those without"
        )
    return "; ".join(parts)


def _mix(groups: Groups, side: Bools) -> str:
    """The largest groups of one class, with their shares of its films."""
    counts = np.bincount(groups.codes[side], minlength=len(groups.names))
    top = [i for i in np.argsort(-counts, kind="stable")[:_TOP] if counts[i]]
    return ", ".join(f"{counts[i] / side.sum():.0%} {_shown(groups, i)}" for i in top)


def _shown(groups: Groups, number: int) -> str:
    name = groups.names[number]
    if not groups.values[number] or not name:
        return name or NOT_STATED
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")


def _remedy(name: str, in_table: bool, groups: Groups, used: _Used) -> str:
    """The value to keep to: that with the most patients of the rarer class; or why there is none."""
    if groups.numbers is not None or not in_table:
        return "Keep to films of one kind, by a column that says where they come from (--where COLUMN=VALUE)."
    fewest = {int(number): _rarer(used, groups.codes == number) for number in np.flatnonzero(groups.values)}
    best = max(fewest, key=lambda number: fewest[number])
    if fewest[best] < FEWEST:
        return f"No value has {FEWEST} patients with it and {FEWEST} without, so there is none to keep to."
    return f"Keep to one: --where {shlex.quote(f'{name}={_pattern(groups.names[best])}')}."


def _pattern(value: str) -> str:
    """What stands for a value after --where: itself, if it is short, can be shown and holds no wildcard."""
    if len(value) <= _PATTERN and value.isprintable() and "*" not in value and "?" not in value:
        return value
    shown = "".join(escape(sign) if sign.isprintable() else "?" for sign in value[:_PATTERN])
    return shown + ("*" if len(value) > _PATTERN else "")


def _rarer(used: _Used, inside: Bools) -> int:
    """Patients of the rarer class among some of the films."""
    return min(len(np.unique(used.patients[inside & (used.labels == label)])) for label in (True, False))
