"""The two sides that throughput.py and gpu.py compare: this program's engine, and the plain loop.

Both take whole steps (films to views to weights) and steps on views that are there already. ``Ours`` is the loop of
`scarce_cli.engine.trainer.Trainer` without what it tells and saves: the same views, steps and ledger.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from plain import PlainLoop
from plain_loader import CHANNELS, make_loader
from torch import Tensor

from scarce_cli.config import AugmentSettings, RunConfig, Settings
from scarce_cli.data.augment import View
from scarce_cli.data.cache import Cache
from scarce_cli.data.phantom import draw_phantom
from scarce_cli.engine.device import configure
from scarce_cli.engine.job import Job
from scarce_cli.engine.ledger import Ledger
from scarce_cli.engine.start import build_state
from scarce_cli.engine.state import Identity
from scarce_cli.engine.step import Stepper
from scarce_cli.engine.views import Batches, ViewMaker
from scarce_cli.methods import method_class, settings_class
from scarce_cli.methods.base import ViewSpec
from scarce_cli.models.resnet import build_encoder
from scarce_cli.presets import load_preset, validate
from scarce_cli.runs import RunFolder

PUBLISHED = "l4-published"
_DRAWN = 64  # different films; the rest repeat them, which no timing notices


@dataclass(frozen=True)
class Recipe:
    """What is compared, and the published series' recipe of the same method."""

    method: str
    preset: str
    config: RunConfig
    settings: Settings
    published: RunConfig
    published_settings: Settings

    def __str__(self) -> str:
        run = self.config.run
        return f"{self.config.model.backbone}, {self.config.data.size} px, batch {run.batch_size}, {run.precision}"

    def with_augment(self, augment: AugmentSettings) -> Recipe:
        """The same with other views."""
        return replace(self, config=self.config.model_copy(update={"augment": augment}))


def load_recipe(method: str, preset: str, overrides: Sequence[str] = (), published: Sequence[str] = ()) -> Recipe:
    """A shipped recipe, changed by ``overrides``; the published one by ``published``."""
    (config, settings), (manner, manner_settings) = (
        (validate(loaded, RunConfig), validate(loaded, settings_class(method), ("method",)))
        for loaded in (load_preset(preset, method, overrides), load_preset(PUBLISHED, method, published))
    )
    config = config.model_copy(update={"method": settings.model_dump(mode="json")})
    return Recipe(method, preset, config, settings, manner, manner_settings)


def draw_films(path: Path, films: int, side: int) -> None:
    """Write drawn films, (films, side, side) uint8, as .npy; only the first few differ."""
    drawn = np.stack([draw_phantom(0, n, size=side).pixels for n in range(min(films, _DRAWN))]).astype(np.float32)
    low, high = drawn.min(axis=(1, 2), keepdims=True), drawn.max(axis=(1, 2), keepdims=True)
    unique = ((drawn - low) / (high - low) * 255).astype(np.uint8)
    out = np.lib.format.open_memmap(path, "w+", np.uint8, (films, side, side))
    for start in range(0, films, len(unique)):
        out[start : start + len(unique)] = unique[: films - start]
    out.flush()


def open_films(path: Path) -> Cache:
    """An .npy file of films (N, S, S) uint8 as the cache of a data set."""
    shape = np.load(path, mmap_mode="r").shape
    offset = path.stat().st_size - int(np.prod(shape))
    with path.open("rb") as handle:
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    images = np.frombuffer(mapped, np.uint8, offset=offset).reshape(shape)
    names = tuple(f"{number:06d}.png" for number in range(shape[0]))
    return Cache(path.parent, images, names, shape[1], 0.5, 0.25, "", path, offset, mapped)


class Clock:
    """Moments on the device: CUDA events, or the time of day on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> torch.cuda.Event | float:
        """A moment in the current stream."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def ms(self, start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
        """Milliseconds between two moments; both have passed."""
        if isinstance(start, float) or isinstance(end, float):
            return 1e3 * (float(end) - float(start))
        return start.elapsed_time(end)

    def wait(self) -> None:
        """Until everything that was asked for is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Side:
    """One of the two; ``spans`` has the start and end of every whole step's computing, data already there."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device, self.clock = recipe, device, Clock(device)
        self.batch = recipe.config.run.batch_size
        self.spans: list[tuple[torch.cuda.Event | float, torch.cuda.Event | float]] = []

    def begin(self) -> None:
        """Before whole steps, on a CPU before every turn."""

    def step(self) -> None:
        """A whole step."""
        raise NotImplementedError

    def model_step(self) -> None:
        """A step on views that are there already, always the same."""
        raise NotImplementedError

    def waited(self) -> float:
        """Share of the time from the first whole step to the last that lay between steps. Forgets them."""
        spans, self.spans = self.spans, []
        gaps = sum(self.clock.ms(a[1], b[0]) for a, b in pairwise(spans))
        return gaps / self.clock.ms(spans[0][1], spans[-1][1]) if len(spans) > 1 else 0.0


