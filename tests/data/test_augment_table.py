"""The one copy to the device, and the memory that is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from scarce_cli.data.augment_table import Workspace, on_device, workspace
from tests.data.view_helpers import CPU


def test_rows_come_back_by_name() -> None:
    generator = np.random.default_rng(0)
    floats, whole = generator.normal(size=9), generator.integers(-(2**31), 2**31, 9).astype(np.int32)
    flags = np.arange(9) % 2 == 0
    rows = on_device({"floats": floats, "whole": whole, "flags": flags}, CPU)
    assert {name: row.dtype for name, row in rows.items()} == {
        "floats": torch.float32, "whole": torch.int32, "flags": torch.float32,
    }  # fmt: skip
    assert (rows["floats"].numpy() == floats.astype(np.float32)).all()
    assert (rows["whole"].numpy() == whole).all()
    assert (rows["flags"].numpy() == flags).all()


def test_bits_that_are_no_number_as_floats_are_kept() -> None:
    whole = np.array([0x7F800001, 0x7FC00000, -1, -(2**31)], np.int64).astype(np.int32)
    assert (on_device({"whole": whole, "one": np.ones(4)}, CPU)["whole"].numpy() == whole).all()


def test_memory_is_kept_and_grows() -> None:
    work = Workspace(CPU)
    first = work.take("a", 4, 6)
    assert first.shape == (4, 6)
    assert work.take("a", 2, 3, 4).data_ptr() == first.data_ptr()
    assert work.take("b", 4, 6).data_ptr() != first.data_ptr()
    assert work.take("a", 5, 6).shape == (5, 6)
    assert work.take("a", 5, 6, dtype=torch.int32).dtype == torch.int32


def test_each_thread_has_its_own_memory() -> None:
    with ThreadPoolExecutor(1) as other:
        theirs = other.submit(workspace, CPU).result()
        assert other.submit(workspace, CPU).result() is theirs
    assert workspace(CPU) is workspace(CPU)
    assert workspace(CPU) is not theirs
    assert workspace(torch.device("cuda")) is not workspace(torch.device("cuda"))
