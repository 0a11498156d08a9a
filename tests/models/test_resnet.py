"""The encoder: torchvision's network but for one channel, and recomputation that counts nothing twice."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from scarce_cli.models.resnet import Backbone, Encoder, build_encoder

BOTH: tuple[Backbone, ...] = ("resnet18", "resnet50")


def images(batch: int = 4, side: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(batch, 1, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backbone", BOTH)
def test_state_names_and_shapes_are_torchvisions_without_the_classifier(backbone: Backbone) -> None:
    theirs = {
        name: tuple(tensor.shape)
        for name, tensor in torchvision.models.get_model(backbone).state_dict().items()
        if not name.startswith("fc.")
    }
    ours = {name: tuple(tensor.shape) for name, tensor in build_encoder(backbone, seed=0).state_dict().items()}
    assert list(ours) == list(theirs)
    assert ours.pop("conv1.weight") == (64, 1, 7, 7)
    assert theirs.pop("conv1.weight") == (64, 3, 7, 7)
    assert ours == theirs


@pytest.mark.parametrize("backbone", BOTH)
def test_features_agree_with_torchvision(backbone: Backbone) -> None:
    """A grey film in three equal channels, seen by thirds of our first filter, is the same film."""
    ours = build_encoder(backbone, seed=1).eval()
    theirs = torchvision.models.get_model(backbone).eval()
    theirs.fc = nn.Identity()
    state = ours.state_dict()
    state["conv1.weight"] = state["conv1.weight"].repeat(1, 3, 1, 1) / 3
    theirs.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(images()),
            theirs(images().repeat(1, 3, 1, 1)),
            rtol=1e-3,
            atol=1e-3 * ours(images()).abs().max().item(),
        )


@pytest.mark.parametrize("backbone", BOTH)
def test_with_zero_init_residual_every_block_starts_as_its_shortcut(backbone: Backbone) -> None:
    """In training and in evaluation; all other weights are those that the seed draws without it."""
    plain, zero = build_encoder(backbone, seed=3), build_encoder(backbone, seed=3, zero_init_residual=True)
    last = "bn2.weight" if backbone == "resnet18" else "bn3.weight"
    for (name, one), other in zip(plain.state_dict().items(), zero.state_dict().values(), strict=True):
        scale = name.startswith("layer") and name.endswith(last)
        assert torch.equal(other, torch.zeros_like(one) if scale else one), name
        assert not scale or bool((one == 1).all()), name
    for training in (True, False):
        x = zero.train(training).relu(zero.bn1(zero.conv1(images())))
        for block in [*zero.layer1, *zero.layer2, *zero.layer3, *zero.layer4]:
            shortcut = x if block.downsample is None else block.downsample(x)
            assert torch.equal(block(x), shortcut.relu())
            x = block(x)


@pytest.mark.parametrize("backbone", BOTH)
@pytest.mark.parametrize("side", [32, 96])
def test_stages_have_the_stated_widths_and_strides(backbone: Backbone, side: int) -> None:
    encoder = build_encoder(backbone, seed=0).eval()
    with torch.no_grad():
        maps = encoder.stages(images(1, side))
        features = encoder(images(1, side))
    assert [m.shape[1] for m in maps] == encoder.widths
    assert [side // m.shape[-1] for m in maps] == [4, 8, 16, 32]
    assert features.shape == (1, encoder.features)
    torch.testing.assert_close(features, maps[-1].mean(dim=(2, 3)))


def test_the_seed_fixes_the_weights_whatever_the_global_random_state() -> None:
    first = build_encoder("resnet18", seed=5).state_dict()
    torch.manual_seed(999)
    torch.rand(17)
    before = torch.get_rng_state()
    again, other = build_encoder("resnet18", seed=5).state_dict(), build_encoder("resnet18", seed=6).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_the_first_filter_starts_with_the_spread_of_the_others() -> None:
    """Kaiming by fan out, as torchvision: the one channel changes the fan in only."""
    weight = build_encoder("resnet50", seed=0).conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)


def test_recomputation_changes_no_state_name() -> None:
    plain, frugal = (build_encoder("resnet18", seed=0, gradient_checkpointing=g) for g in (0, 4))
    assert plain.state_dict().keys() == frugal.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), frugal.parameters(), strict=True))


def trained_step(encoder: Encoder, context: contextlib.AbstractContextManager[object], times: int = 1) -> Tensor:
    """One training step's forward (of ``times`` batches) and backward; returns the last features."""
    encoder.train()
    with context:
        outputs = [encoder(images(seed=n)) for n in range(times)]
        loss = torch.stack([out.float().square().mean() for out in outputs]).sum()
    loss.backward()
    return outputs[-1].detach()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("times", [1, 2])
def test_recomputation_gives_the_same_features_gradients_and_statistics(precision: str, times: int) -> None:
    """BatchNorm's running statistics and counters see each batch once, also when views share an encoder."""
    plain, frugal = (build_encoder("resnet18", seed=0, gradient_checkpointing=g) for g in (0, 4))

    def context() -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    assert torch.equal(trained_step(plain, context(), times), trained_step(frugal, context(), times))
    for (name, one), other in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad), name
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, frugal.get_buffer(name)), name
        if name.endswith("num_batches_tracked"):
            assert int(buffer) == times, name
    momenta = {norm.momentum for norm in frugal.modules() if isinstance(norm, nn.BatchNorm2d)}
    assert momenta == {0.1}


def test_recomputation_really_happens_and_only_in_training() -> None:
    encoder, calls = build_encoder("resnet18", seed=0, gradient_checkpointing=4), []
    encoder.layer3[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    trained_step(encoder, contextlib.nullcontext())
    assert len(calls) == 2
    calls.clear()
    with torch.no_grad():
        encoder(images())
    encoder.eval()
    encoder(images()).sum().backward()
    assert len(calls) == 2


def test_an_error_in_the_backward_pass_leaves_the_norms_as_they_were() -> None:
    encoder = build_encoder("resnet18", seed=0, gradient_checkpointing=4).train()
    out = encoder(images())
    handle = encoder.layer2[1].conv2.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError("full")))
    with pytest.raises(MemoryError):
        out.sum().backward()
    handle.remove()
    norms = [norm for norm in encoder.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 for norm in norms)
    assert all(isinstance(norm.num_batches_tracked, Tensor) for norm in norms)
    assert encoder.state_dict().keys() == build_encoder("resnet18", seed=0).state_dict().keys()


def test_an_encoder_can_be_copied_for_a_teacher() -> None:
    encoder = build_encoder("resnet18", seed=0, gradient_checkpointing=4)
    teacher = copy.deepcopy(encoder)
    trained_step(encoder, contextlib.nullcontext())
    assert int(teacher.bn1.num_batches_tracked) == 0
    assert teacher.conv1.weight.grad is None
