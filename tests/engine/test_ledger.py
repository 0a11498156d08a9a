"""What steps say, read in order, on a GPU one step late."""

from __future__ import annotations

import torch

from scarce_cli.engine.ledger import Ledger
from scarce_cli.engine.plan import StepValues
from scarce_cli.engine.step import Taken

CPU = torch.device("cpu")


def _add(ledger: Ledger, step: int) -> None:
    values = torch.tensor([float(step), 0.5], dtype=torch.float64)
    ledger.add(step, Taken(("loss", "taken"), values, None, StepValues(lr=0.1 * step, lr_1d=0.3, weight_decay=0.01)))


def test_on_the_cpu_a_step_is_read_at_once() -> None:
    ledger = Ledger(CPU)
    ledger.start()
    for step in (1, 2, 3):
        _add(ledger, step)
        (entry,) = ledger.ready()
        assert (entry.step, entry.values) == (step, {"loss": float(step), "taken": 0.5})
        assert (entry.lr, entry.weight_decay) == (0.1 * step, 0.01)
        assert entry.seconds >= 0
    assert list(ledger.ready()) == list(ledger.rest()) == []


def test_on_a_gpu_it_is_read_one_step_late_and_the_rest_on_demand() -> None:
    """All ranks are late by the same one step, so that they stop together."""
    ledger = Ledger(torch.device("cuda"))
    seen = []
    for step in (1, 2, 3):
        _add(ledger, step)
        seen.append([entry.step for entry in ledger.ready()])
    assert seen == [[], [1], [2]]
    assert [entry.step for entry in ledger.rest()] == [3]
    assert list(ledger.rest()) == []
