"""SparK with either masking: what is hidden stays hidden (see also test_spark_loss.py and test_reference.py)."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from scarce_cli.config import AugmentSettings
from scarce_cli.data.augment import View
from scarce_cli.errors import UsageError
from scarce_cli.methods.base import Progress
from scarce_cli.methods.spark import SparK, SparKSettings, draw_visible, reconstruction_loss
from scarce_cli.models.resnet import build_encoder
from scarce_cli.models.sparse import VisiblePatches, sparse_stages

SIZE, PATCH = 128, 32
SETTINGS = {
    "sparse": SparKSettings(decoder_width=32),
    "input": SparKSettings(masking="input", decoder_width=16),
}
NOW = Progress(0, 10, 5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def films(batch: int = 3, size: int = SIZE, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 1, size, size, generator=generator(seed), dtype=dtype)


def make(settings: SparKSettings, size: int = SIZE) -> SparK:
    torch.manual_seed(0)
    return SparK.build(build_encoder("resnet18", seed=0), settings, size)


@pytest.fixture(params=["sparse", "input"])
def spark(request: pytest.FixtureRequest) -> SparK:
    return make(SETTINGS[request.param])


def pixels(visible_B1FF: Tensor, patch: int = PATCH) -> Tensor:
    return F.interpolate(visible_B1FF.float(), scale_factor=float(patch), mode="nearest").bool()


@pytest.mark.parametrize("training", [True, False])
def test_hidden_pixels_do_not_reach_the_prediction(spark: SparK, training: bool) -> None:
    """Whatever stands there: features and prediction are the same bits."""
    spark.train(training)
    image = films()
    visible = draw_visible(3, 4, 0.6, generator())
    other = torch.where(pixels(visible), image, films(seed=5) * 100)
    with torch.no_grad():
        features, one = spark._paint(image, visible)
        same_features, same = spark._paint(other, visible)
        _, moved = spark._paint(image + 0.1, visible)
    assert torch.equal(one, same)
    assert torch.equal(features, same_features)
    assert not torch.equal(one, moved)
    losses = [float(reconstruction_loss(one, target, visible, PATCH)) for target in (image, other)]
    assert losses[0] != losses[1]


def perfect_prediction(image: Tensor) -> Tensor:
    mean = F.avg_pool2d(image, PATCH)
    std = (F.avg_pool2d(image.square(), PATCH) - mean.square()).sqrt()
    return (image - F.interpolate(mean, scale_factor=32.0)) / F.interpolate(std, scale_factor=32.0)


@pytest.mark.parametrize("noisy_target", [False, True])
def test_noise_is_in_the_input_but_in_the_target_only_as_published(
    noisy_target: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who predicts the target is without error, though the network sees the noise."""
    spark = make(SETTINGS["input"].model_copy(update={"noisy_target": noisy_target}))
    clean, seen = films(), []
    noisy = clean + 0.5 * films(seed=4)
    answers = iter([perfect_prediction(noisy if noisy_target else clean)] * 2)

    def paint(images: Tensor, visible: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seen.append(images)
        return images.flatten(1), next(answers)

    monkeypatch.setattr(spark, "_paint", paint)
    assert float(spark([View(noisy, clean)], NOW, generator()).loss) < 1e-4
    assert float(spark([View(clean, noisy)], NOW, generator()).loss) > 0.05
    assert torch.equal(seen[0], noisy)


def test_a_reconstruction_is_what_training_sees(spark: SparK) -> None:
    spark.eval()
    image = films()
    result = spark.reconstruct(image, generator(7))
    assert torch.equal(result.visible_B1FF, draw_visible(3, 4, 0.6, generator(7)))
    assert torch.equal(result.masked_BCHW, image * pixels(result.visible_B1FF))
    assert result.prediction_BCHW.shape == image.shape
    assert result.patch == PATCH
    assert not result.prediction_BCHW.requires_grad


def test_embeddings_are_the_encoder_s_features_of_masked_films() -> None:
    spark = make(SETTINGS["input"]).eval()
    output = spark([View(films(), films())], NOW, generator(7))
    masked = spark.reconstruct(films(), generator(7)).masked_BCHW
    with torch.no_grad():
        wanted = spark.encoder(masked)
    assert output.embeddings_ND is not None
    torch.testing.assert_close(output.embeddings_ND, wanted)


def test_embeddings_of_the_sparse_encoder_are_the_mean_over_visible_positions() -> None:
    spark = make(SETTINGS["sparse"]).eval()
    output = spark([View(films(), films())], NOW, generator(7))
    visible = draw_visible(3, 4, 0.6, generator(7))
    with torch.no_grad():
        last = sparse_stages(spark.encoder, films(), VisiblePatches(visible))[3]
    assert output.embeddings_ND is not None
    torch.testing.assert_close(output.embeddings_ND, last.sum(dim=(2, 3)) / visible.sum(dim=(2, 3)))


def step(spark: SparK, image: Tensor | None = None, seed: int = 7) -> Tensor:
    """Loss of a training step, gradients in place."""
    image = films() if image is None else image
    loss = spark.train()([View(image, image)], NOW, generator(seed)).loss
    loss.backward()
    return loss.detach()


def test_mask_tokens_and_everything_else_get_a_gradient(spark: SparK) -> None:
    step(spark)
    for name, parameter in spark.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    tokens = [p for name, p in spark.named_parameters() if "tokens" in name]
    assert len(tokens) == (4 if spark.sparse else 0)
    assert all(token.grad.ne(0).all() and token.ndim == 1 for token in tokens)  # type: ignore[union-attr]


@pytest.mark.parametrize(("masking", "width"), [("sparse", 128), ("input", 16)])
def test_a_repeated_batch_is_learned(masking: str, width: int) -> None:
    spark = make(SETTINGS[masking].model_copy(update={"decoder_width": width}), 64)
    image = F.interpolate(films(4, 8), size=64, mode="bilinear")
    optimizer = torch.optim.AdamW(spark.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(step(spark, image))
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_the_state_goes_round_exactly(spark: SparK) -> None:
    other = SparK.build(build_encoder("resnet18", seed=9), spark.settings, SIZE)
    step(spark)
    other.load_state_dict(spark.state_dict())
    assert torch.equal(step(other), step(spark))


@pytest.mark.parametrize(("mask_ratio", "size"), [(0.0, 128), (0.02, 128), (0.4, 32)])
def test_a_mask_over_nothing_is_refused(spark: SparK, mask_ratio: float, size: int) -> None:
    """Every step would have the loss zero and no direction: 0.02 of 16 patches is none, rounded."""
    settings = spark.settings.model_copy(update={"mask_ratio": mask_ratio})
    with pytest.raises(UsageError, match=rf"method\.mask_ratio {mask_ratio:g} hides nothing of a view") as raised:
        make(settings, size)
    assert raised.value.remedy == "raise method.mask_ratio, or make data.size larger"


def test_patches_have_a_variance() -> None:
    with pytest.raises(ValidationError, match=r"patch\n.* greater than or equal to 2"):
        SparKSettings(masking="input", patch=1)
    assert 0.5 < step(make(SparKSettings(masking="input", patch=2, decoder_width=16))) < 2


def test_gradient_checkpointing_gives_the_same_bits_and_statistics(spark: SparK) -> None:
    frugal = copy.deepcopy(spark)
    frugal.encoder.gradient_checkpointing = 4
    assert torch.equal(step(spark), step(frugal))
    for (name, one), other in zip(spark.named_parameters(), frugal.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name  # type: ignore[arg-type]
    for name, buffer in spark.named_buffers():
        assert torch.equal(buffer, frugal.get_buffer(name)), name


def test_channels_last_and_mixed_precision_are_near(spark: SparK) -> None:
    last, mixed = copy.deepcopy(spark).to(memory_format=torch.channels_last), copy.deepcopy(spark)  # type: ignore[call-overload]
    loss = step(spark)
    torch.testing.assert_close(step(last), loss, rtol=1e-4, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = step(mixed)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, loss, rtol=1e-2, atol=0)


def test_patches_of_two_strides_are_painted() -> None:
    spark = make(SparKSettings(patch=64, mask_ratio=0.5, decoder_width=32))
    assert 0.5 < step(spark) < 2
    assert spark.eval().reconstruct(films(), generator()).visible_B1FF.shape == (3, 1, 2, 2)


@pytest.mark.parametrize("size", [64, 96, 224])
def test_every_size_of_whole_strides_is_painted(spark: SparK, size: int) -> None:
    painted = make(spark.settings, size).eval().reconstruct(films(2, size), generator()).prediction_BCHW
    assert painted.shape == (2, 1, size, size)
    assert painted.isfinite().all()


@pytest.mark.parametrize(("size", "patch", "named"), [(64, 24, "method.patch"), (48, 16, "the network's stride")])
def test_sizes_that_do_not_fit_are_refused(size: int, patch: int, named: str) -> None:
    with pytest.raises(UsageError, match=f"data.size is {size}, not a multiple of {named}"):
        make(SparKSettings(masking="input", patch=patch, decoder_width=16), size)


@pytest.mark.parametrize(
    ("settings", "message", "remedy"),
    [
        ({"patch": 16}, "method.patch is 16, not a multiple of 32", "--set method.patch=32,"),
        ({"decoder_width": 40}, "method.decoder_width is 40, not a multiple of 32", "--set method.decoder_width=32,"),
        ({"decoder_width": 16}, "method.decoder_width is 16, not a multiple of 32", "--set method.decoder_width=32,"),
    ],
)
def test_what_the_sparse_network_cannot_do_is_refused(settings: dict[str, int], message: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        make(SparKSettings(**settings))  # type: ignore[arg-type]
    assert raised.value.remedy.startswith(remedy)
    assert raised.value.remedy.endswith("or --set method.masking=input")
    make(SparKSettings(masking="input", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("masking", ["sparse", "input"])
def test_a_mask_over_everything_is_refused(masking: str) -> None:
    with pytest.raises(
        UsageError, match=r"mask_ratio 0\.6 hides all of a view: at data\.size 32 it has 1 x 1"
    ) as raised:
        make(SETTINGS[masking], 32)
    assert raised.value.remedy == "lower method.mask_ratio, or make data.size larger"


def test_one_view_of_the_run_s_size(spark: SparK) -> None:
    augment = AugmentSettings(crop_scale=(0.2, 1.0))
    (spec,) = spark.view_specs(SIZE, augment)
    assert (spec.size, spec.augment) == (SIZE, augment)
