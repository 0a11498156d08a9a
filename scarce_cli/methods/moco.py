"""MoCo v2: tell a film's other view from many other films' (Chen et al., 2020, arXiv 2003.04297).

A query encoder is trained; a key encoder follows it slowly and makes the keys. A query is to be nearest to the
key of its own film, against a queue of keys of earlier batches. Both encoders normalise in groups
(`scarce_cli.models.split_batch_norm`), and the keys are shuffled, so that a query's group and its key's hold
different films: otherwise the groups' statistics give the answer away. Official code takes a GPU's films for a group
and several GPUs for granted; here groups and queue are the same however many GPUs share a batch.

Shape suffixes: B films, C channels, H and W pixels, N rows (one for each film of this rank), M rows of the batch of
all ranks, D dimensions of the embedding, K keys in the queue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from scarce_cli.config import AugmentSettings, Settings
from scarce_cli.data.augment import View
from scarce_cli.errors import UsageError
from scarce_cli.methods.base import Method, Progress, StepOutput, ViewSpec, at_least, at_most
from scarce_cli.methods.regularizers import HINGE_OF_A_POINT, variance_hinge
from scarce_cli.methods.settings import MoCoSettings
from scarce_cli.models.ema import frozen_copy, moving_average
from scarce_cli.models.heads import two_layer_projector
from scarce_cli.models.precision import at_least_float32
from scarce_cli.models.ranks import own_share, whole_batch, world_size
from scarce_cli.models.resnet import Encoder
from scarce_cli.models.split_batch_norm import apart, split_batch_norms, together
from scarce_cli.vitals import Cure, Expectations, Failure

_FLOAT = 4  # bytes
_STRIDE = 32  # px of a view for each position of the encoder's last stage
_TIE = 1e-5  # of a logit: so far may sums of the same products differ, in another order

_SPREAD = at_least("method.variance_weight", 1.0, "a hinge holds the spread, as in the healthy published run")
_DIRECTIONS = Cure("method.variance_on", "normalised", "raw is satisfied by length alone")
_SLOW_KEYS = at_least("method.key_momentum", 0.99, "the queue's keys are of encoders that differ too much")
_SHARED = "otherwise the groups' statistics give the key away"


def unit_rows(z_ND: Tensor) -> Tensor:
    """Rows of length 1 (zero stays zero), in the dtype of the input, at least float32, also under autocast."""
    with torch.autocast(z_ND.device.type, enabled=False):
        return F.normalize(at_least_float32(z_ND), dim=1)


def infonce_logits(q_raw_ND: Tensor, k_raw_ND: Tensor, queue_DK: Tensor, temperature: float) -> Tensor:
    """(N, 1 + K): cosine of each query with its own key (column 0) and with every key of the queue, over T.

    Queries and keys need not have length 1; the columns of the queue are taken as they are. No gradient
    reaches the keys or the queue. At least float32, also under autocast.
    Source: facebookresearch/moco, moco/builder.py (equation 1 of arXiv 1911.05722).
    """
    with torch.autocast(q_raw_ND.device.type, enabled=False):
        q_ND, k_ND = unit_rows(q_raw_ND) / temperature, unit_rows(k_raw_ND.detach())
        own_N1 = (q_ND * k_ND).sum(dim=1, keepdim=True)
        return torch.cat([own_N1, q_ND @ queue_DK.detach().to(q_ND.dtype)], dim=1)


def infonce(logits: Tensor) -> Tensor:
    """Cross entropy of finding column 0, mean over the rows (scalar); ln(1 + K) where nothing is told apart."""
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def infonce_accuracy(logits: Tensor) -> Tensor:
    """Share of the rows, 0 to 1, whose own key beats every other one; a tie is a miss (scalar, detached).

    What rounding alone tells apart counts as a tie. Near 1 while a probe stays at chance: the keys are recognised by
    something else than the film.
    """
    own_N, best_N = logits.detach()[:, 0], logits.detach()[:, 1:].amax(dim=1)
    return (own_N - best_N > _TIE * torch.maximum(own_N.abs(), best_N.abs())).to(logits.dtype).mean()


@torch.no_grad()
def enqueue(queue_DK: Tensor, pointer: Tensor, keys_ND: Tensor, taken: Tensor | None = None) -> None:
    """Write keys into a ring, in place: key i goes to column (pointer + i) mod K, the pointer moves on by N.

    ``pointer`` is a 0-d integer tensor. Of more than K keys the last K stay. (Official code refuses a K that
    N does not divide; where N does, the two agree.) Where ``taken`` (0-d bool) is False nothing changes,
    whatever the keys.
    """
    size, count = queue_DK.shape[1], len(keys_ND)
    kept = min(count, size)
    columns = (pointer + torch.arange(count - kept, count, device=queue_DK.device)) % size
    keys_DN, moved = keys_ND[count - kept :].T.to(queue_DK.dtype), torch.as_tensor(count)
    if taken is not None:
        keys_DN, moved = torch.where(taken, keys_DN, queue_DK.index_select(1, columns)), taken * count
    queue_DK.index_copy_(1, columns, keys_DN)
    pointer.add_(moved).remainder_(size)


def _first_queue(dimension: int, length: int) -> Tensor:
    """Random keys of length 1, (D, K), from torch's global state. Raises UsageError when they cannot be held."""
    try:
        return F.normalize(torch.randn(dimension, length), dim=0)
    except (RuntimeError, MemoryError):
        needs = f"{length} keys of {dimension} numbers need {dimension * length * _FLOAT / 2**30:.0f} GiB"
        raise UsageError(f"method.queue is too large: {needs}", "lower method.queue, officially 65536") from None


