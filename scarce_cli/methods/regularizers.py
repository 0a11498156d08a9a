"""Terms that keep an embedding spread out, for any method: those of VICReg (Bardes et al., 2022, arXiv 2105.04906).

Each is a pure function of one batch (or of two), computed in the dtype of its input, at least float32, also
under autocast. All gradients are finite, also where the embedding has collapsed to a point.

Shape suffixes: N rows, D dimensions of the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scarce_cli.models.precision import at_least_float32

_EPS = 1e-4  # added to the variance, inside the root, as official
HINGE_OF_A_POINT = 1 - _EPS**0.5  # `variance_hinge` of rows that are all alike, its highest value


def dimension_std(z_ND: Tensor) -> Tensor:
    """(D,): the root of the unbiased variance over the rows plus 1e-4; 0.01 where a dimension is constant.

    At least two rows.
    """
    with torch.autocast(z_ND.device.type, enabled=False):
        return (at_least_float32(z_ND).var(dim=0) + _EPS).sqrt()


def variance_hinge(z_ND: Tensor) -> Tensor:
    """Mean over the dimensions of max(0, 1 - std): from 0 (every std is 1 or more) to 0.99 (equation 1; scalar).

    For a pair of views the official loss takes half the sum of both.
    """
    return (1 - dimension_std(z_ND)).relu().mean()


def covariance_matrix(z_ND: Tensor) -> Tensor:
    """(D, D) over the rows, divided by N - 1 (equation 3)."""
    with torch.autocast(z_ND.device.type, enabled=False):
        z_ND = at_least_float32(z_ND)
        centred_ND = z_ND - z_ND.mean(dim=0)
        return centred_ND.T @ centred_ND / (len(z_ND) - 1)


def covariance_penalty(z_ND: Tensor) -> Tensor:
    """Sum of the squared covariances of different dimensions, divided by D (equation 4; scalar).

    For a pair of views the official loss takes the sum of both, not half of it.
    """
    c_DD = covariance_matrix(z_ND)
    return (c_DD - c_DD.diagonal().diag()).square().sum() / len(c_DD)


def invariance(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """Mean squared difference of two views over all entries, as official (equation 5 is D times that; scalar)."""
    with torch.autocast(x_ND.device.type, enabled=False):
        return (at_least_float32(x_ND) - at_least_float32(y_ND)).square().mean()
