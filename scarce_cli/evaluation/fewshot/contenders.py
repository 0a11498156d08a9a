"""Who is compared: checkpoints, and baselines of the same architecture that see films of the same size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scarce_cli.checkpoint import EncoderInfo, SavedEncoder
from scarce_cli.data.cache import Cache
from scarce_cli.errors import UsageError
from scarce_cli.evaluation.features import extract_features, restore_encoder
from scarce_cli.evaluation.fewshot.films import Ints
from scarce_cli.evaluation.fewshot.result import Initialisation
from scarce_cli.evaluation.fewshot.store import Store, key_of
from scarce_cli.models.resnet import Encoder, build_encoder
from scarce_cli.weights import read_weights

# ImageNet's grey values in [0, 1]: means of torchvision's (.485, .456, .406) and (.229, .224, .225). What its networks
# were trained to see; the films' own mean and spread would handicap the baseline.
_IMAGENET_MEAN, _IMAGENET_STD = 0.449, 0.226
_PART = 2048  # films extracted between two saves


@dataclass(frozen=True)
class Contender:
    """One row of the tables: an encoder, or several whose scores are averaged."""

    row: Initialisation
    info: EncoderInfo
    encoders: tuple[Callable[[], Encoder], ...]  # one for each set of weights, in evaluation mode
    identities: tuple[str, ...]  # of each: a SHA-256, or how it was drawn
    baselines: tuple[str, ...] = ()  # names of the rows it is held against
    trained_on: NDArray[np.int64] | None = None  # keys of films (data.manifest.pixel_keys); None: not known
    trained_data: str = ""  # digest of the data set it was trained on

    @property
    def name(self) -> str:
        """Of the row."""
        return self.row.name


def contenders(saved: Sequence[SavedEncoder], *, random_weights: int, imagenet: Path | None) -> list[Contender]:
    """Baselines first, then the checkpoints in the order given. Each checkpoint is held against the baselines of its
    own architecture, size and grey values, and against the first checkpoint.

    Args:
        random_weights: how many random initialisations are averaged, 1 or more; the seeds are 0, 1, 2, …
        imagenet: local weights of torchvision's, which must fit every checkpoint's architecture.

    Raises:
        UsageError, UnsafeInput, DamagedData, ResourceError: as `restore_encoder` and `read_weights`.
    """
    _require_distinct(saved)
    restored = [restore_encoder(one) for one in saved]  # what does not fit is said before anything is computed
    infos = list(dict.fromkeys(one.info for one in saved))
    random = {info: _random(info, infos, random_weights) for info in infos}
    learned = {info: _imagenet(info, infos, imagenet) for info in _without_grey(infos)} if imagenet else {}
    found = [*random.values(), *(_against(one, [random[_like(one.info, infos)].name]) for one in learned.values())]
    first = ""
    for one, encoder in zip(saved, restored, strict=True):
        name = _name(one, saved)
        baselines = [random[one.info].name, *(each.name for each in learned.values() if _alike(each.info, one.info))]
        found.append(_checkpoint(one, encoder, name, (*baselines, *([first] if first else []))))
        first = first or name
    return found


def _require_distinct(saved: Sequence[SavedEncoder]) -> None:
    paths = [str(one.path) for one in saved]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice:
        raise UsageError(f"the checkpoint {twice} was given twice", "name each once")


def _without_grey(infos: Sequence[EncoderInfo]) -> list[EncoderInfo]:
    """What differs in more than grey values: ImageNet's weights have their own."""
    return list(dict.fromkeys(replace(info, mean=_IMAGENET_MEAN, std=_IMAGENET_STD) for info in infos))


def _alike(one: EncoderInfo, other: EncoderInfo) -> bool:
    return (one.backbone, one.size) == (other.backbone, other.size)


def _like(info: EncoderInfo, infos: Sequence[EncoderInfo]) -> EncoderInfo:
    return next(one for one in infos if _alike(one, info))


def _against(one: Contender, names: Sequence[str]) -> Contender:
    return replace(one, baselines=tuple(names))


