"""Each method's own settings, apart from the methods, so that a wrong one is answered without loading torch.

The defaults are the official ones; what the published series did otherwise is an option that says so.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from scarce_cli.config import Count, Fraction, NotNegative, Positive, Settings


class SparKSettings(Settings):
    """SparK (arXiv 2301.03580)."""

    masking: Literal["sparse", "input"] = "sparse"  # input: patches zeroed in the input only (part 4 of the series)
    patch: Annotated[int, Field(ge=2)] = (
        32  # px, side of a patch; the view's side is a multiple of it; sparse: the network's stride, 32
    )
    mask_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.60  # share of patches hidden
    decoder_width: Annotated[int, Field(ge=8, multiple_of=4)] = 768  # sparse: of the coarsest level; input: of all
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # sparse: of the last residual branch; rises from 0
    noisy_target: bool = False  # published way: the noise of the augmentation is part of what is to be painted

    @model_validator(mode="after")
    def _drop_path_has_a_place(self) -> SparKSettings:
        if self.drop_path and self.masking != "sparse":
            raise ValueError("drop_path is an option of masking sparse: set drop_path to 0 with masking input")
        return self


class MoCoSettings(Settings):
    """MoCo v2 (arXiv 2003.04297)."""

    queue: Count = 65536  # keys kept as negatives
    dimension: Count = 128  # of the embedding
    key_momentum: Fraction = 0.999  # of the key encoder's moving average
    temperature: Positive = 0.2  # published: 0.07, as in MoCo v1
    bn_splits: Count = 8  # groups of a batch with statistics of their own; 1: ordinary BatchNorm
    shuffle_keys: bool = True  # keys meet other films in their groups than queries do
    copy_buffers: bool = False  # the key encoder takes over the BatchNorm buffers; official: those of its own batches
    variance_weight: NotNegative = 0.0  # of the hinge on the embedding's standard deviation
    variance_on: Literal["normalised", "raw"] = "normalised"  # raw: published, and satisfied by length alone


class BarlowSettings(Settings):
    """Barlow Twins (arXiv 2103.03230)."""

    projector: Annotated[tuple[Count, ...], Field(min_length=1)] = (8192, 8192, 8192)  # widths of its layers
    lambd: NotNegative = 0.0051  # weight of the off-diagonal terms
    standardise: Literal["official", "published"] = "official"  # published: unbiased std, eps 1e-6 outside the root


class DINOSettings(Settings):
    """DINO (arXiv 2104.14294)."""

    outputs: Annotated[int, Field(ge=2)] = 65536  # K, of the head
    hidden: Count = 2048  # width of the head's layers
    bottleneck: Count = 256  # width before the last layer
    layers: Count = 3  # of the head, the last one not counted
    head_batch_norm: bool = False  # BatchNorm in the head: on films of one kind it keeps the outputs apart
    normalize_last_layer: bool = True  # every row of the last layer keeps the length 1
    freeze_last_layer_epochs: NotNegative = 1.0  # published: 0
    local_crops: Annotated[int, Field(ge=0)] = 8
    local_size: Annotated[int, Field(ge=32, multiple_of=16)] = 96  # px, side of a local crop
    local_scale: tuple[Positive, Positive] = (0.05, 0.14)  # area of a local crop; of a global one: augment.crop_scale
    crops_together: bool = True  # crops of one size in one batch; published: one by one
    student_temperature: Positive = 0.1
    teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07)  # at the start, and after the warm-up
    teacher_temperature_epochs: Annotated[int, Field(ge=0)] = 30  # of the warm-up; its last epoch has the final value
    teacher_temperature_late: bool = False  # published way: the final value one epoch later
    teacher_momentum: tuple[Fraction, Fraction] = (0.996, 1.0)  # of the moving average, at start and end
    teacher_momentum_curve: Literal["cosine", "linear"] = "cosine"  # published: linear
    centring: Literal["centre", "sinkhorn"] = "centre"
    centre_momentum: Fraction = 0.9  # published: 0.99
    sinkhorn_iterations: Count = 3
    koleo_weight: NotNegative = 0.0  # of the spread of nearest neighbours (DINOv2, arXiv 2304.07193)
    evaluate: Literal["teacher", "student"] = "teacher"  # the encoder to keep; published: student
    copy_buffers: bool = False  # the teacher takes over the BatchNorm buffers; official: those of its own batches

    @model_validator(mode="after")
    def _scale_in_order(self) -> DINOSettings:
        if not self.local_scale[0] <= self.local_scale[1] <= 1:
            raise ValueError("local_scale: two numbers up to 1, the smaller first")
        return self

    @model_validator(mode="after")
    def _batch_norm_has_a_place(self) -> DINOSettings:
        if self.head_batch_norm and self.layers == 1:
            raise ValueError("head_batch_norm does nothing with layers 1: set layers to 2 or more, or leave it false")
        return self


SETTINGS: dict[str, type[Settings]] = {
    "spark": SparKSettings,
    "moco": MoCoSettings,
    "barlow": BarlowSettings,
    "dino": DINOSettings,
}
