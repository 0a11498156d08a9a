"""Durable files: killed or without space at any point, a file is whole; a folder has one writer."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scarce_cli import files
from scarce_cli.errors import Locked, ResourceError
from scarce_cli.files import (
    as_resource_error,
    atomic_file,
    folder_lock,
    is_temporary,
    make_folder,
    make_json,
    remove_temporaries,
    require_writable,
    sha256,
    write_json,
    write_text,
)

POINTS = ("file.pre_fsync", "file.pre_rename", "file.post_rename")
OLD, NEW = "old " * 1000, "new " * 2000


def _temporaries() -> list[Path]:
    return [path for path in Path().iterdir() if is_temporary(path)]


@pytest.mark.parametrize("old", [True, False], ids=["old file", "no file"])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_the_old_file_or_the_new_one(point: str, old: bool, child: Callable) -> None:
    path = Path("a.txt")
    if old:
        write_text(path, OLD)
    assert child(lambda: write_text(path, NEW), f"{point}:1:kill") == -signal.SIGKILL
    found = path.read_text() if path.exists() else None
    assert found == (NEW if point == "file.post_rename" else OLD if old else None)
    assert remove_temporaries(Path()) == (point != "file.post_rename")
    assert _temporaries() == []


@pytest.mark.parametrize("point", POINTS)
def test_a_full_disk_is_code_8_and_leaves_no_temporary(point: str, child: Callable) -> None:
    path = Path("a.txt")
    write_text(path, OLD)
    assert child(lambda: write_text(path, NEW), f"{point}:1:enospc") == ResourceError.exit_code
    assert path.read_text() == (NEW if point == "file.post_rename" else OLD)
    assert _temporaries() == []


def test_a_pause_is_one_and_the_file_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(files.time, "sleep", slept.append)
    monkeypatch.setattr(files, "_fault_counts", files.Counter())
    monkeypatch.setenv("SCARCE_FAULT", "file.pre_fsync:2:pause")
    for _ in range(3):
        write_text(Path("a.txt"), NEW)
    assert Path("a.txt").read_text() == NEW
    assert slept == [1.0]


def test_the_fault_hits_the_nth_passage_of_its_own_point(child: Callable) -> None:
    def write_three() -> None:
        for n in (1, 2, 3):
            write_text(Path(f"{n}.txt"), NEW)

    assert child(write_three, "file.pre_rename:3:kill") == -signal.SIGKILL
    assert sorted(path.name for path in Path().glob("*.txt")) == ["1.txt", "2.txt"]
    assert child(write_three, "other.pre_rename:1:kill") == 0
    assert Path("3.txt").exists()


def test_the_order_of_calls_survives_a_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill cannot show a missing fsync; the order of the calls can: write, fsync, rename, fsync(folder)."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        size = os.fstat(descriptor).st_size
        calls.append("fsync folder" if os.path.isdir(place) else f"fsync {size} bytes")
        fsync(descriptor)

    def record_replace(old: Path, new: Path) -> None:
        calls.append(f"rename to {new.name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_text(Path("a.txt"), NEW)
    assert calls == [f"fsync {len(NEW)} bytes", "rename to a.txt", "fsync folder"]
    calls.clear()
    write_text(Path("a.txt"), OLD, durable=False)
    assert calls == ["rename to a.txt"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_while_writing_keeps_the_old_file(kind: type[BaseException]) -> None:
    path = Path("a.txt")
    write_text(path, OLD)

    def fail() -> None:
        with atomic_file(path) as handle:
            handle.write(b"half")
            raise kind

    with pytest.raises(kind):
        fail()
    assert path.read_text() == OLD
    assert _temporaries() == []


def test_a_disk_that_is_really_full_is_named_with_what_is_free() -> None:
    """On a file system of 256 KiB, in a mount of its own."""
    code = (
        "from pathlib import Path\n"
        "from scarce_cli.files import write_text\n"
        "from scarce_cli.errors import ResourceError\n"
        "write_text(Path('disk/a.txt'), 'old')\n"
        "try: write_text(Path('disk/a.txt'), 'x' * 2**20)\n"
        "except ResourceError as error: print(error.message, '|', error.remedy)\n"
        "print(*(p.name + '=' + p.read_text() for p in Path('disk').iterdir()))\n"
    )
    Path("disk").mkdir()
    script = f"mount -t tmpfs -o size=256k none disk && exec {sys.executable} -c '{code.replace(chr(39), chr(34))}'"
    command = ["unshare", "-rm", "sh", "-c", script]
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no mounts of one's own here")
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "the disk is full: cannot write disk/a.txt (0." in done.stdout, done.stderr
    assert "MiB free) | free some space, or name another folder" in done.stdout
    assert done.stdout.splitlines()[-1] == "a.txt=old"


def test_messages_say_what_cannot_be_written_and_why(tmp_path: Path) -> None:
    full = as_resource_error(OSError(errno.ENOSPC, "x"), tmp_path / "a.pt")
    assert full.message.startswith(f"the disk is full: cannot write {tmp_path}/a.pt (")
    other = as_resource_error(OSError(errno.EROFS, os.strerror(errno.EROFS)), tmp_path / "a.pt")
    assert other.message == f"cannot write {tmp_path}/a.pt: Read-only file system"
    assert full.remedy
    assert other.remedy
    Path("file").touch()
    for action in (
        lambda: make_folder(Path("file/run")),
        lambda: require_writable(Path("file")),
        lambda: write_text(Path("file/a.txt"), ""),
        lambda: write_text(Path("nowhere/a.txt"), ""),
        lambda: write_text(tmp_path, ""),
    ):
        with pytest.raises(ResourceError, match="cannot write"):
            action()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_temporaries_of_a_living_process_are_kept(child: Callable) -> None:
    alive = Path(f".a.txt.{os.getppid()}.scarce-tmp")
    dead_pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(dead_pid, 0)
    dead, odd, mine = Path(f".a.txt.{dead_pid}.scarce-tmp"), Path(".x.scarce-tmp"), Path("a.scarce-tmp.txt")
    for path in (alive, dead, odd, mine):
        path.touch()
    assert remove_temporaries(Path()) == 2
    assert (alive.exists(), dead.exists(), odd.exists(), mine.exists()) == (True, False, False, True)
    assert remove_temporaries(Path("nowhere")) == 0


def test_json_has_no_nan_and_names_need_not_be_utf8() -> None:
    write_json(Path("a.json"), {"x": [1, 0.1]})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(Path("a.json"), {"x": float("nan")})
    assert json.loads(Path("a.json").read_text()) == {"x": [1, 0.1]}
    write_text(Path("a.txt"), os.fsdecode(b"film \xff"))
    assert Path("a.txt").read_bytes() == b"film \xff"


def test_sha256_is_that_of_sha256sum() -> None:
    Path("a.txt").write_bytes(bytes(range(256)) * 5000)
    done = subprocess.run(["sha256sum", "a.txt"], capture_output=True, text=True, check=True)
    assert sha256(Path("a.txt")) == done.stdout.split()[0]


def _start_together(attempt: Callable[[int], bool], runners: int) -> list[int]:
    """Fork ``runners`` that wait for one pipe to close, then try and exit with 0 for success; their ids."""
    wait, go = os.pipe()
    pids = []
    for number in range(runners):
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(wait, 1)
            os._exit(0 if attempt(number) else 1)
        pids.append(pid)
    os.close(wait)
    os.close(go)
    return pids


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_of_several_processes_one_gets_the_lock(tmp_path: Path) -> None:
    def attempt(number: int) -> bool:
        try:
            with folder_lock(tmp_path, "a test writes there"):
                with open(tmp_path / "winners", "a") as handle:
                    handle.write(f"{number}\n")
                signal.pause()  # hold it until killed
        except Locked:
            return False
        return True

    for _ in range(20):
        winners = tmp_path / "winners"
        winners.unlink(missing_ok=True)
        pids = _start_together(attempt, 4)
        ended = [os.waitpid(-1, 0)[0] for _ in range(3)]
        (winner,) = set(pids) - set(ended)
        while not (winners.exists() and winners.read_text()):
            time.sleep(0.001)
        with pytest.raises(Locked, match=f"a test writes there .process {winner} on "):
            folder_lock(tmp_path, "a test writes there").__enter__()
        os.kill(winner, signal.SIGKILL)
        os.waitpid(winner, 0)
        assert winners.read_text() == f"{pids.index(winner)}\n"
        with folder_lock(tmp_path, "the lock died with its owner"):
            pass


def test_shared_holders_keep_an_exclusive_one_out(tmp_path: Path) -> None:
    with folder_lock(tmp_path, "x", shared=True), folder_lock(tmp_path, "x", shared=True):
        with pytest.raises(Locked) as error:
            folder_lock(tmp_path, "x").__enter__()
        assert error.value.remedy
    with folder_lock(tmp_path, "x"), pytest.raises(Locked):
        folder_lock(tmp_path, "x", shared=True).__enter__()


def test_a_lock_that_cannot_be_made_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match="cannot write nowhere/"):
        folder_lock(Path("nowhere"), "x").__enter__()

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.raises(ResourceError, match="No locks available"):
        folder_lock(tmp_path, "x").__enter__()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_of_several_processes_one_makes_the_json(monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(10):
        path = Path(f"{n}.json")
        pids = _start_together(lambda number, path=path: make_json(path, {"winner": number}), 4)
        winners = [n for n, pid in enumerate(pids) if os.waitpid(pid, 0)[1] == 0]
        assert [json.loads(path.read_text())["winner"]] == winners
    assert _temporaries() == []

    def no_links(*names: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    assert (make_json(Path("x.json"), {"n": 1}), make_json(Path("x.json"), {"n": 2})) == (True, False)
    assert json.loads(Path("x.json").read_text()) == {"n": 1}
