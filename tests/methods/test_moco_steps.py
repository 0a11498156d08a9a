"""MoCo v2: the two encoders and the queue through steps, as the engine takes them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scarce_cli.config import AugmentSettings
from scarce_cli.data.augment import View
from scarce_cli.errors import UsageError
from scarce_cli.methods.base import Progress, StepOutput
from scarce_cli.methods.moco import MoCo, infonce, infonce_accuracy, infonce_logits, unit_rows
from scarce_cli.methods.regularizers import variance_hinge
from scarce_cli.methods.settings import MoCoSettings
from scarce_cli.models.resnet import Encoder, build_encoder
from scarce_cli.models.split_batch_norm import SplitBatchNorm2d

NOW = Progress(0, 10, 5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def method_of(seed: int = 0, **settings: Any) -> MoCo:
    """A small MoCo in float64, training."""
    defaults = {"queue": 13, "dimension": 6, "bn_splits": 2, "key_momentum": 0.9}
    encoder = build_encoder("resnet18", seed=seed)
    torch.manual_seed(seed + 1)
    return MoCo.build(encoder, MoCoSettings(**{**defaults, **settings}), 32).double().train()


def views_of(seed: int = 0, films: int = 8) -> list[View]:
    images = [draw(films, 1, 32, 32, seed=10 * seed + number) for number in (1, 2)]
    return [View(image, image) for image in images]


def _grouped(encoder: Encoder, x_NCHW: Tensor) -> Tensor:
    """Film n in group n mod S, written out: rows 0, S, 2 S ... first. Put back in order afterwards."""
    norms = [norm for norm in encoder.modules() if isinstance(norm, SplitBatchNorm2d)]
    splits = norms[0].splits if norms else 1
    order = torch.tensor([n for group in range(splits) for n in range(group, len(x_NCHW), splits)])
    return encoder(x_NCHW[order])[order.argsort()]


def run(method: MoCo, views: Sequence[View], seed: int = 0) -> StepOutput:
    output: StepOutput = method(views, NOW, torch.Generator().manual_seed(seed))
    return output


def step(method: MoCo, optimizer: torch.optim.Optimizer, seed: int = 0) -> StepOutput:
    """As the engine does it."""
    output = run(method, views_of(seed), seed)
    optimizer.zero_grad(set_to_none=True)
    output.loss.backward()
    optimizer.step()
    method.after_step(NOW, torch.tensor(True))
    return output


def sgd(method: MoCo) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for _, p in method.trained_parameters()], lr=0.05)


def state_of(method: MoCo, *prefixes: str) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in method.state_dict().items() if name.startswith(prefixes)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_step_written_out() -> None:
    method, (query, key) = method_of(), views_of()
    twin = copy.deepcopy(method)
    output = run(method, [query, key], seed=3)
    features = _grouped(twin.encoder, query.image_BCHW)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    shuffled = twin.key_projector(_grouped(twin.key_encoder, key.image_BCHW[order]))
    keys = torch.empty_like(shuffled).index_copy(0, order, shuffled)
    logits = infonce_logits(twin.projector(features), keys, twin.queue_DK, 0.2)
    torch.testing.assert_close(output.loss, infonce(logits), rtol=1e-12, atol=0)
    assert torch.equal(output.scalars["infonce"], output.loss.detach())
    assert torch.equal(output.scalars["infonce_accuracy"], infonce_accuracy(logits))
    assert float(output.scalars["infonce_margin"]) == pytest.approx(math.log(1 + 13) - float(output.loss.detach()))
    assert output.scalars.keys() == {"infonce", "infonce_accuracy", "infonce_margin"}
    assert output.embeddings_ND is not None
    torch.testing.assert_close(output.embeddings_ND, features.detach().float())
    method.after_step(NOW, torch.tensor(True))
    torch.testing.assert_close(method.queue_DK[:, :8], unit_rows(keys).T.detach(), rtol=1e-12, atol=1e-14)
    assert torch.equal(method.queue_DK[:, 8:], twin.queue_DK[:, 8:])
    assert int(method.queue_pointer) == 8


def test_the_queue_starts_with_unit_keys_of_the_seed() -> None:
    one, other, again = method_of(0), method_of(1), method_of(0)
    torch.testing.assert_close(one.queue_DK.norm(dim=0), torch.ones(13, dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.equal(one.queue_DK, again.queue_DK)
    assert not torch.equal(one.queue_DK, other.queue_DK)


def test_the_key_network_starts_as_the_query_s_and_is_frozen() -> None:
    method = method_of()
    for key, query in ((method.key_encoder, method.encoder), (method.key_projector, method.projector)):
        assert same(dict(key.state_dict()), dict(query.state_dict()))
        assert all(not p.requires_grad for p in key.parameters())
    assert {name.split(".")[0] for name, _ in method.trained_parameters()} == {"encoder", "projector"}


def test_shuffling_changes_the_groups_and_nothing_else() -> None:
    """With one group for all, the same keys come back in the same order; with two, other statistics."""
    views = views_of()
    plain = [run(method_of(bn_splits=1, shuffle_keys=shuffle), views).loss for shuffle in (True, False)]
    torch.testing.assert_close(plain[0], plain[1], rtol=1e-10, atol=0)
    split = [run(method_of(shuffle_keys=shuffle), views).loss for shuffle in (True, False)]
    assert float((split[0] - split[1]).detach().abs()) > 1e-4


def test_queries_are_not_shuffled() -> None:
    features = [run(method_of(), views_of(), seed).embeddings_ND for seed in (0, 1)]
    assert features[0] is not None
    assert features[1] is not None
    assert torch.equal(features[0], features[1])


def test_both_encoders_normalise_in_groups() -> None:
    method = method_of(bn_splits=4)
    for encoder in (method.encoder, method.key_encoder):
        norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert len(norms) == 20
        assert all(isinstance(norm, SplitBatchNorm2d) and norm.splits == 4 for norm in norms)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_key_network_follows_the_query_s_new_weights(momentum: float) -> None:
    method = method_of(key_momentum=momentum)
    before = state_of(method, "key_encoder", "key_projector")
    step(method, sgd(method))
    for name, tensor in method.named_parameters():
        if name.startswith("key_"):
            query = method.state_dict()[name.removeprefix("key_")]
            wanted = momentum * before[name] + (1 - momentum) * query
            torch.testing.assert_close(tensor, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("copied", [False, True])
def test_buffers_of_the_key_network(copied: bool) -> None:
    """They follow the keys' own batches, as official, or are the query's on request."""
    method = method_of(copy_buffers=copied)
    twin = copy.deepcopy(method)
    step(method, sgd(method))
    _grouped(twin.key_encoder, views_of()[1].image_BCHW[torch.randperm(8, generator=torch.Generator().manual_seed(0))])
    source = method.encoder if copied else twin.key_encoder
    assert same(dict(method.key_encoder.named_buffers()), dict(source.named_buffers()))
    assert not same(dict(method.encoder.named_buffers()), dict(twin.key_encoder.named_buffers()))


def test_a_step_that_is_not_taken_leaves_queue_and_key_weights_alone() -> None:
    method, other = method_of(), method_of()
    optimizer = sgd(method)
    before = state_of(method, "queue", "key_projector")
    weights = {name: p.clone() for name, p in method.key_encoder.named_parameters()}
    run(method, [View(view.image_BCHW * torch.nan, view.clean_BCHW) for view in views_of(5)], seed=5)
    method.after_step(NOW, torch.tensor(False))
    assert same(state_of(method, "queue", "key_projector"), before)
    assert same(dict(method.key_encoder.named_parameters()), weights)
    method.load_state_dict(other.state_dict())  # the engine puts the running statistics back
    step(method, optimizer)
    step(other, sgd(other))
    assert same(dict(method.state_dict()), dict(other.state_dict()))


def test_the_queue_takes_every_step_s_keys_round_and_round() -> None:
    method = method_of(key_momentum=1.0)
    optimizer, pointers = sgd(method), []
    for number in range(4):
        before = method.queue_DK.clone()
        pointer = int(method.queue_pointer)
        step(method, optimizer, number)
        changed = (method.queue_DK != before).any(dim=0).nonzero().flatten().tolist()
        assert changed == sorted((pointer + i) % 13 for i in range(8))
        pointers.append(int(method.queue_pointer))
    assert pointers == [8, 3, 11, 6]


def test_a_queue_shorter_than_the_batch() -> None:
    method = method_of(queue=5)
    step(method, sgd(method))
    torch.testing.assert_close(method.queue_DK.norm(dim=0), torch.ones(5, dtype=torch.float64))
    assert int(method.queue_pointer) == 3


def test_queue_and_pointer_go_through_a_checkpoint() -> None:
    one, other = method_of(0), method_of(7)
    step(one, sgd(one))
    assert {"queue_DK", "queue_pointer"} <= one.state_dict().keys()
    other.load_state_dict(one.state_dict())
    assert int(other.queue_pointer) == 8
    first, second = step(one, sgd(one), 1), step(other, sgd(other), 1)
    assert torch.equal(first.loss, second.loss)
    assert same(dict(one.state_dict()), dict(other.state_dict()))


def test_what_is_kept_is_an_ordinary_encoder() -> None:
    method = method_of()
    for number in range(2):
        step(method, sgd(method), number)
    ordinary = build_encoder("resnet18", seed=9).double()
    ordinary.load_state_dict(method.evaluation_encoder().state_dict())
    x = draw(3, 1, 48, 48)
    assert method.evaluation_encoder() is method.encoder
    assert torch.equal(ordinary.eval()(x), method.eval().encoder(x))


@pytest.mark.parametrize("variance_on", ["normalised", "raw"])
def test_the_variance_term_is_added_with_its_weight(variance_on: str) -> None:
    views = views_of()
    bare, method = method_of(), method_of(variance_weight=0.5, variance_on=variance_on)
    twin = copy.deepcopy(method)
    output = run(method, views)
    q = twin.projector(_grouped(twin.encoder, views[0].image_BCHW))
    wanted = variance_hinge(q if variance_on == "raw" else unit_rows(q) * math.sqrt(6))
    torch.testing.assert_close(output.scalars["variance"], wanted.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(output.loss, run(bare, views).loss + 0.5 * wanted, rtol=1e-12, atol=0)
    assert torch.equal(output.scalars["infonce"], run(method_of(), views).loss.detach())


@pytest.mark.parametrize(("variance_on", "fooled"), [("normalised", False), ("raw", True)])
def test_length_alone_satisfies_the_published_variance_term(variance_on: str, fooled: bool) -> None:
    """Longer queries of the same directions."""
    views, found = views_of(), []
    for factor in (1.0, 1e4):
        method = method_of(variance_weight=1.0, variance_on=variance_on)
        with torch.no_grad():
            for parameter in method.projector[2].parameters():
                parameter.mul_(factor)
        found.append(float(run(method, views).scalars["variance"]))
    assert found[0] > 0.1
    assert found[1] == (0 if fooled else pytest.approx(found[0], rel=1e-9))


@pytest.mark.parametrize(
    ("films", "splits", "nearest"), [(6, 4, "8"), (10, 4, "8"), (4, 4, "8"), (3, 2, "4")]
)  # at 32 px the last stage is 1 x 1: one film has no variance there
def test_a_batch_that_cannot_be_cut_into_groups_is_refused(films: int, splits: int, nearest: str) -> None:
    with pytest.raises(UsageError, match=rf"run.batch_size is {films}: .* {splits} equal groups") as raised:
        run(method_of(bn_splits=splits), views_of(films=films))
    assert f"--set run.batch_size={nearest}, " in raised.value.remedy


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Call it to be one of so many."""

    def join(number: int) -> None:
        for module in ("methods.moco", "methods.base", "models.split_batch_norm"):
            monkeypatch.setattr(f"scarce_cli.{module}.world_size", lambda: number)

    return join


