"""Barlow Twins: make two views' embeddings agree, one dimension at a time (Zbontar et al., 2021, arXiv 2103.03230).

Every dimension of the embedding is standardised over the batch; the correlation between the dimensions of one
view and those of the other is to be the identity matrix: each dimension the same in both views, and no two
dimensions alike.

Shape suffixes: B films, H and W pixels, N rows (one for each film of the batch), D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scarce_cli.config import AugmentSettings, Settings
from scarce_cli.data.augment import View
from scarce_cli.methods.base import CureWhere, Method, Progress, StepOutput, ViewSpec, at_least, at_most
from scarce_cli.methods.settings import BarlowSettings
from scarce_cli.models.heads import batch_norm_projector
from scarce_cli.models.precision import at_least_float32
from scarce_cli.models.ranks import whole_batch
from scarce_cli.models.resnet import Encoder
from scarce_cli.vitals import Cure, Expectations, Failure

_PUBLISHED_EPS = 1e-6  # outside the root
_LAMBD = 0.0051  # official
_TINY = 1e-30  # keeps a matrix of noughts from being divided by nought


@dataclass(frozen=True)
class BarlowTerms:
    """The loss and its two parts, all scalar and with gradient."""

    loss: Tensor  # on_diagonal + lambd * off_diagonal
    on_diagonal: Tensor  # sum over dimensions of (c - 1) squared
    off_diagonal: Tensor  # sum of the other entries' squares, before lambd
    directions: Tensor  # how many the views agree in; see `shared_directions`


class Standardise(nn.BatchNorm1d):
    """Mean 0 and (biased) variance 1 for every dimension over the rows: var / (var + 1e-5), eps inside the root.

    BatchNorm without scale and shift, as official. One is shared by both views, so a step updates its running
    statistics twice. They are kept but never used: the loss is one of batches, in evaluation mode as well. With
    several ranks it is given the rows of all.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions, affine=False)

    def forward(self, z_ND: Tensor) -> Tensor:
        """(N, D) with N of at least 2, in the same dtype."""
        if self.training:
            return super().forward(z_ND)
        return F.batch_norm(z_ND, None, None, training=True, eps=self.eps)


def standardise_published(z_ND: Tensor) -> Tensor:
    """The published series' way: unbiased standard deviation, 1e-6 added outside the root.

    The diagonal of the correlation, which is still divided by N, then reaches (N - 1) / N at best.
    """
    return (z_ND - z_ND.mean(dim=0)) / (z_ND.std(dim=0) + _PUBLISHED_EPS)


def correlation(z1_ND: Tensor, z2_ND: Tensor, standardise: Callable[[Tensor], Tensor]) -> Tensor:
    """(D, D): the standardised dimensions of view 1 (rows) against those of view 2, divided by N, the batch.

    ``standardise`` is called for view 1, then for view 2. In the dtype of the inputs, at least float32, also
    under autocast.
    """
    with torch.autocast(z1_ND.device.type, enabled=False):
        one, two = standardise(at_least_float32(z1_ND)), standardise(at_least_float32(z2_ND))
        return (one / len(one)).T @ two  # dividing here spares a second matrix of D x D


def barlow_loss(z1_ND: Tensor, z2_ND: Tensor, lambd: float, standardise: Callable[[Tensor], Tensor]) -> BarlowTerms:
    """Equation 1: the squared distance of the correlation from the identity, off the diagonal times ``lambd``.

    Sums, not means over D, as official: facebookresearch/barlowtwins, main.py.
    """
    c_DD = correlation(z1_ND, z2_ND, standardise)
    size = len(c_DD)
    # All but the last entry, in rows of D + 1: the diagonal is then the first column.
    others = c_DD.flatten()[:-1].view(size - 1, size + 1)[:, 1:]
    on, off = (c_DD.diagonal() - 1).square().sum(), others.square().sum()
    return BarlowTerms(on + lambd * off, on, off, shared_directions(c_DD))


def shared_directions(c_DD: Tensor) -> Tensor:
    """In how many directions two views agree (scalar): the squared trace of their correlation over its squared norm.

    The participation ratio of the correlation's eigenvalues, where it is symmetric: D for the identity, 1 where all
    dimensions are copies of one, 0 where the views share nothing.
    """
    return c_DD.diagonal().sum().clamp(min=0).square() / c_DD.square().sum().clamp(min=_TINY)


class BarlowTwins(Method):
    """An encoder and a projector that two views of every film go through."""

    settings_type = BarlowSettings
    cures: ClassVar[Mapping[Failure, Sequence[Cure]]] = {
        Failure.COMPLETE: (at_most("method.lambd", _LAMBD, "a larger one is satisfied by views that share nothing"),),
        Failure.DIMENSIONAL: (
            at_least("method.lambd", _LAMBD, "only the terms off the diagonal keep dimensions from being copies"),
            CureWhere("method.projector", [512, 512, 512], "room for directions", lambda now: now[-1] < 512),
        ),
        Failure.NOT_LEARNING: (
            at_most("method.lambd", _LAMBD, "a larger one is satisfied by views that share nothing"),
        ),
    }

    def __init__(self, encoder: Encoder, settings: BarlowSettings) -> None:
        super().__init__(encoder)
        self.lambd, self.dimensions = settings.lambd, float(settings.projector[-1])
        self.projector = batch_norm_projector(encoder.features, settings.projector)
        published = settings.standardise == "published"
        self.standardise: Callable[[Tensor], Tensor] = (
            standardise_published if published else Standardise(settings.projector[-1])
        )

    @classmethod
    def build(cls, encoder: Encoder, settings: Settings, size: int) -> BarlowTwins:
        """Any size will do."""
        assert isinstance(settings, BarlowSettings)
        return cls(encoder, settings)

    def view_specs(self, size: int, augment: AugmentSettings) -> Sequence[ViewSpec]:
        """Two views, drawn alike."""
        return [ViewSpec(size, augment), ViewSpec(size, augment)]

    def forward(self, views: Sequence[View], progress: Progress, generator: torch.Generator) -> StepOutput:
        """One view after the other, as official: every BatchNorm sees them as two batches.

        Every rank correlates the rows of all: of N rows there are fewer numbers than of D x D correlations, which
        official code adds up instead.
        """
        y1_ND, y2_ND = (self.encoder(view.image_BCHW) for view in views)
        z1_ND, z2_ND = (whole_batch(at_least_float32(self.projector(y_ND))) for y_ND in (y1_ND, y2_ND))
        terms = barlow_loss(z1_ND, z2_ND, self.lambd, self.standardise)
        scalars = {name: getattr(terms, name).detach() for name in ("on_diagonal", "off_diagonal", "directions")}
        return StepOutput(terms.loss, scalars, y1_ND.detach().float())

    def expectations(self) -> Expectations:
        """All films alike: every dimension is constant, standardised it is 0, and so is the correlation.

        Its diagonal then misses the identity by 1 at each of D places. Off the diagonal nothing is missed, as at the
        best: that says nothing, and is left out.
        """
        return Expectations(
            {"loss": self.dimensions, "on_diagonal": self.dimensions, "directions": 0.0},
            rises=frozenset({"directions"}),
        )
