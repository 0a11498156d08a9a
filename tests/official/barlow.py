"""03_barlow: the loss of Barlow Twins, its parts, gradients and running statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scarce_cli.methods.barlow import BarlowTerms, Standardise, barlow_loss, correlation
from tests.official.common import Data, Family, close


@dataclass(frozen=True)
class _Step:
    z1: Tensor
    z2: Tensor
    terms: BarlowTerms
    norm: Standardise


def _step(data: Data, dtype: torch.dtype = torch.float64) -> _Step:
    """One loss, backward included, with a BatchNorm that has seen nothing before."""
    z1, z2 = (torch.from_numpy(np.asarray(data[name])) for name in ("z1", "z2"))
    if dtype == torch.float32:  # a large offset leaves few digits for what counts, and the loss knows no offset
        z1, z2 = z1 - z1.mean(dim=0), z2 - z2.mean(dim=0)
    z1, z2 = (z.to(dtype).requires_grad_() for z in (z1, z2))
    norm = Standardise(z1.shape[1]).to(dtype)
    terms = barlow_loss(z1, z2, float(np.asarray(data["lambd"])), norm)
    terms.loss.backward()
    return _Step(z1, z2, terms, norm)


def _correlation(data: Data) -> None:
    step = _step(data)
    close(correlation(step.z1, step.z2, step.norm).detach(), data, "c", atol=1e-12)


def _gradients(data: Data) -> None:
    step = _step(data)
    for name, z in (("grad_z1", step.z1), ("grad_z2", step.z2)):
        assert z.grad is not None
        assert torch.isfinite(z.grad).all()
        close(z.grad, data, name, atol=1e-12)


def _loss(data: Data) -> None:
    """In float64, and in float32, as it is trained."""
    close(_step(data).terms.loss.detach(), data, "loss")
    close(_step(data, torch.float32).terms.loss.detach(), data, "loss", rtol=1e-4)


BARLOW = Family(
    checks={
        "loss": _loss,
        "on_diag": lambda data: close(_step(data).terms.on_diagonal.detach(), data, "on_diag"),
        "off_diag": lambda data: close(_step(data).terms.off_diagonal.detach(), data, "off_diag"),
        "c": _correlation,
        "grad_z1": _gradients,
        "grad_z2": _gradients,
        "bn_running_mean_after": lambda data: close(_step(data).norm.running_mean, data, "bn_running_mean_after"),
        "bn_running_var_after": lambda data: close(_step(data).norm.running_var, data, "bn_running_var_after"),
    },
    unchecked=dict.fromkeys(("z1", "z2", "lambd"), "input"),
)

FAMILIES = {"03_barlow": BARLOW}
