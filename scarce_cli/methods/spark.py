"""SparK: reconstruct masked patches with a convolutional network (Tian et al., 2023, arXiv 2301.03580).

The target is every patch normalised by its own mean and variance; the loss is the squared error on masked
patches only. ``masking: sparse`` is the paper: the encoder sees visible positions only, learned tokens fill the
others, and the light decoder paints. ``masking: input`` is part 4 of the published series: patches are zeroed in
the input only, and an ordinary ResNet and U-Net do the rest.

Shape suffixes: B films, C channels, H and W pixels, F patches along a side, P pixels along a patch's side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scarce_cli.config import AugmentSettings, Settings
from scarce_cli.data.augment import View
from scarce_cli.errors import UsageError
from scarce_cli.methods.base import Method, Progress, StepOutput, ViewSpec, at_most
from scarce_cli.methods.settings import SparKSettings
from scarce_cli.models.light_decoder import WIDTH_STEP, Densify, LightDecoder
from scarce_cli.models.ranks import mean_over_ranks, own_share, world_size
from scarce_cli.models.resnet import Encoder
from scarce_cli.models.sparse import STRIDE, VisiblePatches, draw_branches, packed_stages
from scarce_cli.models.unet import UNetDecoder
from scarce_cli.vitals import Cure, Expectations, Failure

_EPS = 1e-6  # inside the root, as official
_TINY = 1e-12  # a mean square below is that of patches without any texture

_TEXTURE = "large crops keep their texture"


@dataclass(frozen=True)
class Reconstruction:
    """What SparK makes of a batch of films."""

    visible_B1FF: Tensor  # bool, True where the patch was shown
    masked_BCHW: Tensor  # the input, hidden patches zero
    prediction_BCHW: Tensor  # in units of each patch's own mean and standard deviation
    patch: int  # px


def visible_count(side: int, mask_ratio: float) -> int:
    """Patches kept of ``side`` x ``side``: rounded half to even, as official (the series truncates)."""
    return round(side * side * (1 - mask_ratio))


def draw_visible(batch: int, side: int, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """Which patches are shown: (B, 1, F, F) bool, the same number in every film.

    The kept patches are the first of the argsort of uniform noise, as official.
    """
    noise = torch.rand(batch, side * side, generator=generator, device=generator.device)
    kept = noise.argsort(dim=1)[:, : visible_count(side, mask_ratio)]
    visible = torch.zeros(batch, side * side, dtype=torch.bool, device=generator.device)
    return visible.scatter_(1, kept, True).view(batch, 1, side, side)


def to_patches(images_BCHW: Tensor, patch: int) -> Tensor:
    """(B, F*F, P*P*C), patches in reading order."""
    b, c, h, w = images_BCHW.shape
    cut = images_BCHW.reshape(b, c, h // patch, patch, w // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def patch_statistics(images_BCHW: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every patch, (B, F*F, 1) each; unbiased variance, eps in the root."""
    patches = to_patches(images_BCHW, patch)
    mean = patches.mean(dim=-1, keepdim=True)
    return mean, (patches.var(dim=-1, keepdim=True) + _EPS).sqrt()


def reconstruction_loss(prediction_BCHW: Tensor, image_BCHW: Tensor, visible_B1FF: Tensor, patch: int) -> Tensor:
    """Mean squared error against patch-normalised pixels, over the masked patches of the batch (scalar).

    Zero, not NaN, when nothing is masked. Computed in the dtype of the inputs, at least float32.
    Official: keyu-tian/SparK, pretrain/spark.py.
    """
    dtype = torch.promote_types(prediction_BCHW.dtype, torch.float32)
    image, prediction = image_BCHW.to(dtype), prediction_BCHW.to(dtype)
    mean, std = patch_statistics(image, patch)
    target = (to_patches(image, patch) - mean) / std
    error_BF = (to_patches(prediction, patch) - target).square().mean(dim=-1)
    masked_BF = visible_B1FF.logical_not().flatten(1).to(dtype)
    return (error_BF * masked_BF).sum() / masked_BF.sum().clamp(min=1.0)


def mean_loss(image_BCHW: Tensor, visible_B1FF: Tensor, patch: int) -> Tensor:
    """`reconstruction_loss` of predicting every patch's own mean (scalar, no gradient): the mean square of the target.

    Of n pixels with the unbiased variance v it is (n - 1) / n * v / (v + 1e-6): near 1, and 0 for a flat patch.
    """
    with torch.no_grad():
        return reconstruction_loss(torch.zeros_like(image_BCHW), image_BCHW, visible_B1FF, patch)


def explained(loss: Tensor, of_mean: Tensor) -> Tensor:
    """Share of the hidden patches' variance that the prediction explains: 1 - loss / `mean_loss` (scalar, no gradient).

    1: painted exactly, 0: no better than each patch's mean, below 0: worse. 0 where nothing is to be explained. Of the
    films of all ranks.
    """
    all_loss, all_mean = mean_over_ranks(torch.stack([loss.detach(), of_mean])).unbind()
    return torch.where(all_mean > _TINY, 1 - all_loss / all_mean.clamp(min=_TINY), torch.zeros_like(all_mean))


