"""Views of a batch: their order of steps, what they may depend on, and what they may not ask of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from scarce_cli.config import AugmentSettings
from scarce_cli.data import augment
from scarce_cli.data.augment import View, draw_parameters, make_view
from tests.data.view_helpers import CPU, PUBLISHED, draw, phantom_films, random_films, smooth_films, still

BOTH = [PUBLISHED, PUBLISHED.model_copy(update={"geometry": "published"})]
both = pytest.mark.parametrize("settings", BOTH, ids=["warp", "published"])


def views(films: Tensor, settings: AugmentSettings, rows: np.ndarray | None = None, size: int = 64) -> View:
    rows = np.arange(len(films)) if rows is None else rows
    p = draw_parameters(settings, films.shape[-1], seed=0, epoch=0, films=rows, view=0)
    return make_view(films[rows], settings, p, size=size, mean=0.518, std=0.254)


def test_the_steps_come_in_the_order_of_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name in ("warp", "jitter", "blur_", "add_noise"):
        function = getattr(augment, name)
        monkeypatch.setattr(augment, name, lambda *a, _f=function, _n=name: (seen.append(_n), _f(*a))[1])
    views(smooth_films(4, 256), PUBLISHED)
    assert seen == ["warp", "jitter", "blur_", "add_noise"]


@both
def test_views_are_the_same_bits_in_any_batch(settings: AugmentSettings) -> None:
    films = random_films(40, 96)
    whole = views(films, settings, size=80)
    for rows in (np.array([5, 2]), np.array([7]), np.arange(39, 2, -1)):
        part = views(films, settings, rows, size=80)
        assert torch.equal(part.image_BCHW, whole.image_BCHW[rows])
        assert torch.equal(part.clean_BCHW, whole.clean_BCHW[rows])


@both
def test_views_are_the_same_bits_with_any_number_of_threads_and_films_at_once(
    settings: AugmentSettings, monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    films = random_films(9, 96)
    whole = views(films, settings)
    for films_at_once in (1, 2, 4):
        monkeypatch.setattr(augment, "_CHUNK_BYTES", {"cpu": films_at_once * 4 * 96**2})
        for threads in (1, 2, 3):
            set_threads(threads)
            assert torch.equal(views(films, settings).image_BCHW, whole.image_BCHW)


def test_noise_has_its_spread_and_is_not_in_the_clean_view() -> None:
    settings = AugmentSettings(noise_std=0.1, jitter_probability=0.0, blur_probability=0.0, crop_scale=(1.0, 1.0))
    view = views(smooth_films(16, 96), settings, size=96)
    noise = (view.image_BCHW - view.clean_BCHW) * 0.254
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.002)
    assert not torch.equal(noise[0], noise[1])
    values = view.clean_BCHW * 0.254 + 0.518
    assert values.min() >= -1e-6
    assert values.max() <= 1 + 1e-6


def test_parameters_count_even_where_the_settings_never_draw_them() -> None:
    """A step is left out where the settings never ask for it; parameters made by hand are obeyed all the same."""
    never = AugmentSettings(jitter_probability=0.0, blur_kernel=(1, 1), noise_std=0.0, geometry="published")
    films, yes = random_films(2, 64), np.ones(2, bool)
    plain = make_view(films, never, still(2, 64), size=64, mean=0.5, std=0.5).image_BCHW
    torch.testing.assert_close(plain, films.unsqueeze(1) / 127.5 - 1, rtol=0, atol=1e-5)
    for changes in (
        {"jitter": yes, "contrast": np.full(2, 0.5)}, {"blur": yes, "kernel": np.full(2, 9)}, {"angle": np.full(2, 9.0)}
    ):  # fmt: skip
        changed = make_view(films, never, still(2, 64, **changes), size=64, mean=0.5, std=0.5).image_BCHW
        assert (changed - plain).abs().mean() > 0.1


@both
def test_corners_are_black_in_the_published_way_only(settings: AugmentSettings) -> None:
    white = torch.full((64, 96, 96), 255, dtype=torch.uint8)
    quiet = settings.model_copy(update={"noise_std": 0.0, "jitter_probability": 0.0, "blur_probability": 0.0})
    values = views(white, quiet, size=96).image_BCHW * 0.254 + 0.518
    corners = values[:, 0][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.round() == (1.0 if settings.geometry == "warp" else 0.0)).float().mean() > 0.9
    assert (values[:, :, 24:72, 24:72] - 1).abs().max() < 1e-5


@both
@pytest.mark.parametrize("threads", [1, 2])
def test_modes_around_it_change_nothing(
    settings: AugmentSettings, threads: int, monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    monkeypatch.setattr(augment, "_CHUNK_BYTES", {"cpu": 4 * 96**2})
    set_threads(threads)
    films = random_films(4, 96)
    with torch.inference_mode():
        first = views(films, settings).image_BCHW
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        second = views(films, settings).image_BCHW
    torch.use_deterministic_algorithms(True)
    try:
        third = views(films, settings).image_BCHW
    finally:
        torch.use_deterministic_algorithms(False)
    for image in (first, second, third):
        assert torch.equal(image, first)
        assert image.dtype == torch.float32
        assert not image.requires_grad
        assert not image.is_inference()


def test_no_films_give_no_views() -> None:
    assert views(random_films(3, 64), PUBLISHED, np.arange(0)).image_BCHW.shape == (0, 1, 64, 64)


@pytest.mark.parametrize(("stored", "size", "kernel"), [(64, 224, 23), (32, 32, 23), (257, 48, 9), (300, 33, 5)])
def test_views_of_any_size(stored: int, size: int, kernel: int) -> None:
    settings = PUBLISHED.model_copy(update={"blur_kernel": (kernel, kernel)})
    view = views(random_films(5, stored), settings, size=size)
    assert view.image_BCHW.shape == (5, 1, size, size)
    assert torch.isfinite(view.image_BCHW).all()
    assert view.clean_BCHW.min() >= -0.518 / 0.254 - 1e-4
    assert view.clean_BCHW.max() <= (1 - 0.518) / 0.254 + 1e-4


@both
def test_tensorfloat32_changes_a_view_by_a_tenth_of_a_grey_value_at_most(
    settings: AugmentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that is allowed to keeps 10 bits of what it multiplies by matrices; imitated here."""
    quiet = settings.model_copy(update={"noise_std": 0.0, "blur_probability": 1.0, "jitter_probability": 0.0})
    films, bmm, products = phantom_films(4, 128), torch.bmm, []

    def rounded(values: Tensor) -> Tensor:
        return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    exact = views(films, quiet, size=112).image_BCHW
    monkeypatch.setattr(torch, "bmm", lambda a, b: (products.append(1), bmm(rounded(a), rounded(b)))[1])
    difference = (views(films, quiet, size=112).image_BCHW - exact).abs() * 0.254 * 255
    assert products
    assert 0 < difference.mean() < 0.1
    assert difference.max() < 0.5