class Ours(Side):
    """The engine of `scarce pretrain`."""

    def __init__(self, recipe: Recipe, cache: Cache, device: torch.device) -> None:
        super().__init__(recipe, device)
        config = recipe.config
        configure(config, device)
        identity = Identity(recipe.method, recipe.preset, config, cache)
        self.job = Job(identity, method_class(recipe.method), recipe.settings, RunFolder(Path("no-run")), device)
        self.state, self.batches = build_state(self.job), Batches(self.job)
        self.specs: Sequence[ViewSpec] = self.state.method.view_specs(config.data.size, config.augment)
        self.stepper = Stepper(
            self.job, self.state, total_steps=self.batches.total, steps_per_epoch=self.batches.per_epoch
        )
        self.maker, self.ledger = ViewMaker(self.job, self.specs, self.batches), Ledger(device)
        self.taken = 0
        self.losses: list[float] = []
        self._fixed: list[View] | None = None

    def step(self) -> None:
        views = self.maker.take(self.taken)
        start = self.clock.now()
        self._take(views)
        self.spans.append((start, self.clock.now()))
        self.maker.prepare(self.taken)
        self._hear()

    def model_step(self) -> None:
        if self._fixed is None:
            shapes = [(self.batch, 1, spec.size, spec.size) for spec in self.specs]
            images = [torch.randn(shape, device=self.device) for shape in shapes]
            self._fixed = [View(image, image) for image in images]
        self._take(self._fixed)
        self._hear()

    def make_views(self) -> None:
        """One batch of views and nothing else, in the current stream."""
        self.maker.take(self.taken)

    def _take(self, views: list[View]) -> None:
        said = self.stepper.take(self.taken, views)
        self.taken += 1
        self.state.step = self.taken
        self.ledger.add(self.taken, said)

    def _hear(self) -> None:
        self.losses += [entry.values["loss"] for entry in self.ledger.ready()]


class Plain(Side):
    """The plain loop on the same recipe, done the published way."""

    def __init__(
        self,
        recipe: Recipe,
        shared_NSS: Tensor,
        specs: Sequence[ViewSpec],
        device: torch.device,
        *,
        workers: int,
        batches: int,
    ) -> None:
        """``specs``: the views of the other side. ``batches``: of an epoch, which `begin` starts."""
        super().__init__(recipe, device)
        config, settings = recipe.config, plain_settings(recipe)
        self.specs = specs
        self.loop = PlainLoop(recipe.method, config, settings, recipe.published, device)
        self.loader = make_loader(
            shared_NSS, specs, config.data, batch=self.batch, batches=batches, workers=workers,
            pin=device.type == "cuda",
        )  # fmt: skip
        self.losses: list[float] = []
        self._views: Iterator[list[Tensor]] = iter(())
        self._fixed: list[Tensor] | None = None

    def begin(self) -> None:
        self._views = iter(self.loader)

    def step(self) -> None:
        views = [view.to(self.device, non_blocking=True) for view in next(self._views)]
        start = self.clock.now()
        self.losses.append(self.loop.step(views))
        self.spans.append((start, self.clock.now()))

    def model_step(self) -> None:
        if self._fixed is None:
            shapes = [(self.batch, CHANNELS, spec.size, spec.size) for spec in self.specs]
            self._fixed = [torch.randn(shape, device=self.device) for shape in shapes]
        self.losses.append(self.loop.step(self._fixed))


def specs_of(recipe: Recipe) -> Sequence[ViewSpec]:
    """The views that a recipe's method wants of every film."""
    config = recipe.config
    encoder = build_encoder(config.model.backbone, seed=0)
    method = method_class(recipe.method).build(encoder, recipe.settings, config.data.size)
    return method.view_specs(config.data.size, config.augment)


def plain_settings(recipe: Recipe) -> Settings:
    """The method's settings for the plain side: the recipe's, but SparK's are the published ones unless the recipe
    masks at the input too."""
    if getattr(recipe.settings, "masking", "input") != "input":
        return recipe.published_settings
    return recipe.settings