class MoCo(Method):
    """A query encoder with its projector, their slow copies, and a queue of keys.

    The moving average and the enqueuing come at the end of a step. Official code averages at the start of the
    next forward, which is the same: with the query weights of the optimizer's last step, before the next keys
    are made. It enqueues before the backward pass and needs a copy of the whole queue at every step for that.
    """

    settings_type = MoCoSettings
    cures: ClassVar[Mapping[Failure, Sequence[Cure]]] = {
        Failure.COMPLETE: (_SPREAD, _DIRECTIONS),
        Failure.DIMENSIONAL: (_SPREAD, _DIRECTIONS, at_least("method.queue", 2048, "few keys need few directions")),
        Failure.FADING: (_SPREAD, _DIRECTIONS),
        Failure.SHRINKING: (_SPREAD, _DIRECTIONS),
        Failure.LEAKAGE: (
            at_least("method.bn_splits", 8, _SHARED),
            Cure("method.shuffle_keys", True, _SHARED),
            at_least("method.queue", 2048, "few keys are soon told apart; no more, though, than there are films"),
        ),
        Failure.DIVERGED: (_SLOW_KEYS,),
        Failure.NOT_LEARNING: (
            _SLOW_KEYS,
            at_most("method.key_momentum", 0.999, "keys that stand still teach nothing"),
            at_most("method.temperature", 0.2, "a higher one tells no near key from a far one"),
        ),
    }
    queue_DK: Tensor
    queue_pointer: Tensor

    def __init__(self, encoder: Encoder, settings: MoCoSettings, size: int) -> None:
        super().__init__(encoder)
        self.settings = settings
        self.size = size
        self._groups = split_batch_norms(encoder, settings.bn_splits, interleaved=False)
        self.projector = two_layer_projector(encoder.features, settings.dimension)
        self.key_encoder = frozen_copy(encoder)
        self.key_projector = frozen_copy(self.projector)
        self.register_buffer("queue_DK", _first_queue(settings.dimension, settings.queue))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.long))
        self._new_keys_MD: Tensor | None = None  # of the step under way

    @classmethod
    def build(cls, encoder: Encoder, settings: Settings, size: int) -> MoCo:
        """Any size will do; whether the batch does is asked of `check_batch`.

        Raises:
            UsageError: there is no memory for a queue so long, or the groups cannot be dealt out to the ranks.
        """
        assert isinstance(settings, MoCoSettings)
        _check_splits(settings.bn_splits)
        return cls(encoder, settings, size)

    def view_specs(self, size: int, augment: AugmentSettings) -> Sequence[ViewSpec]:
        """The query's view and the key's, drawn alike."""
        return [ViewSpec(size, augment), ViewSpec(size, augment)]

    def forward(self, views: Sequence[View], progress: Progress, generator: torch.Generator) -> StepOutput:
        """Raises UsageError as `check_batch`."""
        query, key = views
        self.check_batch(len(query.image_BCHW) * world_size())
        features = self._features(self.encoder, query.image_BCHW)
        q_ND, keys_MD = self.projector(features), self._keys(key.image_BCHW, generator)
        logits = infonce_logits(q_ND, own_share(keys_MD), self.queue_DK, self.settings.temperature)
        self._new_keys_MD = unit_rows(keys_MD)
        loss = infonce(logits)
        scalars = {"infonce": loss.detach(), "infonce_accuracy": infonce_accuracy(logits)}
        scalars["infonce_margin"] = self._blind - scalars["infonce"]
        if self.settings.variance_weight:
            variance = self._variance(q_ND)
            loss = loss + self.settings.variance_weight * variance
            scalars["variance"] = variance.detach()
        return StepOutput(loss, scalars, features.detach().float())

    @property
    def _blind(self) -> float:
        """InfoNCE where all keys are alike: each of 1 + K is the own one with the same chance."""
        return math.log1p(self.settings.queue)

    def expectations(self) -> Expectations:
        """All queries and keys alike: InfoNCE at ln(1 + K), no key told from the others, the hinge at its highest."""
        hinge, weight = HINGE_OF_A_POINT, self.settings.variance_weight
        blind = {"infonce": self._blind, "infonce_margin": 0.0, "infonce_accuracy": 0.0}
        if weight:
            blind["variance"] = hinge
        return Expectations(
            {"loss": self._blind + weight * hinge, **blind}, rises=frozenset({"infonce_margin", "infonce_accuracy"})
        )

    def _features(self, encoder: Encoder, images_BCHW: Tensor) -> Tensor:
        """(N, D): a group's films lie side by side on their way through the encoder, which spares copies."""
        return apart(encoder(together(images_BCHW, self._groups)), self._groups)

    @torch.no_grad()
    def after_step(self, progress: Progress, taken: Tensor) -> None:
        """The key encoder follows, and the step's keys enter the queue. A step that is not taken changes neither."""
        momentum, buffers = self.settings.key_momentum, self.settings.copy_buffers
        moving_average(self.key_encoder, self.encoder, momentum, taken=taken, buffers=buffers)
        moving_average(self.key_projector, self.projector, momentum, taken=taken, buffers=buffers)
        assert self._new_keys_MD is not None
        enqueue(self.queue_DK, self.queue_pointer, self._new_keys_MD, taken)
        self._new_keys_MD = None

    def check_batch(self, films: int) -> None:
        """Raises UsageError when a batch of ``films`` cannot be dealt out to the ranks, or cut into ``bn_splits``."""
        super().check_batch(films)
        splits = self.settings.bn_splits
        least = 1 if self.size > _STRIDE else 2  # a variance needs two values, and the last stage is 1 x 1 at 32 px
        if films % splits or films < least * splits:
            nearest = max(least * splits, films - films % splits)
            raise UsageError(
                f"run.batch_size is {films}: it cannot be cut into {splits} equal groups (method.bn_splits) "
                f"of at least {least} film{'s'[: least - 1]}",
                f"--set run.batch_size={nearest}, or another method.bn_splits",
            )

    @torch.no_grad()
    def _keys(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """(M, D) of the whole batch, not normalised, in the order of its films."""
        if not self.settings.shuffle_keys:
            return whole_batch(at_least_float32(self.key_projector(self._features(self.key_encoder, images_BCHW))))
        films = len(images_BCHW) * world_size()
        order = torch.randperm(films, generator=generator, device=generator.device)
        shuffled = whole_batch(images_BCHW)[own_share(order)]
        return whole_batch(at_least_float32(self.key_projector(self._features(self.key_encoder, shuffled))))[
            order.argsort()
        ]

    def _variance(self, q_ND: Tensor) -> Tensor:
        """The hinge on the directions' standard deviation, in units of 1 / sqrt(D), about the most all can have.

        Over the whole batch.

        ``raw`` is the published one, on the queries themselves: any spread of directions passes it, if the
        queries are only long enough.
        """
        q_MD = whole_batch(at_least_float32(q_ND))
        if self.settings.variance_on == "raw":
            return variance_hinge(q_MD)
        return variance_hinge(unit_rows(q_MD) * self.settings.dimension**0.5)


def _check_splits(splits: int) -> None:
    ranks = world_size()
    if splits > 1 and splits % ranks:
        raise UsageError(
            f"method.bn_splits is {splits}: so many groups cannot be dealt out evenly to {ranks} processes",
            f"--set method.bn_splits={ranks * max(1, round(splits / ranks))}, or another number of processes",
        )
