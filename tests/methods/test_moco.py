"""MoCo v2: its loss against numpy, its queue against a list."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scarce_cli.methods.moco import enqueue, infonce, infonce_accuracy, infonce_logits, unit_rows


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts(rows: int = 5, dimensions: int = 4, size: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys of any length, and a queue of unit columns."""
    return draw(rows, dimensions), draw(rows, dimensions, seed=1), F.normalize(draw(dimensions, size, seed=2), dim=0)


@pytest.mark.parametrize(("rows", "dimensions", "size"), [(1, 1, 1), (5, 4, 7), (3, 16, 40), (8, 2, 3)])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_the_formula(rows: int, dimensions: int, size: int, temperature: float) -> None:
    q, k, queue = parts(rows, dimensions, size)
    found = infonce_logits(q, k, queue, temperature)
    losses = []
    for n in range(rows):
        one, own = (z[n].numpy() / math.sqrt(sum(float(v) ** 2 for v in z[n])) for z in (q, k))
        row = [float(one @ own), *(float(one @ queue[:, j].numpy()) for j in range(size))]
        np.testing.assert_allclose(found[n], np.array(row) / temperature, rtol=1e-10, atol=1e-12)
        losses.append(math.log(sum(math.exp((value - row[0]) / temperature) for value in row)))
    np.testing.assert_allclose(infonce(found), np.mean(losses), rtol=1e-10)


def test_only_directions_and_what_belongs_together_count() -> None:
    q, k, queue = parts()
    loss = infonce(infonce_logits(q, k, queue, 0.2))
    turn = torch.linalg.qr(draw(4, 4, seed=5)).Q
    order = torch.tensor([3, 1, 4, 0, 2])
    lengths = torch.tensor([[0.1], [2.0], [30.0], [1.0], [5.0]], dtype=torch.float64)
    for other in (
        infonce_logits(q * lengths, k * 7, queue, 0.2),
        infonce_logits(q @ turn, k @ turn, turn.T @ queue, 0.2),
        infonce_logits(q[order], k[order], queue, 0.2),
        infonce_logits(q, k, queue.flip(1), 0.2),
    ):
        torch.testing.assert_close(infonce(other), loss, rtol=1e-10, atol=0)
    assert float(infonce(infonce_logits(q, k[order], queue, 0.2)) - loss) != pytest.approx(0, abs=1e-3)


def test_the_ends_of_the_loss() -> None:
    """Nothing told apart: ln(1 + K). Told apart at a low temperature: nought."""
    same = torch.ones(3, 4, dtype=torch.float64)
    collapsed = infonce_logits(same, same, F.normalize(torch.ones(4, 9, dtype=torch.float64), dim=0), 0.2)
    assert float(infonce(collapsed)) == pytest.approx(math.log(10))
    axes = torch.eye(4, dtype=torch.float64)
    apart = infonce_logits(axes[:2], axes[:2], axes[:, 2:], 0.01)
    assert float(infonce(apart)) < 1e-40
    assert float(infonce_accuracy(apart)) == 1


def test_accuracy_is_the_share_whose_own_key_wins_alone() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 0.0], [5.0, 5.0, 0.0], [0.1, 0.0, 0.0]], requires_grad=True)
    accuracy = infonce_accuracy(logits)
    assert float(accuracy) == 0.5  # a tie is a miss: a network that tells nothing apart scores nought
    assert not accuracy.requires_grad


@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_what_rounding_tells_apart_is_a_tie(temperature: float) -> None:
    """A collapsed network in float32: its own key and the queue's are the same, but their sums differ in order."""
    differences, accuracies = [], []
    for seed in range(8):
        one = draw(1, 128, seed=seed).float()
        same = one.expand(16, 128).contiguous()
        logits = infonce_logits(same, same, unit_rows(one).T.expand(128, 500).contiguous(), temperature)
        differences.append(float((logits[:, 0] - logits[:, 1]).abs().max()))
        accuracies.append(float(infonce_accuracy(logits)))
        assert float(infonce(logits)) == pytest.approx(math.log(501), rel=1e-6)
    assert max(differences) > 0
    assert accuracies == [0.0] * 8


def test_gradient_reaches_the_queries_alone_and_not_their_length() -> None:
    q, k, queue = (z.requires_grad_() for z in parts())
    infonce(infonce_logits(q, k, queue, 0.2)).backward()
    assert q.grad is not None
    assert k.grad is None
    assert queue.grad is None
    torch.testing.assert_close((q.grad * q).sum(dim=1), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.autograd.gradcheck(lambda z: infonce_logits(z, k.detach(), queue.detach(), 0.2), [q])


def test_the_loss_keeps_no_copy_of_the_queue() -> None:
    q, k, queue = parts(rows=3, dimensions=8, size=50)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        infonce(infonce_logits(q.requires_grad_(), k, queue, 0.2))
    large = [tensor for tensor in saved if tensor.numel() >= queue.numel()]
    assert [tensor.untyped_storage().data_ptr() for tensor in large] == [queue.untyped_storage().data_ptr()]


def test_full_precision_under_autocast() -> None:
    q, k, queue = (z.float() for z in parts())
    exact = infonce_logits(q, k, queue, 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, coarse = infonce_logits(q, k, queue, 0.07), infonce_logits(q.bfloat16(), k.bfloat16(), queue, 0.07)
        loss = infonce(found)
    assert torch.equal(found, exact)
    assert torch.equal(loss, infonce(exact))
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, infonce_logits(q.bfloat16().float(), k.bfloat16().float(), queue, 0.07))


def test_a_row_of_noughts_stays_finite() -> None:
    z = torch.zeros(2, 3, requires_grad=True)
    unit_rows(z).sum().backward()
    assert torch.equal(unit_rows(z), torch.zeros(2, 3))
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("size", [1, 5, 8, 30])
def test_the_ring_against_a_list(size: int) -> None:
    """Batches that divide it and that do not, as long as the ring and longer."""
    rng = np.random.default_rng(size)
    queue, pointer = torch.zeros(1, size), torch.tensor(0)
    place, ring, written = queue.data_ptr(), [0.0] * size, 0
    for count in [1, size, size + 1, 2 * size, 3 * size + 2, *rng.integers(1, 2 * size + 2, 20).tolist()]:
        keys = torch.arange(written + 1, written + count + 1, dtype=torch.float32)
        for key in keys.tolist():
            ring[written % size] = key
            written += 1
        enqueue(queue, pointer, keys[:, None])
        assert queue[0].tolist() == ring
        assert int(pointer) == written % size
    assert queue.data_ptr() == place
    assert pointer.dtype == torch.int64
