"""``scarce preprocess`` as a user meets it: exit codes, messages, what lies in the folder afterwards."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def write_films(folder: Path, count: int, size: int = 64) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (size, size), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_from_films_to_a_data_set(scarce: Callable[..., Any]) -> None:
    write_films(Path("nih/deep"), 5)
    done = scarce("preprocess", "--src", "nih/", "--size", 32)
    assert done.code == 0, done.err
    assert re.search(r"done +│ 5 ", done.out)
    assert "Next: scarce cache nih-32" in done.out
    assert sorted(path.name for path in Path("nih-32").iterdir() if not path.name.startswith(".")) == [
        "bad_files.csv", "dataset.json", "images", "manifest.csv",
    ]  # fmt: skip
    assert len(list(Path("nih-32/images/deep").iterdir())) == 5
    assert scarce("preprocess", "--src", "nih/", "--size", 32).code == 0


def test_too_many_bad_files_is_code_3_after_everything_good_was_done(scarce: Callable[..., Any]) -> None:
    write_films(Path("films"), 3)
    Path("films/text.png").write_text("hello")
    done = scarce("preprocess", "--src", "films", "--size", 32)
    assert done.code == 3
    assert "1 of 4 files could not be used" in done.err
    assert "text.png" in done.err
    assert "films-32/bad_files.csv" in done.err
    assert "--max-bad" in done.err
    assert len(list(Path("films-32/images").iterdir())) == 3
    assert "skipped: not a film: neither PNG, JPEG" in done.out
    assert scarce("preprocess", "--src", "films", "--size", 32, "--max-bad", 0.25).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--src", "nowhere"], "nowhere: no such folder"),
        (["--src", "empty"], "empty: no film in it"),
        (["--src", "films", "--size", "100"], "--size 100 is not a multiple of 32"),
        (["--src", "films", "--window", "auto"], "--window auto"),
        (["--src", "films", "--fit", "stretch"], "--fit stretch"),
        (["--src", "films", "--shard", "5/4"], "--shard 5/4"),
        (["--src", "films", "--shard", "half"], "--shard half"),
        (["--src", "films", "--out", "films/prepared"], "inside one another"),
        (["--src", "films", "--max-bad", "2"], "--max-bad"),
        ([], "--src"),
    ],
)
def test_usage_errors_are_code_2_and_make_nothing(
    scarce: Callable[..., Any], arguments: list[str], message: str
) -> None:
    write_films(Path("films"), 1)
    Path("empty").mkdir()
    done = scarce("preprocess", *arguments)
    assert done.code == 2
    assert message in done.err
    assert sorted(path.name for path in Path().iterdir()) == ["empty", "films"]


def test_shards_then_merge(scarce: Callable[..., Any]) -> None:
    write_films(Path("films"), 9)
    for part in (1, 2):
        done = scarce("preprocess", "--src", "films", "--size", 32, "--shard", f"{part}/2")
        assert done.code == 0, done.err
        assert f"Part {part}/2 is done" in done.out
    assert not Path("films-32/manifest.csv").exists()
    done = scarce("preprocess", "--src", "films", "--size", 32)
    assert done.code == 0
    assert re.search(r"done +│ 9 ", done.out)
    assert len(Path("films-32/manifest.csv").read_text().splitlines()) == 10


def test_dedupe_and_suspicious_films_are_told(scarce: Callable[..., Any]) -> None:
    write_films(Path("films"), 3)
    shutil.copy("films/0.png", "films/copy.png")
    Image.new("L", (64, 64), 9).save("films/flat.png")
    done = scarce("preprocess", "--src", "films", "--size", 32, "--dedupe")
    assert done.code == 0, done.err
    assert re.search(r"duplicates, left out +│ 1 ", done.out)
    assert re.search(r"no contrast +│ 1 ", done.out)
    assert "films-32/suspicious.png" in done.out
    with Image.open("films-32/suspicious.png") as sheet:
        assert sheet.size[0] > 160


def test_hostile_names_do_not_reach_the_terminal(scarce: Callable[..., Any]) -> None:
    write_films(Path("films"), 1)
    Path("films/\x1b[31mred[bold]\n.png").write_bytes(b"")
    done = scarce("preprocess", "--src", "films", "--size", 32)
    assert done.code == 3
    assert "\x1b[31m" not in done.err + done.out
    assert "\\x1b[31mred[bold]\\n.png" in done.err


def test_dicom_without_the_extra_says_what_to_install(
    scarce: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import multiprocessing

    write_films(Path("films"), 1)
    Path("films/a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0" + b"\0" * 64)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setattr("scarce_cli.data.pool.context", lambda: multiprocessing.get_context("fork"))
    done = scarce("preprocess", "--src", "films", "--size", 32)
    assert done.code == 3
    assert "pip install 'scarce[dicom]'" in done.err


def test_the_folder_is_locked_while_somebody_works(scarce: Callable[..., Any]) -> None:
    from scarce_cli.files import folder_lock

    write_films(Path("films"), 1)
    Path("films-32").mkdir()
    with folder_lock(Path("films-32"), "a test"):
        done = scarce("preprocess", "--src", "films", "--size", 32)
    assert done.code == 6
    assert f"process {os.getpid()} on " in done.err


def _living_members(group: int) -> list[str]:
    """Processes of a group that have not ended (a container may have nobody to reap those that have)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(") ")
        except OSError:
            continue
        state, _, process_group = rest.split()[:3]
        if int(process_group) == group and state != "Z":
            found.append(name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_group_stops_all_within_two_seconds(number: signal.Signals, code: int) -> None:
    """P2, as a terminal or a job scheduler does it."""
    write_films(Path("films"), 240, size=256)
    process = subprocess.Popen(
        [sys.executable, "-m", "scarce_cli", "preprocess", "--src", "films", "--size", "256"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not any(Path("films-256").glob("images/9*.png")):
        time.sleep(0.02)
    sent = time.monotonic()
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == code, errors
    assert len([line for line in errors.splitlines() if line.strip()]) == 2, errors
    assert re.search(r"stopped: \d+ of 240 films done", errors)
    while _living_members(process.pid) and time.monotonic() - sent < 10:
        time.sleep(0.02)
    assert not _living_members(process.pid)
    for path in Path("films-256/images").iterdir():
        with Image.open(path) as image:
            image.load()


def test_no_torch_for_preparing_films(process: Callable[..., Any]) -> None:
    write_films(Path("films"), 2)
    code = (
        "import sys\n"
        "from scarce_cli.__main__ import main\n"
        "sys.argv = ['scarce', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, 'torchvision' in sys.modules, 'matplotlib' in sys.modules)\n"
    )
    for arguments in (["preprocess", "--src", "films", "--size", "32"], ["cache", "films-32"]):
        done = subprocess.run(
            [sys.executable, "-c", f"if __name__ == '__main__':\n{_indented(code)}", *arguments],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "False False False", done.stderr


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())