class SparK(Method):
    """An encoder that is shown some patches, and a decoder that paints the others."""

    settings_type = SparKSettings
    unfreeze_from: ClassVar[int] = 3  # as published; the other methods train one stage more
    cures: ClassVar[Mapping[Failure, Sequence[Cure]]] = {
        Failure.NOT_LEARNING: (
            Cure("method.noisy_target", False, "noise cannot be predicted"),
            at_most("method.mask_ratio", 0.6, "too little is shown to guess the rest"),
            at_most("augment.jitter_probability", 0.0, "the author of the method advises against it"),
            at_most("augment.noise_std", 0.0, "hides the texture that is to be painted"),
        ),
    }

    def __init__(self, encoder: Encoder, settings: SparKSettings, size: int) -> None:
        super().__init__(encoder)
        self.settings = settings
        self.side = size // settings.patch
        self.sparse = settings.masking == "sparse"
        if self.sparse:
            self.densify = Densify(encoder.widths, settings.decoder_width)
            self.decoder: nn.Module = LightDecoder(settings.decoder_width, encoder.conv1.in_channels)
        else:
            self.decoder = UNetDecoder(encoder.widths, settings.decoder_width)

    @classmethod
    def build(cls, encoder: Encoder, settings: Settings, size: int) -> SparK:
        """Raises UsageError when view, patches, mask and decoder do not fit each other."""
        assert isinstance(settings, SparKSettings)
        for name, step in (("method.patch", settings.patch), ("the network's stride", STRIDE)):
            if size % step:
                raise UsageError(f"data.size is {size}, not a multiple of {name} ({step})", "change one of them")
        if settings.masking == "sparse":
            _check_sparse(settings)
        _check_mask(settings, size)
        return cls(encoder, settings, size)

    def view_specs(self, size: int, augment: AugmentSettings) -> Sequence[ViewSpec]:
        """One view."""
        return [ViewSpec(size, augment)]

    def forward(self, views: Sequence[View], progress: Progress, generator: torch.Generator) -> StepOutput:
        """The target is the view without noise, unless ``noisy_target``: noise cannot be predicted.

        As many patches are hidden in every film, so that the mean of the ranks' losses is that of all films.
        """
        (view,) = views
        films = len(view.image_BCHW) * world_size()
        visible = own_share(draw_visible(films, self.side, self.settings.mask_ratio, generator))
        features, prediction = self._paint(view.image_BCHW, visible, generator)
        target = view.image_BCHW if self.settings.noisy_target else view.clean_BCHW
        loss = reconstruction_loss(prediction, target, visible, self.settings.patch)
        scalars = {"explained": explained(loss, mean_loss(target, visible, self.settings.patch))}
        return StepOutput(loss, scalars, features)

    def expectations(self) -> Expectations:
        """Painting each patch's mean explains nothing, and costs (n - 1) / n of n pixels.

        For the target has the unbiased variance 1; flat patches, such as black borders, cost less. The features may
        point the same way: nothing in the loss asks them to differ.
        """
        pixels = self.settings.patch**2
        return Expectations(
            {"loss": (pixels - 1) / pixels, "explained": 0.0}, spreads=False, rises=frozenset({"explained"})
        )

    @torch.no_grad()
    def reconstruct(self, images_BCHW: Tensor, generator: torch.Generator) -> Reconstruction:
        """Mask whole films (normalised) and paint them, with the statistics of evaluation mode."""
        visible = draw_visible(len(images_BCHW), self.side, self.settings.mask_ratio, generator)
        _, prediction = self._paint(images_BCHW, visible)
        masked = images_BCHW * self._pixels(visible)
        return Reconstruction(visible, masked, prediction.float(), self.settings.patch)

    def _pixels(self, visible_B1FF: Tensor) -> Tensor:
        patch = float(self.settings.patch)
        return F.interpolate(visible_B1FF.float(), scale_factor=patch, mode="nearest")

    def _paint(
        self, images_BCHW: Tensor, visible_B1FF: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features of what is shown, (B, D) without gradient, and the prediction (B, C, H, W).

        With a ``generator``, in training, branches are dropped by ``drop_path``.
        """
        if not self.sparse:
            maps = self.encoder.stages(images_BCHW * self._pixels(visible_B1FF))
            return maps[-1].detach().float().mean(dim=(2, 3)), self.decoder(maps)
        visible = VisiblePatches(visible_B1FF, per_film=visible_count(self.side, self.settings.mask_ratio))
        branches, rate = None, self.settings.drop_path
        if rate and self.training and generator is not None:  # all at once: a recomputed stage must see the same
            branches = draw_branches(self.encoder, visible, rate, generator)
        stages = packed_stages(self.encoder, images_BCHW, visible, branches)
        features = stages[-1].detach().unflatten(0, (len(images_BCHW), -1)).float().mean(dim=(1, 3, 4))
        return features, self.decoder(self.densify(stages, visible))


def _check_mask(settings: SparKSettings, size: int) -> None:
    """Raises UsageError when nothing is shown, or nothing hidden: there would be nothing to learn."""
    side = size // settings.patch
    shown = visible_count(side, settings.mask_ratio)
    for count, hides, change in ((shown, "all", "lower"), (side * side - shown, "nothing", "raise")):
        if count == 0:
            raise UsageError(
                f"method.mask_ratio {settings.mask_ratio:g} hides {hides} of a view: "
                f"at data.size {size} it has {side} x {side} patches",
                f"{change} method.mask_ratio, or make data.size larger",
            )


def _check_sparse(settings: SparKSettings) -> None:
    """Raises UsageError when patch or decoder do not fit the network's stride."""
    for name, value, step in (
        ("patch", settings.patch, STRIDE),
        ("decoder_width", settings.decoder_width, WIDTH_STEP),
    ):
        if value % step:
            raise UsageError(
                f"method.{name} is {value}, not a multiple of {step}, which method.masking=sparse needs",
                f"--set method.{name}={step * max(1, round(value / step))}, or --set method.masking=input",
            )
