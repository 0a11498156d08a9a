"""DINO beyond its official numbers (tests/official/dino.py): targets, crops, freezing, the teacher."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from scarce_cli.config import AugmentSettings
from scarce_cli.data.augment import View
from scarce_cli.errors import UsageError
from scarce_cli.methods.base import Progress
from scarce_cli.methods.dino import (
    DINO,
    centred_targets,
    dino_loss,
    koleo,
    sinkhorn_targets,
    teacher_signals,
    teacher_temperature,
)
from scarce_cli.methods.settings import DINOSettings
from scarce_cli.models.resnet import build_encoder

SMALL = {"outputs": 12, "hidden": 16, "bottleneck": 8, "local_crops": 2, "local_size": 32, "local_scale": (0.1, 0.4)}
START = Progress(0, 20, 10)


def make(**changes: Any) -> DINO:
    settings = DINOSettings(**{**SMALL, **changes})
    torch.manual_seed(0)
    return DINO.build(build_encoder("resnet18", seed=0), settings, 48).train()


def views(films: int = 4, *, local: int = 2) -> list[View]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(films, 1, side, side, generator=generator) for side in [48, 48, *[32] * local]]
    return [View(image, image) for image in images]


def logits(rows: int, outputs: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Loss -------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_pairs_of_other_crops() -> None:
    student, targets = logits(5 * 3, 7), logits(2 * 3, 7, 1).softmax(dim=-1)
    pairs = [
        -(targets.chunk(2)[i] * F.log_softmax(student.chunk(5)[j] / 0.1, dim=-1)).sum(dim=-1).mean()
        for i in range(2)
        for j in range(5)
        if i != j
    ]
    torch.testing.assert_close(dino_loss(student, targets, 0.1), torch.stack(pairs).mean())


def test_uniform_targets_and_students_cost_ln_k() -> None:
    loss = dino_loss(torch.zeros(8, 256), torch.full((4, 256), 1 / 256), 0.1)
    assert float(loss) == pytest.approx(math.log(256))


def test_the_loss_does_not_see_a_constant_added_to_the_logits_or_the_order_of_outputs() -> None:
    student, teacher, centre = logits(8, 9), logits(4, 9, 1), logits(1, 9, 2)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    one = dino_loss(student, centred_targets(teacher, centre, 0.05), 0.1)
    other = dino_loss(student[:, order] + 3, centred_targets(teacher[:, order] - 2, centre[:, order], 0.05), 0.1)
    torch.testing.assert_close(one, other)


# Targets ----------------------------------------------------------------------------------------------------


def _sinkhorn_by_hand(teacher: np.ndarray, temperature: float, iterations: int) -> np.ndarray:
    q = np.exp(teacher / temperature).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * q.shape[0]
        q /= q.sum(axis=0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def test_sinkhorn_is_the_alternating_normalisation() -> None:
    teacher = logits(10, 6)
    found = sinkhorn_targets(teacher, 0.3, 3)
    np.testing.assert_allclose(found, _sinkhorn_by_hand(teacher.numpy(), 0.3, 3), rtol=1e-10)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(10, dtype=torch.float64))


def test_sinkhorn_converges_to_balanced_outputs() -> None:
    found = sinkhorn_targets(logits(32, 8), 0.5, 200)
    torch.testing.assert_close(found.mean(dim=0), torch.full((8,), 1 / 8, dtype=torch.float64))


def test_sinkhorn_stays_finite_where_exponentials_overflow() -> None:
    found = sinkhorn_targets(1000 * logits(6, 5).float(), 0.04, 3)
    assert torch.isfinite(found).all()


def test_equal_films_give_the_teacher_no_information() -> None:
    signals = teacher_signals(centred_targets(logits(1, 16).expand(6, 16), torch.zeros(1, 16), 0.1))
    assert float(signals["teacher_information"]) == pytest.approx(0, abs=1e-12)
    distinct = teacher_signals(torch.eye(4, dtype=torch.float64))
    assert [float(distinct[name]) for name in ("teacher_entropy", "mean_teacher_entropy")] == pytest.approx(
        [0, math.log(4)]
    )


@pytest.mark.parametrize("outputs", [2, 256, 4096])
@pytest.mark.parametrize("balanced", [False, True])
def test_a_teacher_that_gives_every_film_the_same_ends_uniform(outputs: int, balanced: bool) -> None:
    """By the centre, once it has come after it, and by balancing; a student that follows pays ln K."""
    same = logits(1, outputs).expand(8, outputs)
    targets = sinkhorn_targets(same, 0.04, 3) if balanced else centred_targets(same, same[:1], 0.04)
    for name, value in teacher_signals(targets).items():
        wanted = 0.0 if name == "teacher_information" else math.log(outputs)
        assert float(value) == pytest.approx(wanted, rel=1e-6, abs=1e-9), name
    assert float(dino_loss(torch.zeros(16, outputs, dtype=torch.float64), targets, 0.1)) == pytest.approx(
        math.log(outputs), rel=1e-6
    )


def test_a_teacher_of_one_output_has_no_entropy() -> None:
    signals = teacher_signals(torch.eye(5, dtype=torch.float64)[[2, 2, 2]])
    assert [float(value) for value in signals.values()] == [0, 0, 0]


@pytest.mark.parametrize(("late", "reached"), [(False, 4), (True, 5)])
def test_the_temperature_reaches_its_final_value(late: bool, reached: int) -> None:
    found = [teacher_temperature(n, start=0.07, final=0.04, warmup_epochs=5, late=late) for n in range(8)]
    assert found[0] == 0.07
    assert found.index(0.04) == reached
    assert found == sorted(found, reverse=True)


# KoLeo ------------------------------------------------------------------------------------------------------


def test_koleo_is_the_log_distance_to_the_nearest_neighbour() -> None:
    features = logits(7, 5)
    unit = F.normalize(features, dim=1)
    distances = torch.cdist(unit, unit) + 10 * torch.eye(7)
    torch.testing.assert_close(koleo(features), -distances.min(dim=1).values.log().mean())
    torch.testing.assert_close(koleo(3 * features), koleo(features))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_koleo_is_finite_on_equal_or_single_rows(rows: int) -> None:
    features = torch.ones(rows, 4, requires_grad=True)
    loss = koleo(features)
    loss.backward()
    assert features.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()


def test_koleo_joins_the_loss() -> None:
    plain = make()(views(), START, torch.Generator())
    spread = make(koleo_weight=0.5)(views(), START, torch.Generator())
    torch.testing.assert_close(spread.loss, plain.loss + 0.5 * spread.scalars["koleo"])


# The method -------------------------------------------------------------------------------------------------


def test_views_are_two_global_crops_and_the_local_ones() -> None:
    specs = make().view_specs(48, AugmentSettings(crop_scale=(0.4, 1.0), blur_kernel=(3, 5)))
    assert [(spec.size, spec.augment.crop_scale) for spec in specs] == [(48, (0.4, 1.0))] * 2 + [(32, (0.1, 0.4))] * 2


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"method\.local_size is 96, larger than data\.size 48"):
        make(local_size=96)
    with pytest.raises(UsageError, match=r"too large for method\.local_size 32"):
        make().view_specs(48, AugmentSettings(blur_kernel=(3, 65)))
    with pytest.raises(ValidationError, match=r"outputs\n.* greater than or equal to 2"):
        make(outputs=1)
    with pytest.raises(ValidationError, match="head_batch_norm does nothing with layers 1"):
        make(layers=1, head_batch_norm=True)
    make(layers=1)
    make(layers=2, head_batch_norm=True)


@pytest.mark.parametrize(("size", "named"), [(32, 32), (48, 32), (96, 48), (224, 96), (512, 224)])
def test_the_local_size_that_is_named_instead_is_a_valid_one(size: int, named: int) -> None:
    settings = DINOSettings(**{**SMALL, "local_size": size + 16})
    with pytest.raises(UsageError, match=rf"local_size is {size + 16}, larger than data\.size {size}") as raised:
        DINO.build(build_encoder("resnet18", seed=0), settings, size)
    assert raised.value.remedy == (f"--set method.local_size={named}, or another multiple of 16 from 32 to {size}")
    DINO.build(build_encoder("resnet18", seed=0), DINOSettings(**{**SMALL, "local_size": named}), size)


def test_crops_of_one_size_share_one_pass() -> None:
    """BatchNorm counts one update for the global crops and one for the local ones; published: one for each crop."""
    for together, updates in ((True, 2), (False, 4)):
        method = make(crops_together=together)
        method(views(), START, torch.Generator())
        assert int(method.encoder.bn1.num_batches_tracked) == updates


def test_the_last_layer_is_left_alone_while_frozen() -> None:
    method = make(freeze_last_layer_epochs=1.0)
    for step, frozen in ((9, True), (10, False)):
        progress = Progress(step, 20, 10)
        method.zero_grad(set_to_none=True)
        method(views(), progress, torch.Generator()).loss.backward()
        method.after_backward(progress)
        assert (method.head.last_layer.weight_v.grad is None) == frozen
        assert method.head.mlp[0].weight.grad is not None


def test_the_teacher_follows_by_the_momentum_of_the_step() -> None:
    method = make(teacher_momentum=(0.9, 1.0))
    method(views(), START, torch.Generator())
    with torch.no_grad():
        method.encoder.conv1.weight.add_(1.0)
    before = method.teacher.conv1.weight.clone()
    method.after_step(START, torch.tensor(True))
    torch.testing.assert_close(method.teacher.conv1.weight, before + 0.1)
    assert method.teacher_momentum(Progress(10, 20, 10)) == pytest.approx(0.95)
    assert make(teacher_momentum_curve="linear").teacher_momentum(Progress(19, 20, 10)) == 1.0


def test_the_teachers_batch_norms_follow_their_own_batches_unless_copied() -> None:
    for copied in (False, True):
        method = make(copy_buffers=copied, local_crops=2)
        method(views(), START, torch.Generator())
        method.after_step(START, torch.tensor(True))
        same = torch.equal(method.teacher.bn1.running_mean, method.encoder.bn1.running_mean)
        assert same == copied


def test_the_centre_moves_only_after_a_step() -> None:
    """A step that the engine skips must leave no trace."""
    method = make(centre_momentum=0.9)
    method(views(), START, torch.Generator())
    assert not method.centre_K.any()
    method.after_step(START, torch.tensor(True))
    assert method.centre_K.any()


def test_a_centre_of_momentum_one_never_moves_which_is_no_centring() -> None:
    method, other = make(centre_momentum=1.0), make(centre_momentum=0.9)
    for number in (0, 1):
        for one in (method, other):
            one(views(), Progress(number, 20, 10), torch.Generator())
            one.after_step(Progress(number, 20, 10), torch.tensor(True))
    assert torch.equal(method.centre_K, torch.zeros_like(method.centre_K))
    assert other.centre_K.any()
    teacher = logits(6, 12).float()
    torch.testing.assert_close(method._targets(teacher, START), (teacher / 0.04).softmax(dim=-1))
    shifted = method._targets(teacher + 9 * torch.eye(12)[0], START)  # one output that is always the highest wins
    assert float(teacher_signals(shifted)["mean_teacher_entropy"]) < 1e-6


@pytest.mark.parametrize("copied", [False, True])
def test_a_step_that_is_not_taken_moves_neither_teacher_nor_centre(copied: bool) -> None:
    method = make(copy_buffers=copied)
    method([View(view.image_BCHW * torch.nan, view.clean_BCHW) for view in views()], START, torch.Generator())
    with torch.no_grad():
        method.encoder.conv1.weight.add_(1.0)
        method.teacher.bn1.running_mean.fill_(3.0)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    method.after_step(START, torch.tensor(False))
    for name, tensor in method.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True, msg=name)
    assert not method.centre_K.any()


def test_the_encoder_to_keep_is_the_teachers_unless_the_settings_say_otherwise() -> None:
    for evaluate, name in (("teacher", "teacher"), ("student", "encoder")):
        method = make(evaluate=evaluate)
        assert method.evaluation_encoder() is getattr(method, name)


def test_teacher_and_student_start_equal_and_the_teacher_is_never_trained() -> None:
    method = make()
    for mine, theirs in ((method.encoder, method.teacher), (method.head, method.teacher_head)):
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name
    assert not [name for name, _ in method.trained_parameters() if name.startswith("teacher")]
