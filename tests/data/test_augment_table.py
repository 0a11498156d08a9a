"""The one copy to the device, and the memory that is kept."""

from __future__ import annotations

import numpy as np
import torch

from scarce_cli.data.augment_table import Table, Workspace
from tests.data.view_helpers import CPU


def test_rows_come_back_by_name_and_part() -> None:
    generator = np.random.default_rng(0)
    floats, whole = generator.normal(size=9), generator.integers(-(2**31), 2**31, 9).astype(np.int32)
    flags = np.arange(9) % 2 == 0
    table = Table({"floats": floats, "whole": whole, "flags": flags}, CPU)
    part = table.films(2, 7)
    assert {name: row.dtype for name, row in part.items()} == {
        "floats": torch.float32, "whole": torch.int32, "flags": torch.float32,
    }  # fmt: skip
    assert (part["floats"].numpy() == floats[2:7].astype(np.float32)).all()
    assert (part["whole"].numpy() == whole[2:7]).all()
    assert (part["flags"].numpy() == flags[2:7]).all()


def test_bits_that_are_no_number_as_floats_are_kept() -> None:
    whole = np.array([0x7F800001, 0x7FC00000, -1, -(2**31)], np.int64).astype(np.int32)
    assert (Table({"whole": whole, "one": np.ones(4)}, CPU).films(0, 4)["whole"].numpy() == whole).all()


def test_memory_is_kept_and_grows() -> None:
    work = Workspace(CPU)
    first = work.take("a", 4, 6)
    assert first.shape == (4, 6)
    assert work.take("a", 2, 3, 4).data_ptr() == first.data_ptr()
    assert work.take("b", 4, 6).data_ptr() != first.data_ptr()
    assert work.take("a", 5, 6).shape == (5, 6)
    assert work.take("a", 5, 6, dtype=torch.int32).dtype == torch.int32
