"""Few-shot fine-tuning: a copy of the encoder's later stages and a linear head, trained on one support set.

The head starts as the prototype classifier (Snell et al., 2017, arXiv 1703.05175) of the encoder as it was. BatchNorms
stay as they are, statistics as well as scale and shift. Films are augmented before they are normalised.

Shape suffixes: N films, n films of the support set, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scarce_cli.checkpoint import EncoderInfo
from scarce_cli.config import AugmentSettings
from scarce_cli.data.augment import draw_parameters, make_view
from scarce_cli.data.cache import Cache
from scarce_cli.data.loader import load_films
from scarce_cli.errors import UsageError
from scarce_cli.evaluation.features import NotFinite
from scarce_cli.evaluation.fewshot.films import Bools, Floats, Ints
from scarce_cli.evaluation.fewshot.frozen import END_TO_END, HEAD_ALONE, FrozenMaps, trained_part
from scarce_cli.models.resnet import Encoder

_CLOSEST = 1e-6  # distance of class means of unit features: below it is the rounding of float32
_FILMS_AT_ONCE = 64  # tested together

MILD = AugmentSettings(
    crop_scale=(0.8, 1.0), crop_ratio=(0.9, 1.1), flip_probability=0.0, rotation_degrees=5.0,
    brightness=0.1, contrast=0.1, jitter_probability=1.0, blur_probability=0.0, blur_kernel=(1, 1), noise_std=0.0,
)  # fmt: skip
"""Another breath, posture or exposure of the same patient, and nothing that could hide a finding: no strong crops or
blur, and no flip, because the side of the heart and of a lesion is part of what is seen."""


@dataclass(frozen=True)
class FinetuneSettings:
    """How an encoder is fine-tuned. Learning rates are AdamW's, and fall to 0 along a half cosine.

    Rates and smoothing were chosen on a few draws of real films, which no reported figure is from: ten times the
    encoder's rate and a tenth of the head's were both worse; three times the encoder's rate was as good.
    """

    unfreeze_from: int = 2  # first part that is trained: 0 the stem (end to end), 1 to 4 a stage, 5 the head alone
    steps: int = 30  # from 0 (the prototype classifier itself); fixed, since no film is left to stop early by
    batch_size: int = 16  # films of a step, at least 2, half of them with the finding; fewer where the set is smaller
    lr: float = 3e-5  # of the encoder's copy, at least 0
    head_lr: float = 1e-2  # at least 0
    weight_decay: float = 0.0  # at least 0, of all but the intercept; in so few steps it does next to nothing
    smoothing: float = 0.1  # 0 to 1: what is learned are 95 and 5 %, or a few films would end in boundless certainty
    margin: float = 1.0  # above 0: log-odds of the class means before the first step
    augment: AugmentSettings = MILD

    def __post_init__(self) -> None:
        if not END_TO_END <= self.unfreeze_from <= HEAD_ALONE:
            raise UsageError(
                f"fine-tuning cannot start at part {self.unfreeze_from}", "0 the stem, 1 to 4 a stage, 5 none"
            )

    def training_films(self, support: int) -> int:
        """Films that pass through the encoder while it learns from a balanced support set of so many."""
        return self.steps * 2 * min(self.batch_size // 2, support // 2)


class PrototypeHead(nn.Module):
    """Log-odds, linear in unit features: scale * (u - m) . w + b, with w and b learned; float64.

    Before the first step w is the direction between the class means of the support set's unit features, m lies midway
    and b is 0, so that films are ranked as by their distances to the two means (Snell et al., 2017, section 2.4). Unit
    features lie close together, so they are counted in half distances between the means: w and b then have the same
    size whatever the encoder, and the same learning rate suits all.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, features_nD: Tensor, labels_n: Tensor, margin: float) -> None:
        super().__init__()
        unit = F.normalize(features_nD.double(), dim=1)
        positive, negative = unit[labels_n].mean(0), unit[~labels_n].mean(0)
        distance = torch.linalg.vector_norm(positive - negative).clamp(min=_CLOSEST)
        self.register_buffer("centre", (positive + negative) / 2)
        self.register_buffer("scale", 2 / distance)
        self.weight = nn.Parameter(margin * (positive - negative) / distance)
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64, device=unit.device))

    def forward(self, features_ND: Tensor) -> Tensor:
        """(N,) log-odds, float64."""
        unit = F.normalize(features_ND.double(), dim=1)
        return self.scale * ((unit - self.centre) @ self.weight) + self.bias