def _label(kind: str, info: EncoderInfo, infos: Sequence[EncoderInfo]) -> str:
    """The kind alone where there is one architecture; what tells them apart where there are more."""
    if len(infos) == 1:
        return kind
    several = sum(_alike(info, other) for other in infos) > 1
    grey = f", grey {info.mean:.3f} ± {info.std:.3f}" if several and kind == "random" else ""
    return f"{kind} {info.backbone}, {info.size} px{grey}"


def _random(info: EncoderInfo, infos: Sequence[EncoderInfo], count: int) -> Contender:
    """Without ``model.zero_init_residual``, whatever a run had: such a network starts as its shortcuts alone, whose
    random features would be an easier baseline to beat."""
    row = Initialisation(
        _label("random", info, infos), "random", "", "", info.backbone, info.size, "", None, weights=count
    )
    builders = tuple(_builder(info.backbone, seed) for seed in range(count))
    return Contender(row, info, builders, tuple(f"random {seed}" for seed in range(count)), trained_on=_NOTHING)


_NOTHING = np.empty(0, np.int64)


def _builder(backbone: str, seed: int) -> Callable[[], Encoder]:
    return lambda: build_encoder(backbone, seed=seed).eval()  # type: ignore[arg-type]  # restore_encoder checks it


def _imagenet(info: EncoderInfo, infos: Sequence[EncoderInfo], path: Path) -> Contender:
    encoder = build_encoder(info.backbone, seed=0)  # type: ignore[arg-type]
    found = read_weights(path, encoder.state_dict(), info.backbone)
    encoder.load_state_dict(found.state)
    if found.trained_on is not None:
        raise UsageError(f"{path} is a checkpoint, not ImageNet's weights", "name it among the checkpoints")
    name = _label("imagenet", info, _without_grey(infos))
    row = Initialisation(name, "imagenet", str(path), found.digest, info.backbone, info.size, "", None, weights=1)
    return Contender(row, info, (encoder.eval,), (found.digest,), trained_on=_NOTHING)


def _known(keys: torch.Tensor | None) -> NDArray[np.int64] | None:
    """Ascending; None where it is not known what was trained on."""
    return None if keys is None or len(keys) == 0 else np.unique(keys.numpy())


def _checkpoint(one: SavedEncoder, encoder: Encoder, name: str, baselines: tuple[str, ...]) -> Contender:
    row = Initialisation(
        name, "checkpoint", str(one.path), one.digest, one.info.backbone, one.info.size, one.method, one.epoch, 1
    )
    digest = str(one.data.get("digest", ""))
    return Contender(row, one.info, (encoder.eval,), (one.digest,), baselines, _known(one.trained_on), digest)


def _name(one: SavedEncoder, saved: Sequence[SavedEncoder]) -> str:
    name = f"{one.method} epoch {one.epoch}"
    same = [other for other in saved if f"{other.method} epoch {other.epoch}" == name]
    return name if len(same) == 1 else f"{name} ({one.path})"


def encode(
    one: Contender,
    cache: Cache,
    rows: Ints,
    device: torch.device,
    *,
    stage: int,
    store: Store,
    on_films: Callable[[int], None],
) -> list[NDArray[np.float32]]:
    """(len(rows), D) features of whole films for each set of weights; what is kept in ``store`` is not computed.

    ``on_films`` hears of every film, kept or not. Raises as `extract_features`, and ResourceError.
    """
    found = []
    for build, identity in zip(one.encoders, one.identities, strict=True):
        what = {"encoder": identity, "data": cache.digest, "stage": stage, "device": device.type, **vars(one.info)}
        key = key_of(what)
        known, features = store.features(key, rows)
        on_films(int(known.sum()))
        missing = np.flatnonzero(~known)
        encoder = build() if len(missing) else None
        for start in range(0, len(missing), _PART):
            part = missing[start : start + _PART]
            assert encoder is not None
            values = extract_features(encoder, one.info, cache, rows[part], device, stage=stage, on_films=on_films)
            store.add_features(key, rows[part], values)
            features = np.empty((len(rows), values.shape[1]), np.float32) if features is None else features
            features[part] = values
        assert features is not None
        found.append(features)
    return found