class Recorder(TorchDispatchMode):
    """Every operation, with the devices of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.moves: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        self.names.append(str(function))
        devices = [a.device for a in args if isinstance(a, Tensor) and a.dim()]
        if isinstance(out, Tensor) and any(device != out.device for device in devices):
            self.moves.append((str(function), bool(kwargs.get("non_blocking"))))
        return out


@both
def test_nothing_waits_for_the_gpu_and_one_copy_goes_there(
    settings: AugmentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On imagined CUDA tensors: reading one on the host, or a size that depends on values, is an error there."""
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self, *_: (pinned.append(self), self)[1])
    monkeypatch.setattr(augment, "_CHUNK_BYTES", {"cuda": 3 * 4 * 64**2})
    p = draw(settings, 64, 10)
    with FakeTensorMode(allow_non_fake_inputs=True), Recorder() as seen:
        films = torch.empty(10, 64, 64, dtype=torch.uint8, device="cuda")
        view = make_view(films, settings, p, size=48, mean=0.5, std=0.25)
    assert (view.image_BCHW.device.type, view.image_BCHW.shape) == ("cuda", (10, 1, 48, 48))
    assert seen.moves == [("aten._to_copy.default", True)]
    assert len(pinned) == 1


@both
def test_no_value_is_read_and_nothing_chosen_by_a_mask(settings: AugmentSettings) -> None:
    films = random_films(10, 64)
    with Recorder() as seen:
        make_view(films, settings, draw(settings, 64, 10), size=48, mean=0.5, std=0.25)
    assert len(seen.names) > 100
    waiting = ("_local_scalar_dense", "nonzero", "aten.index.", "masked_select", "equal", "unique")
    assert not [name for name in seen.names if any(word in name for word in waiting)]


def test_on_the_cpu_no_memory_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", None)
    assert views(random_films(2, 64), PUBLISHED).image_BCHW.device == CPU
