"""04_vicreg: VICReg's three terms, alone and for a pair of views, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from scarce_cli.methods.regularizers import (
    covariance_matrix,
    covariance_penalty,
    dimension_std,
    invariance,
    variance_hinge,
)
from tests.official.common import Data, Family, close

Term = Callable[[Tensor, Tensor], Tensor]


def _std_pair(x: Tensor, y: Tensor) -> Tensor:
    return (variance_hinge(x) + variance_hinge(y)) / 2


def _cov_pair(x: Tensor, y: Tensor) -> Tensor:
    return covariance_penalty(x) + covariance_penalty(y)


def _total(x: Tensor, y: Tensor) -> Tensor:
    return 25 * invariance(x, y) + 25 * _std_pair(x, y) + _cov_pair(x, y)


def _pair(data: Data) -> list[Tensor]:
    return [torch.from_numpy(np.asarray(data[name])).requires_grad_() for name in ("x", "y")]


def _value(data: Data, key: str, term: Term) -> None:
    # A constant view has covariances of nought, which rounding may miss by the square of 1e-16.
    np.testing.assert_allclose(term(*_pair(data)).detach(), np.asarray(data[key]), rtol=1e-9, atol=1e-25, err_msg=key)


def _gradient(data: Data, key: str, term: Term) -> None:
    x, y = _pair(data)
    term(x, y).backward()
    found = (x if "_x_" in key else y).grad
    assert found is not None
    assert torch.isfinite(found).all()
    np.testing.assert_allclose(
        found, np.asarray(data[key]), rtol=1e-9, atol=1e-12 * np.abs(np.asarray(data[key])).max() + 1e-15, err_msg=key
    )


_VALUES: dict[str, Term] = {
    "invariance": invariance,
    "std_term_pair": _std_pair,
    "cov_term_pair": _cov_pair,
    "total_25_25_1": _total,
    "var_single_x": lambda x, y: variance_hinge(x),
    "cov_single_x": lambda x, y: covariance_penalty(x),
}
_GRADIENTS: dict[str, Term] = {
    "grad_x_invariance": invariance,
    "grad_x_std": _std_pair,
    "grad_y_std": _std_pair,
    "grad_x_cov": _cov_pair,
    "grad_y_cov": _cov_pair,
    "grad_x_total": _total,
}

VICREG = Family(
    checks={
        **{key: partial(_value, key=key, term=term) for key, term in _VALUES.items()},
        **{key: partial(_gradient, key=key, term=term) for key, term in _GRADIENTS.items()},
        "std_per_dim_x": lambda data: close(dimension_std(_pair(data)[0]).detach(), data, "std_per_dim_x"),
        "cov_x": partial(_value, key="cov_x", term=lambda x, y: covariance_matrix(x)),
    },
    unchecked=dict.fromkeys(("x", "y"), "input"),
)

FAMILIES = {"04_vicreg": VICREG}