def finetune_scores(
    encoder: Encoder,
    info: EncoderInfo,
    cache: Cache,
    support_rows: Ints,
    support_labels: Bools,
    test_rows: Ints,
    settings: FinetuneSettings,
    device: torch.device,
    *,
    seed: int,
    stage: int = 4,
    frozen: FrozenMaps | None = None,
    on_films: Callable[[int], None] = lambda count: None,
) -> Floats:
    """Log-odds (N,) of test films after training a copy of the encoder on a support set.

    Repeats bit for bit on a CPU with the same seed, threads and kept maps. ``on_films`` hears of every step's films
    (`FinetuneSettings.training_films` in all) and of every batch of test films.

    Args:
        encoder: in evaluation mode; moved to ``device``, otherwise unchanged.
        support_rows: (n,) rows of the cache, both classes present, as many of each.
        test_rows: (N,) rows of the cache.
        stage: 1 to 4, whose output is averaged over space; stages after it are not run. Where it lies before
            ``settings.unfreeze_from``, the head alone is trained.
        frozen: made of the same encoder with the same stages, and kept from draw to draw; None: nothing is kept.

    Raises:
        NotFinite: a loss or a score is not finite.
    """
    if frozen is None:
        frozen = FrozenMaps(encoder, info, cache, device, first=settings.unfreeze_from, stage=stage, budget=0)
    assert (frozen.encoder, frozen.first, frozen.stage) == (encoder, settings.unfreeze_from, stage), (
        "of another encoder"
    )
    part = trained_part(encoder, settings.unfreeze_from, stage)
    labels = torch.from_numpy(support_labels).to(device)
    with torch.no_grad():
        start = [_features(part, frozen.of_films(rows, keep=False)) for rows in _batches(support_rows)]
    head = PrototypeHead(torch.cat(start), labels, settings.margin)
    _train(part, head, frozen, support_rows, support_labels, settings, seed, on_films)
    return _score(part, head, frozen, test_rows, on_films)


def _features(part: nn.Module, maps_NCHW: Tensor) -> Tensor:
    return part(maps_NCHW).mean(dim=(2, 3))


def _batches(rows: Ints) -> Iterator[Ints]:
    for start in range(0, len(rows), _FILMS_AT_ONCE):
        yield rows[start : start + _FILMS_AT_ONCE]


def _train(
    part: nn.Module,
    head: PrototypeHead,
    frozen: FrozenMaps,
    rows: Ints,
    labels: Bools,
    settings: FinetuneSettings,
    seed: int,
    on_films: Callable[[int], None],
) -> None:
    """Logistic loss, AdamW (Loshchilov & Hutter, 2019, arXiv 1711.05101), cosine to 0."""
    optimizer = _optimizer(part, head, settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, settings.steps))
    for step, chosen in enumerate(_steps(labels, settings, seed)):
        views = _views(frozen, rows[chosen], settings, seed, step)
        loss = _loss(head(_features(part, frozen.of_views(views))), labels[chosen], settings.smoothing)
        _check_finite(bool(loss.isfinite()), frozen.info, f"a loss that is not finite at step {step + 1}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        on_films(len(chosen))


def _loss(log_odds_n: Tensor, labels: Bools, smoothing: float) -> Tensor:
    """Log-loss against labels drawn towards one half (Szegedy et al., 2016, arXiv 1512.00567, section 7)."""
    target = torch.from_numpy(labels).to(log_odds_n) * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(log_odds_n, target)


def _optimizer(part: nn.Module, head: PrototypeHead, settings: FinetuneSettings) -> torch.optim.Optimizer:
    encoder = [p for p in part.parameters() if p.requires_grad]
    groups = [
        {"params": encoder, "lr": settings.lr},
        {"params": [head.weight], "lr": settings.head_lr},
        {"params": [head.bias], "lr": settings.head_lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)


def _steps(labels: Bools, settings: FinetuneSettings, seed: int) -> Iterator[Ints]:
    """Places in the support set, for each step as many of both classes. Each class is gone through in a new order again
    and again; what does not fill a batch is left out of that round, so that no film is twice in one."""
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels), np.flatnonzero(~labels)]
    half = min(settings.batch_size // 2, *map(len, classes))
    dealt = [_rounds(members, half, settings.steps, rng) for members in classes]
    yield from np.concatenate(dealt, axis=1)


def _rounds(members: Ints, half: int, steps: int, rng: np.random.Generator) -> Ints:
    """(steps, half)."""
    in_round = len(members) // half
    rounds = [rng.permutation(members)[: in_round * half].reshape(in_round, half) for _ in range(-(-steps // in_round))]
    return np.concatenate(rounds or [np.empty((0, half), np.int64)])[:steps]


def _views(frozen: FrozenMaps, rows: Ints, settings: FinetuneSettings, seed: int, step: int) -> Tensor:
    """One new view of each film."""
    info, films_BSS = frozen.info, load_films(frozen.cache, rows, frozen.device)
    drawn = draw_parameters(settings.augment, frozen.cache.size, seed=seed, epoch=step, films=rows, view=0)
    view = make_view(films_BSS, settings.augment, drawn, size=info.size, mean=info.mean, std=info.std)
    return view.image_BCHW


@torch.no_grad()
def _score(
    part: nn.Module, head: PrototypeHead, frozen: FrozenMaps, rows: Ints, on_films: Callable[[int], None]
) -> Floats:
    parts = [np.empty(0)]
    for batch in _batches(rows):
        parts.append(head(_features(part, frozen.of_films(batch))).cpu().numpy())
        on_films(len(batch))
    scores: Floats = np.concatenate(parts)
    _check_finite(bool(np.isfinite(scores).all()), frozen.info, "scores that are not finite")
    return scores


def _check_finite(finite: bool, info: EncoderInfo, what: str) -> None:
    if not finite:
        raise NotFinite(
            f"the fine-tuned {info.backbone} gives {what}", "use a lower learning rate, or an older checkpoint"
        )
