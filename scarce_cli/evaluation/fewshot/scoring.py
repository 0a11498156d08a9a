"""Scores of test films, for each way to learn from a support set: linear, prototype, k-NN or fine-tuning.

F films, U films that are used at all, N test films, D features, K draws, S sets of weights of an initialisation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from scarce_cli.data.cache import Cache
from scarce_cli.evaluation.collapse import l2_normalize
from scarce_cli.evaluation.fewshot.contenders import Contender, encode
from scarce_cli.evaluation.fewshot.episodes import Episodes, Support, Task
from scarce_cli.evaluation.fewshot.films import Films, Floats, Ints
from scarce_cli.evaluation.fewshot.finetune import FinetuneSettings, finetune_scores
from scarce_cli.evaluation.fewshot.frozen import FrozenMaps
from scarce_cli.evaluation.fewshot.linear import CS, Linear, fit_linear
from scarce_cli.evaluation.fewshot.nearest import score_knn, score_prototype
from scarce_cli.evaluation.fewshot.store import Store, key_of

Features = NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # what is done, how much of it there is, how much more is done now
_ROWS = 4096  # films normalised at once


@dataclass(frozen=True)
class Material:
    """What all initialisations share."""

    films: Films
    rows: Ints  # (F,) rows of the cache
    cache: Cache
    episodes: Episodes
    device: torch.device
    store: Store
    stage: int
    progress: Progress

    @property
    def used(self) -> Ints:
        """(U,) numbers of the films that are learned from or tested on."""
        return self.episodes.films()


class Scorer(Protocol):
    """Scores of one initialisation."""

    def scores(self, task: Task, shots: int) -> Floats:
        """(S, K, N) of the test films, higher for the finding."""

    def chosen(self, task: Task, shots: int) -> dict[str, int] | None:
        """How often each C was chosen; None where there is none to choose."""


def linear(one: Contender, material: Material, c: float | None) -> Scorer:
    """Logistic regression on unit features; all of one initialisation's are solved together.

    Args:
        c: of all regressions; None: chosen on folds of each support set.
    """
    return _Linear.fit(_Encoded.of(one, material), material.episodes, CS if c is None else (c,))


def prototype(one: Contender, material: Material) -> Scorer:
    """Nearest class mean."""
    return _Nearest(_Encoded.of(one, material), score_prototype)


def knn(one: Contender, material: Material) -> Scorer:
    """Nearest neighbours by cosine."""
    return _Nearest(_Encoded.of(one, material), score_knn)


@dataclass(frozen=True)
class _Encoded:
    """Unit features of the films used, by set of weights, with the films' places in them."""

    units: Sequence[Features]  # S arrays (U, D)
    place: Ints  # (F,) of a film's features; -1 where it is not used
    patients: Ints  # (U,)

    @classmethod
    def of(cls, one: Contender, material: Material) -> _Encoded:
        used = material.used
        total = len(used) * len(one.encoders)
        features = encode(
            one,
            material.cache,
            material.rows[used],
            material.device,
            stage=material.stage,
            store=material.store,
            on_films=lambda n: material.progress(f"features, {one.name}", total, n),
        )
        place = np.full(len(material.films), -1, np.int64)
        place[used] = np.arange(len(used))
        return cls([_unit(x) for x in features], place, material.films.patient_numbers()[used])

    def here(self, support: Support) -> Support:
        return Support(self.place[support.films], support.labels)


def _unit(x_UD: Features) -> Features:
    """Rows divided by their norm, in float64; kept in float32, as precise as the features were."""
    out = np.empty_like(x_UD)
    for start in range(0, len(x_UD), _ROWS):
        out[start : start + _ROWS] = l2_normalize(x_UD[start : start + _ROWS].astype(np.float64))
    return out


