"""The run's typed settings: each section a frozen class whose fields carry unit and range.

The ``method`` section belongs to the method's own module. `scarce_cli.presets` loads them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scarce_cli.schedule import CONVENTIONS

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]

STAGES = 4  # of a ResNet, that can be recomputed


class Settings(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent conversion, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RunSettings(Settings):
    """How long, how much at once, where."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]  # films per step, of all GPUs together
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # fixes order, views, masks and initial weights
    device: Literal["cuda", "cpu"] = "cuda"
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"  # of the forward pass; weights stay float32
    tf32: bool = True  # GPU: what stays float32 is multiplied with 10 bits of mantissa (TensorFloat-32)
    compile: bool = False  # torch.compile of all networks: takes minutes to start, needs a C compiler
    deterministic: bool = False  # GPU: the same bits in every run of the same machine, slower
    gpu_memory: NotNegative = 0.0  # GiB the recipe needs on the card, for the message where there is none; 0: not said
    gpu_price: NotNegative = 0.0  # dollars an hour for one GPU; 0: not said
    checkpoint_minutes: Positive = 10.0  # wall time between two saves
    checkpoint_steps: Count = 500  # steps between two saves, whichever comes first
    snapshot_epochs: Count = 10  # an encoder is kept apart every so many epochs, for the collapse curve
    log_steps: Count = 1  # steps between two lines of metrics.jsonl


class ModelSettings(Settings):
    """The backbone: a ResNet with one input channel and torchvision's parameter names."""

    backbone: Literal["resnet18", "resnet50"]
    init: str = ""  # file of weights to start from (torchvision's, or a checkpoint's); empty: drawn by the seed
    zero_init_residual: bool = False  # the last norm's scale in each block starts at 0: blocks begin as their shortcut
    gradient_checkpointing: Annotated[int, Field(ge=0, le=STAGES)] = 0  # first stages recomputed, not kept: less memory
    sync_batch_norm: bool = False  # several GPUs: normalise over the films of all of them, not of each by itself


class AugmentSettings(Settings):
    """One random view of a film; the steps are applied in this order (part 2 of the series)."""

    crop_scale: tuple[Positive, Positive] = (0.08, 1.0)  # area of the crop, as a fraction of the film's
    crop_ratio: tuple[Positive, Positive] = (0.75, 4 / 3)  # width over height of the crop
    flip_probability: Fraction = 0.5  # horizontal
    rotation_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0  # uniform in +-
    # warp: crop, flip and rotation in one resampling of the film. published: crop and resize, flip, then rotation
    # by the nearest pixel, with black corners.
    geometry: Literal["warp", "published"] = "warp"
    brightness: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8  # factor uniform in 1 +- this
    contrast: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8  # factor uniform in 1 +- this, about the mean
    jitter_probability: Fraction = 0.8  # of brightness and contrast together
    blur_probability: Fraction = 0.5
    blur_kernel: tuple[Count, Count] = (9, 23)  # px in the view, odd, drawn uniformly
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)  # px in the view
    noise_std: NotNegative = 0.1  # grey values in [0, 1]

    @model_validator(mode="after")
    def _ranges_in_order(self) -> AugmentSettings:
        for name in ("crop_scale", "crop_ratio", "blur_kernel", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first number must not be larger than the second")
        if self.crop_scale[1] > 1:
            raise ValueError("crop_scale: at most 1, the whole film")
        if any(size % 2 == 0 for size in self.blur_kernel):
            raise ValueError("blur_kernel: both sizes must be odd")
        return self


class DataSettings(Settings):
    """What the network sees."""

    size: Annotated[int, Field(ge=32, le=1024, multiple_of=16)]  # px, side of a view
    cache: Literal["mmap", "ram"] = "mmap"  # ram: copied into shared memory first, for disks too slow to page from
    mean: Fraction = 0.518  # grey value taken off, films in [0, 1] (NIH ChestX-ray14)
    std: Positive = 0.254  # grey value divided by


class OptimizerSettings(Settings):
    """The optimizer; biases and norm parameters are not decayed unless ``decay_all``."""

    name: Literal["adamw", "sgd", "lars", "lamb"]
    lr: Positive  # peak, for the batch size given
    lr_1d: NotNegative = 0.0  # lars only: peak for biases and norm parameters; 0: the same
    weight_decay: NotNegative
    final_weight_decay: NotNegative | None = None  # at the end of a cosine over the run; none: constant
    momentum: Fraction = 0.9  # sgd and lars
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)  # adamw and lamb
    clip_norm: NotNegative = 0.0  # global gradient norm; 0: no clipping
    clip_each: NotNegative = 0.0  # norm of each tensor's gradient by itself; 0: no clipping
    decay_all: bool = False  # adamw and sgd; published way: biases and norm parameters decayed as well

    @model_validator(mode="after")
    def _options_fit_the_name(self) -> OptimizerSettings:
        if self.lr_1d and self.name != "lars":
            raise ValueError("lr_1d is an option of lars")
        if self.decay_all and self.name in ("lars", "lamb"):
            raise ValueError("decay_all is for adamw and sgd: lars and lamb fit the steps of decayed tensors alone")
        if self.clip_norm and self.clip_each:
            raise ValueError("clip_norm or clip_each, not both")
        return self


