"""06_spark_loss and 06_spark_mask_counts: SparK's loss, and how many patches it hides."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from scarce_cli.methods.spark import draw_visible, patch_statistics, reconstruction_loss, to_patches, visible_count
from tests.official.common import Data, Family, close, close_f32


def _spark(data: Data, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    image, prediction = (torch.from_numpy(np.asarray(data[name])).to(dtype) for name in ("image", "pred"))
    return image, prediction, torch.from_numpy(np.asarray(data["active"])), int(data["patch"])


def _spark_loss(data: Data) -> None:
    image, prediction, active, patch = _spark(data)
    close(reconstruction_loss(prediction, image, active, patch), data, "loss")
    image, prediction, active, patch = _spark(data, torch.float32)
    found = reconstruction_loss(prediction, image, active, patch)
    close(found, data, "loss", rtol=1e-3 if data["image"].std() < 1e-3 else 1e-4)


def _spark_gradient(data: Data) -> torch.Tensor:
    image, prediction, active, patch = _spark(data)
    prediction.requires_grad_()
    reconstruction_loss(prediction, image, active, patch).backward()
    assert prediction.grad is not None
    return prediction.grad


def _spark_each_patch(data: Data) -> NDArray[np.float64]:
    """The loss with one patch masked at a time is that patch's error."""
    image, prediction, active, patch = _spark(data)
    errors = np.zeros(active.flatten(1).shape)
    for film, place in np.ndindex(errors.shape):
        visible = torch.ones_like(active)
        visible[film].view(-1)[place] = False
        errors[film, place] = float(reconstruction_loss(prediction, image, visible, patch))
    return errors


def _spark_statistics(data: Data, which: int, key: str) -> None:
    image, _, _, patch = _spark(data)
    close(patch_statistics(image, patch)[which][..., 0], data, key, atol=1e-15)


def _spark_masked_patches(data: Data) -> None:
    """As many patches get a gradient as are masked; visible ones get exactly none."""
    moved = to_patches(_spark_gradient(data), int(data["patch"])).abs().amax(dim=-1) > 0
    assert int(moved.sum()) == int(data["n_masked"])
    assert not (moved & torch.from_numpy(np.asarray(data["active"])).flatten(1)).any()


def _spark_painted(data: Data) -> None:
    """Masked patches in grey values: the prediction times the patch's std, plus its mean."""
    image, prediction, active, patch = _spark(data)
    mean, std = patch_statistics(image, patch)
    painted = to_patches(prediction, patch) * std + mean
    mixed = torch.where(active.flatten(1)[..., None], to_patches(image, patch), painted)
    wanted = {"vis_rec_or_inp": to_patches(torch.from_numpy(np.asarray(data["vis_rec_or_inp"])), patch).numpy()}
    close_f32(mixed, wanted, "vis_rec_or_inp")


SPARK_LOSS = Family(
    checks={
        "loss": _spark_loss,
        "grad_pred": lambda data: close_f32(_spark_gradient(data), data, "grad_pred"),
        "per_patch_l2": lambda data: close(_spark_each_patch(data), data, "per_patch_l2"),
        "patch_mean": lambda data: _spark_statistics(data, 0, "patch_mean"),
        "patch_std": lambda data: _spark_statistics(data, 1, "patch_std"),
        "n_masked": _spark_masked_patches,
        "vis_rec_or_inp": _spark_painted,
    },
    unchecked=dict.fromkeys(("image", "pred", "active", "patch"), "input"),
)


def _mask_counts(data: Data) -> None:
    for row in np.asarray(data["columns_inputsize_ratio_f_lenkeep_nmasked_truncatedalternative"], np.float64):
        size, ratio, side, kept, masked, truncated = row
        assert side == size // 32
        assert visible_count(int(side), ratio) == kept
        visible = draw_visible(3, int(side), ratio, torch.Generator().manual_seed(0))
        assert (visible.logical_not().flatten(1).sum(dim=1) == masked).all()
        assert truncated == int(side * side * ratio)  # what we do not do


MASK_COUNTS = Family(
    checks={"columns_inputsize_ratio_f_lenkeep_nmasked_truncatedalternative": _mask_counts}, unchecked={}
)


FAMILIES = {"06_spark_loss": SPARK_LOSS, "06_spark_mask_counts": MASK_COUNTS}