@dataclass(frozen=True)
class _Linear:
    encoded: _Encoded
    models: Sequence[Linear]  # of each set of weights: one for every support set
    first: dict[tuple[str, str, int], int]  # (finding, against, shots) -> place of the first draw's model

    @classmethod
    def fit(cls, encoded: _Encoded, episodes: Episodes, cs: Sequence[float]) -> _Linear:
        first: dict[tuple[str, str, int], int] = {}
        supports: list[Support] = []
        for task in episodes.tasks:
            for shots, draws in task.supports.items():
                first[task.finding, task.against, shots] = len(supports)
                supports += [encoded.here(support) for support in draws]
        models = [fit_linear(x_UD, supports, encoded.patients, cs=cs) for x_UD in encoded.units]
        return cls(encoded, models, first)

    def _of(self, model: Linear, task: Task, shots: int) -> Linear:
        start = self.first[task.finding, task.against, shots]
        part = slice(start, start + len(task.supports[shots]))
        return Linear(model.coef_PD[part], model.intercept_P[part], model.c_P[part], model.tied_P[part])

    def scores(self, task: Task, shots: int) -> Floats:
        test = self.encoded.place[task.test]
        models = [self._of(model, task, shots) for model in self.models]
        return np.stack([m.scores(x_UD[test]) for m, x_UD in zip(models, self.encoded.units, strict=True)])

    def chosen(self, task: Task, shots: int) -> dict[str, int] | None:
        values = np.concatenate([self._of(model, task, shots).c_P for model in self.models])
        return {f"{c:g}": n for c, n in sorted(Counter(values.tolist()).items())}


@dataclass(frozen=True)
class _Nearest:
    encoded: _Encoded
    classify: Callable[[Features, Sequence[Support], Ints], Floats]

    def scores(self, task: Task, shots: int) -> Floats:
        supports = [self.encoded.here(support) for support in task.supports[shots]]
        test = self.encoded.place[task.test]
        return np.stack([self.classify(x_UD, supports, test) for x_UD in self.encoded.units])

    def chosen(self, task: Task, shots: int) -> dict[str, int] | None:
        return None


@dataclass
class FineTuned:
    """A copy of the encoder trained on every support set; what was scored is kept draw by draw."""

    one: Contender
    material: Material
    settings: FinetuneSettings
    budget: int = 1 << 30  # bytes of maps kept on the device
    _maps: dict[int, FrozenMaps] = field(default_factory=dict)

    def scores(self, task: Task, shots: int) -> Floats:
        """See `Scorer`."""
        return np.stack(
            [
                [self._score(number, task, shots, draw) for draw in range(len(task.supports[shots]))]
                for number in range(len(self.one.encoders))
            ]
        )

    def chosen(self, task: Task, shots: int) -> dict[str, int] | None:
        """None: the settings are fixed."""
        return None

    def _score(self, number: int, task: Task, shots: int, draw: int) -> Floats:
        m, support = self.material, task.supports[shots][draw]
        what = f"fine-tuning, {self.one.name}, {task.finding}"
        films = self.settings.training_films(len(support.films)) + len(task.test)
        total = films * len(self.one.encoders) * sum(map(len, task.supports.values()))
        key = self._key(number, task, support, draw)
        found = m.store.scores(key)
        if found is not None and found.shape == task.test.shape:
            m.progress(what, total, films)
            return found
        frozen = self._frozen(number)
        scores = finetune_scores(
            frozen.encoder,
            self.one.info,
            m.cache,
            m.rows[support.films],
            support.labels,
            m.rows[task.test],
            self.settings,
            m.device,
            seed=draw,
            stage=m.stage,
            frozen=frozen,
            on_films=lambda n: m.progress(what, total, n),
        )
        m.store.add_scores(key, scores)
        return scores

    def _frozen(self, number: int) -> FrozenMaps:
        """Kept to the end for every set of weights, within its share of the memory."""
        if number not in self._maps:
            m, encoder = self.material, self.one.encoders[number]()
            self._maps[number] = FrozenMaps(
                encoder,
                self.one.info,
                m.cache,
                m.device,
                first=self.settings.unfreeze_from,
                stage=m.stage,
                budget=self.budget // len(self.one.encoders),
            )
        return self._maps[number]

    def _key(self, number: int, task: Task, support: Support, draw: int) -> str:
        m = self.material
        return key_of(
            {
                "encoder": self.one.identities[number],
                "info": asdict(self.one.info),
                "data": m.cache.digest,
                "stage": m.stage,
                "settings": str(self.settings),
                "draw": draw,
                "device": m.device.type,
                "support": [m.rows[support.films].tolist(), support.labels.tolist()],
                "test": m.rows[task.test].tolist(),
            }
        )