class ScheduleSettings(Settings):
    """Linear warm-up, then cosine: the official codes differ in where either starts and ends."""

    convention: Literal["scarce", "moco", "barlow", "dino", "spark", "published"] = "scarce"
    warmup_epochs: NotNegative = 0.0
    final_lr: NotNegative = 0.0
    milestones: tuple[Count, ...] = ()  # epochs after which the rate is a tenth, instead of a cosine

    @model_validator(mode="after")
    def _fits_the_convention(self) -> ScheduleSettings:
        if CONVENTIONS[self.convention].per_epoch and self.warmup_epochs % 1:
            raise ValueError(f"warmup_epochs: a whole number, because '{self.convention}' goes by epochs")
        if self.milestones and self.final_lr:
            raise ValueError("milestones replace the cosine: leave final_lr at 0")
        return self


class MonitorSettings(Settings):
    """Looks at the encoder while it trains, and what follows from a verdict."""

    steps: Count = 200  # between two looks; fewer where that is more than a fiftieth of the run
    films: Annotated[int, Field(ge=0)] = 256  # looked at, always the same; 0: the encoder is not looked at
    on_collapse: Literal["stop", "warn", "ignore"] = "warn"  # stop: with a checkpoint and exit code 9
    grace: Fraction = 0.05  # of the run, in which no verdict stops it

    @model_validator(mode="after")
    def _films_to_compare(self) -> MonitorSettings:
        if self.films == 1:
            raise ValueError("films: two or more, which can be compared, or 0")
        if self.on_collapse == "stop" and not self.films:
            raise ValueError("on_collapse is stop, but with films 0 nothing is looked at: set it to warn")
        return self


class RunConfig(Settings):
    """Everything about a run but the method's own settings, which its module validates."""

    method: dict[str, Any] = {}
    run: RunSettings
    model: ModelSettings
    data: DataSettings
    augment: AugmentSettings = AugmentSettings()
    optimizer: OptimizerSettings
    schedule: ScheduleSettings = ScheduleSettings()
    monitor: MonitorSettings = MonitorSettings()

    @model_validator(mode="after")
    def _warmup_fits(self) -> RunConfig:
        warmup, epochs = self.schedule.warmup_epochs, self.run.epochs
        if warmup > epochs:
            raise ValueError(f"schedule.warmup_epochs is {warmup:g}, more than run.epochs ({epochs})")
        return self

    @model_validator(mode="after")
    def _blur_fits(self) -> RunConfig:
        half = self.augment.blur_kernel[1] // 2
        if half >= self.data.size:  # edges are mirrored, so the kernel must find that many pixels
            raise ValueError(f"augment.blur_kernel is too large for data.size {self.data.size}")
        return self
