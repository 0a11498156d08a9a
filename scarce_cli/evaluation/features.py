"""Frozen encoders and the features they give whole films, and random views of them.

Shape suffixes: Q views of each film, N films, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarce_cli.checkpoint import EncoderInfo, SavedEncoder
from scarce_cli.config import AugmentSettings
from scarce_cli.data.augment import draw_parameters, make_view
from scarce_cli.data.cache import Cache
from scarce_cli.data.loader import iterate_films, load_films, whole_films
from scarce_cli.errors import DamagedData, UsageError
from scarce_cli.models.resnet import Encoder, build_encoder

_SHOWN_KEYS = 5
_EPOCH = 1 << 32  # of the views drawn here: no run gets there, so none of them was trained on


def restore_encoder(saved: SavedEncoder) -> Encoder:
    """The encoder of a checkpoint, in evaluation mode.

    Raises:
        UsageError: its weights do not fit its architecture; names the first keys that differ.
    """
    if saved.info.backbone not in ("resnet18", "resnet50"):
        raise UsageError(f"{saved.path}: unknown backbone '{saved.info.backbone}'", "resnet18 or resnet50")
    encoder = build_encoder(saved.info.backbone, seed=0)  # type: ignore[arg-type]  # checked above
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in saved.state.items()}
    wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if wrong:
        names = ", ".join(wrong[:_SHOWN_KEYS])
        raise UsageError(
            f"{saved.path} does not hold a {saved.info.backbone}: {len(wrong)} weights differ ({names}, …)",
            "pretrain again with this version, or name the right checkpoint",
        )
    encoder.load_state_dict(saved.state)
    return encoder.eval()


def random_encoder(saved: SavedEncoder) -> Encoder:
    """The random initialisation that the seed of ``saved``'s run draws, in evaluation mode.

    Without ``model.zero_init_residual``, whatever the run had: such a network starts as its shortcuts alone, whose
    random features would be an easier baseline to beat.
    """
    return build_encoder(saved.info.backbone, seed=saved.seed).eval()  # type: ignore[arg-type]


@torch.inference_mode()
def extract_features(
    encoder: Encoder,
    info: EncoderInfo,
    cache: Cache,
    rows: NDArray[np.int64],
    device: torch.device,
    *,
    stage: int = 4,
    batch_size: int = 64,
    on_films: Callable[[int], None] = lambda count: None,
) -> NDArray[np.float32]:
    """Features of whole films: (len(rows), D) float32. ``on_films`` hears of each batch's size.

    Args:
        encoder: in evaluation mode.
        stage: 1 to 4, whose output is averaged over space; published results use the last.

    Raises:
        NotFinite: a feature is not finite: the weights are, but too large.
    """
    encoder = encoder.to(device, memory_format=torch.channels_last)
    parts = []
    for films in iterate_films(cache, rows, batch_size, device):
        views = whole_films(films, size=info.size, mean=info.mean, std=info.std)
        parts.append(_encode(encoder, views, stage))
        on_films(len(films))
    return _joined(parts, info)


@torch.inference_mode()
def extract_view_features(
    encoder: Encoder,
    info: EncoderInfo,
    cache: Cache,
    rows: NDArray[np.int64],
    device: torch.device,
    *,
    augment: AugmentSettings,
    views: int,
    seed: int,
    batch_size: int = 64,
    on_films: Callable[[int], None] = lambda count: None,
) -> NDArray[np.float32]:
    """Features of random views of films: (Q, N, D) float32. ``on_films`` hears of each batch of every view.

    A view depends on (seed, row, its number) alone, not on the batch; no run of any seed trains on it.

    Args:
        encoder: in evaluation mode.
        augment: how views are drawn; they have the side ``info.size``, which its blur must fit.
        views: Q, 1 or more.

    Raises:
        NotFinite: a feature is not finite.
    """
    encoder = encoder.to(device, memory_format=torch.channels_last)
    parts: list[list[NDArray[np.float32]]] = [[] for _ in range(views)]
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        films = load_films(cache, part, device)
        for number in range(views):
            drawn = draw_parameters(augment, cache.size, seed=seed, epoch=_EPOCH, films=part, view=number)
            view = make_view(films, augment, drawn, size=info.size, mean=info.mean, std=info.std)
            parts[number].append(_encode(encoder, view.image_BCHW))
            on_films(len(part))
    return np.stack([_joined(of_view, info) for of_view in parts])


def _encode(encoder: Encoder, views_BCHW: Tensor, stage: int = 4) -> NDArray[np.float32]:
    return encoder(views_BCHW.to(memory_format=torch.channels_last), stage).float().cpu().numpy()


class NotFinite(DamagedData):
    """Weights that are finite, but too large for what they compute."""


def _joined(parts: Sequence[NDArray[np.float32]], info: EncoderInfo) -> NDArray[np.float32]:
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise NotFinite(f"the {info.backbone} gives features that are not finite", "use an older checkpoint")
    return features
