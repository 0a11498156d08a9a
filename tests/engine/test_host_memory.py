"""What is freed stays with the process, and can be given back; each in a process of its own, for it does not end."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from scarce_cli.commands.inputs import compute_device
from scarce_cli.commands.pretrain import Device
from scarce_cli.config import RunConfig
from scarce_cli.engine.device import configure
from scarce_cli.engine.measure import reset_peak
from scarce_cli.presets import load_preset, validate

_SIZE = 256 * 2**20
_KEPT_AND_GIVEN_BACK = f"""
from pathlib import Path
from scarce_cli.engine.host_memory import give_back_memory, keep_memory

def resident():
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024

def taken_and_freed():
    block = bytearray(b"x") * {_SIZE}
    with_it = resident()
    del block
    return with_it - resident()

print(taken_and_freed(), end=" ")
assert keep_memory()
print(taken_and_freed(), end=" ")
before = resident()
give_back_memory()
print(before - resident())
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="on Linux, with glibc"
)
def test_memory_is_kept_until_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _KEPT_AND_GIVEN_BACK], capture_output=True, text=True, check=True)
    at_first, kept, given_back = (int(word) for word in done.stdout.split())
    assert at_first > 0.9 * _SIZE
    assert kept < 0.1 * _SIZE
    assert given_back > 0.9 * _SIZE


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_whatever_computes_on_the_cpu_keeps_its_memory(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, and the commands that use what it made."""
    kept: list[str] = []
    monkeypatch.setattr("scarce_cli.engine.device.keep_memory", lambda: kept.append("run"))
    monkeypatch.setattr("scarce_cli.engine.host_memory.keep_memory", lambda: kept.append("command"))
    monkeypatch.setattr("scarce_cli.engine.device.find_device", lambda *arguments, **more: torch.device(device))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)  # put back, as set below
    configure(validate(load_preset("smoke", "spark"), RunConfig), torch.device(device))
    compute_device(Device(device))
    assert kept == (["run", "command"] if device == "cpu" else [])


def test_between_two_measurements_it_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr("scarce_cli.engine.measure.give_back_memory", lambda: given.append(True))
    reset_peak(torch.device("cpu"))
    assert given == [True]


_ELSEWHERE = """
import ctypes
class Other:
    pass
ctypes.CDLL = lambda name: Other()
from scarce_cli.engine.host_memory import give_back_memory, keep_memory
give_back_memory()
print(keep_memory())
"""


def test_another_c_library_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _ELSEWHERE], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
