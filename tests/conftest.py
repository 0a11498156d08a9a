"""What all tests share: an isolated folder and environment, the command line in this process, small data."""

from __future__ import annotations

import os

# Two-core machines run several tests' processes at once; threads that wait for each other cost more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

from scarce_cli.errors import ScarceError

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--reference DIR``: run test_reference.py on the official numbers there instead of on our copies."""
    parser.addoption("--reference", default=None, metavar="DIR", help="folder of .npz files with official numbers")


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own folder, no settings from outside and torch's random state put back."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("SCARCE_", "WANDB_"))]:
        if name != "SCARCE_CXR":
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def scarce(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> Result:
        from scarce_cli.cli import app

        capfd.readouterr()
        code = 0
        try:
            app([str(a) for a in arguments], prog_name="scarce")
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def run_process(*arguments: object, cwd: Path | None = None, **environment: str) -> Result:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "scarce_cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environment},
        timeout=120,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def process() -> Callable[..., Result]:
    """See `run_process`."""
    return run_process


@pytest.fixture
def child() -> Callable[..., int]:
    """Run an action in a forked child, all imports done, with ``SCARCE_FAULT`` set to ``fault``.

    Returns its exit code (0, that of a ScarceError, 99 for any other error) or minus the number of its signal.
    """

    def run(action: Callable[[], object], fault: str = "") -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside torch's idle threads
            pid = os.fork()
        if pid == 0:
            _be_child(action, fault)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


def _be_child(action: Callable[[], object], fault: str) -> NoReturn:
    code = 99
    try:
        os.environ["SCARCE_FAULT"] = fault
        action()
        code = 0
    except ScarceError as error:
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@pytest.fixture(scope="session")
def films_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``films/`` with 48 small 16-bit films of 24 patients and ``labels.csv`` in its parent.

    Films with the finding have a bright disc in the middle, so that a probe has something to find.
    """
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    lines = ["image,patient_id,findings"]
    y, x = np.mgrid[:64, :64] / 63 - 0.5
    (folder / "films").mkdir()
    for number in range(48):
        pixels = 9000 + 6000 * np.cos(3 * x * rng.uniform(0.8, 1.2)) + rng.normal(0, 300, (64, 64))
        sick = number // 2 % 2 == 1
        pixels += 9000 * sick * ((x**2 + y**2) < 0.04)
        Image.fromarray(pixels.clip(0, 65535).astype(np.uint16)).save(folder / "films" / f"f{number:02d}.png")
        lines.append(f"f{number:02d}.png,P{number // 2:02d},{'Disc' if sick else 'No Finding'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def dataset(films_folder: Path) -> Path:
    """A prepared and cached data set of those films at 32 px."""
    work = films_folder.parent / "prepared"
    work.mkdir(exist_ok=True)
    for command in (("preprocess", "--src", films_folder / "films", "--size", 32), ("cache", "films-32")):
        done = run_process(*command, cwd=work)
        assert done.code == 0, done.err
    return work / "films-32"


@pytest.fixture(scope="session")
def trained(dataset: Path) -> Path:
    """The folder of a finished smoke run of SparK on those films."""
    run = dataset.parent / "runs" / "spark-smoke"
    done = run_process("pretrain", "spark", "--preset", "smoke", cwd=dataset.parent)
    assert done.code == 0, done.err
    return run


@pytest.fixture
def weights() -> Path:
    """torchvision's ResNet-18 in a file."""
    import torch
    import torchvision

    torch.manual_seed(7)
    path = Path("weights.pth")
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def cxr() -> Path:
    """The real films, which are never part of the project."""
    folder = Path(os.environ.get("SCARCE_CXR", ROOT.parent / "shared" / "cxr"))
    if not folder.is_dir():
        pytest.skip("the real films are not here (folder named by SCARCE_CXR)")
    return folder