@pytest.mark.parametrize(("splits", "world", "named"), [(3, 2, 4), (2, 8, 8), (12, 8, 16)])
def test_groups_that_cannot_be_dealt_out_are_refused(
    splits: int, world: int, named: int, ranks: Callable[[int], None]
) -> None:
    ranks(world)
    with pytest.raises(UsageError, match=rf"method.bn_splits is {splits}: .* evenly to {world} processes") as raised:
        method_of(bn_splits=splits)
    assert raised.value.remedy.startswith(f"--set method.bn_splits={named}, or ")


@pytest.mark.parametrize(("splits", "world", "own"), [(8, 2, 4), (4, 4, 1), (8, 1, 8)])
def test_each_rank_has_its_part_of_the_groups(splits: int, world: int, own: int, ranks: Callable[[int], None]) -> None:
    ranks(world)
    norms = [m for m in method_of(bn_splits=splits).encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(isinstance(norm, SplitBatchNorm2d) and norm.splits == own for norm in norms)


def test_one_group_of_several_ranks_is_left_to_the_setting_for_all_methods(ranks: Callable[[int], None]) -> None:
    ranks(2)
    method = method_of(bn_splits=1)
    assert type(method.encoder.bn1) is torch.nn.BatchNorm2d
    method.check_batch(4)


@pytest.mark.parametrize(("films", "splits", "size"), [(4, 4, 64), (2, 1, 32), (8, 4, 32)])
def test_the_smallest_groups(films: int, splits: int, size: int) -> None:
    method = method_of(bn_splits=splits)
    method.size = size
    images = draw(films, 1, size, size)
    output = run(method, [View(images, images)] * 2)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for _, p in method.trained_parameters() if p.grad is not None)


@pytest.mark.parametrize("queue", [10**13, 10**18])
def test_a_queue_that_no_memory_holds_is_refused(queue: int) -> None:
    with pytest.raises(UsageError, match=rf"method\.queue is too large: {queue} keys of 6 numbers need ") as raised:
        method_of(queue=queue)
    assert "lower method.queue" in raised.value.remedy


def test_two_views_drawn_alike() -> None:
    specs = method_of().view_specs(96, AugmentSettings())
    assert [spec.size for spec in specs] == [96, 96]
    assert specs[0] == specs[1]


def test_a_batch_that_cannot_be_split_is_refused_before_anything_is_written(dataset: Path, scarce: Callable) -> None:
    options = ("--data", dataset, "--out", "run", "--set", "run.batch_size=9")
    done = scarce("pretrain", "moco", "--preset", "smoke", *options)
    assert done.code == 2
    assert "run.batch_size is 9: it cannot be cut into 2 equal groups" in done.err
    assert not Path("run").exists()
