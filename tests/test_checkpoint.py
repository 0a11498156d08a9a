"""Checkpoints: whole after any kill and on a full disk, damage found before use."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scarce_cli import checkpoint, files
from scarce_cli.checkpoint import EncoderInfo, digest_path, load, load_encoder, save
from scarce_cli.errors import DamagedData, ResourceError, UnsafeInput, UsageError
from scarce_cli.files import is_temporary, remove_temporaries, sha256

INFO = EncoderInfo("resnet18", 32, 0.5, 0.25)
LAST, PREVIOUS = Path("last.pt"), Path("previous.pt")
POINTS = ["ckpt.pre_publish"]
POINTS += [f"{label}.{at}" for label in ("ckpt", "digest") for at in ("pre_fsync", "pre_rename", "post_rename")]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fsynced and renamed, in order. Nothing is: a kill cannot show it, and it takes most of the time."""
    made: list[str] = []
    replace = os.replace

    def name(path: str | Path) -> str:
        return re.sub(r"^\.(.*)\.\d+\.scarce-tmp$", r"new \1", Path(path).name)

    def record_replace(old: Path, new: Path) -> None:
        made.append(f"{name(old)} > {name(new)}")
        replace(old, new)

    def record_fsync(descriptor: int) -> None:
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        made.append("fsync folder" if os.path.isdir(place) else f"fsync {name(place)}")

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    return made


def _save(step: int, path: Path = LAST, **more: object) -> None:
    """A small checkpoint whose every part tells its step."""
    origin = {"method": "spark", "step": step, "epoch": step, "seed": 3, "data": {"folder": "nih-256"}}
    encoder = {"conv1.weight": torch.full((8, 1, 3, 3), float(step)), "bn1.num_batches_tracked": torch.tensor(step)}
    state = {"optimizer": {"state": {0: {"exp_avg": torch.arange(100.0) * step}}, "param_groups": [{"lr": 0.1}]}}
    arguments = {"encoder": encoder, "info": INFO, "origin": origin, "state": state, "previous": PREVIOUS}
    save(path, **{**arguments, **more})  # type: ignore[arg-type]


def _step(path: Path) -> int:
    """The step of a checkpoint that loads and passes its digest; all its parts agree."""
    payload, digest = load(path)
    step = payload["origin"]["step"]
    assert digest == sha256(path)
    assert digest in digest_path(path).read_text()
    assert (payload["encoder"]["conv1.weight"] == step).all()
    assert payload["state"]["optimizer"]["state"][0]["exp_avg"][1] == step
    return int(step)


def _temporaries() -> list[str]:
    return [path.name for path in Path().iterdir() if is_temporary(path)]


def test_what_is_saved_is_loaded_bit_for_bit() -> None:
    torch.manual_seed(0)
    encoder = {
        "a": torch.randn(3, 4, 5),
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "half": torch.randn(7).bfloat16(),
        "count": torch.tensor(2**40),
        "empty": torch.zeros(0, 3),
    }
    _save(7, encoder=encoder)
    payload, digest = load(LAST)
    assert payload["encoder"].keys() == encoder.keys()
    for name, tensor in encoder.items():
        assert torch.equal(payload["encoder"][name], tensor)
        assert payload["encoder"][name].dtype == tensor.dtype
        assert payload["encoder"][name].stride() == tensor.stride()
    saved = load_encoder(LAST)
    assert (saved.info, saved.method, saved.epoch, saved.seed) == (INFO, "spark", 7, 3)
    assert (saved.path, saved.digest, saved.data) == (LAST, digest, {"folder": "nih-256"})


def test_what_is_written_is_not_read_again_to_be_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of megabytes, between a signal and the end of the process."""
    monkeypatch.setattr(checkpoint, "sha256", pytest.fail)
    for step in (1, 2, 3):
        _save(step, encoder={"w": torch.arange(300_000.0) + step})
        assert digest_path(LAST).read_text() == f"{sha256(LAST)}  last.pt\n"


def test_sha256sum_agrees_with_the_digest_beside_it() -> None:
    _save(1)
    _save(2)
    for path in (LAST, PREVIOUS):
        done = subprocess.run(["sha256sum", "-c", digest_path(path).name], capture_output=True, text=True, check=True)
        assert done.stdout == f"{path}: OK\n"
    assert (_step(LAST), _step(PREVIOUS)) == (2, 1)
    assert sorted(os.listdir()) == ["last.pt", "last.pt.sha256", "previous.pt", "previous.pt.sha256"]


def test_the_order_of_calls_survives_a_power_cut(calls: list[str]) -> None:
    """The new one is on disk before the previous one is touched; digests are right before and after a rename."""

    def written(name: str) -> list[str]:
        return [f"fsync new {name}", f"new {name} > {name}", "fsync folder"]

    digest, kept = written("last.pt.sha256"), written("previous.pt.sha256")
    _save(1)
    assert calls == ["fsync new last.pt", *digest, *written("last.pt"), *digest]
    calls.clear()
    _save(2)
    keep = [*kept, "new previous.pt > previous.pt", "fsync folder", *kept]
    assert calls == ["fsync new last.pt", *keep, *digest, *written("last.pt"), *digest]


@pytest.mark.parametrize("old", [0, 2], ids=["first save", "two before"])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_while_saving_leaves_a_checkpoint_that_loads(point: str, old: int, child: Callable) -> None:
    """Three saves, killed at the first, second and third passage of the point."""
    for count in (1, 2, 3):
        for path in Path().iterdir():
            path.unlink()
        for step in range(1, old + 1):
            _save(step)
        ended = child(lambda: [_save(step) for step in (old + 1, old + 2, old + 3)], f"{point}:{count}:kill")
        assert ended == -signal.SIGKILL
        assert LAST.exists() or old == 0
        if LAST.exists():
            assert _step(LAST) >= old
        if PREVIOUS.exists():
            assert _step(PREVIOUS) in (_step(LAST) - 1, _step(LAST))
        remove_temporaries(Path())
        assert _temporaries() == []
        _save(9)
        assert _temporaries() == []
        assert _step(LAST) == 9
        assert digest_path(LAST).read_text() == f"{sha256(LAST)}  last.pt\n"


@pytest.mark.parametrize("point", POINTS)
def test_kill_after_kill_never_costs_the_last_good_one(point: str, child: Callable) -> None:
    _save(1)
    for step in range(2, 7):
        assert child(lambda step=step: _save(step), f"{point}:1:kill") == -signal.SIGKILL
        assert _step(LAST) in (1, step)
        if PREVIOUS.exists():
            assert _step(PREVIOUS) in (1, step - 1)


@pytest.mark.parametrize("point", POINTS)
def test_a_full_disk_while_saving_is_code_8_and_keeps_both(point: str) -> None:
    _save(1)
    _save(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCARCE_FAULT", f"{point}:1:enospc")
        files._fault_counts.clear()
        with pytest.raises(ResourceError, match=r"the disk is full: cannot write (last|previous)\.pt"):
            _save(3)
    assert _step(LAST) in (2, 3)
    assert _step(PREVIOUS) in (1, 2)
    assert _temporaries() == []


@pytest.mark.parametrize("values", [10, 10**6], ids=["found when flushed", "found by torch"])
def test_a_write_that_cannot_be_finished_is_code_8(values: int, child: Callable) -> None:
    """A limit on the size of files: in the midst of a tensor torch reports a position that does not match."""

    def save_limited() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150 * values, resource.RLIM_INFINITY))
        _save(2, encoder={f"w{n}": torch.zeros(values) for n in range(50)})

    _save(1)
    assert child(save_limited) == ResourceError.exit_code
    assert _step(LAST) == 1
    assert _temporaries() == []
    assert not PREVIOUS.exists()


def test_a_folder_in_the_way_is_code_8() -> None:
    LAST.mkdir()
    with pytest.raises(ResourceError, match=r"cannot write last\.pt"):
        _save(1)
    with pytest.raises(ResourceError, match=r"cannot write nowhere/last\.pt"):
        _save(1, Path("nowhere/last.pt"), previous=None)
    assert _temporaries() == []


def test_without_links_the_previous_one_is_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*names: Path) -> None:
        raise PermissionError(1, "no links on this file system")

    monkeypatch.setattr(os, "link", no_links)
    for step in (1, 2, 3):
        _save(step)
    assert (_step(LAST), _step(PREVIOUS)) == (3, 2)


def test_damage_is_not_signed_when_the_damaged_one_becomes_the_previous() -> None:
    _save(1)
    _flip(LAST, 8 * LAST.read_bytes().index(torch.ones(9).numpy().tobytes()))
    _save(2)
    assert _step(LAST) == 2
    with pytest.raises(DamagedData, match=r"previous\.pt is damaged: its SHA-256"):
        load(PREVIOUS)


def test_a_checkpoint_replaced_while_it_is_opened_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    _save(1)
    listed = checkpoint.listed_digests

    def save_between(path: Path) -> list[str]:
        monkeypatch.setattr(checkpoint, "listed_digests", listed)
        _save(2)
        return listed(path)

    monkeypatch.setattr(checkpoint, "listed_digests", save_between)
    assert load(LAST)[0]["origin"]["step"] == 2


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_reader_beside_a_writer_sees_whole_checkpoints_only() -> None:
    _save(1)
    pid = os.fork()
    if pid == 0:
        try:
            for step in range(2, 60):
                _save(step)
        finally:
            os._exit(0)
    steps = []
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        payload, _ = load(LAST)
        steps.append(payload["origin"]["step"])
        assert (payload["encoder"]["conv1.weight"] == steps[-1]).all()
    assert len(set(steps)) > 5
    assert steps == sorted(steps)


def _flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_any_of_300_flipped_bits_is_found() -> None:
    _save(1)
    whole, rng = LAST.read_bytes(), random.Random(0)
    for bit in [0, 1, 8 * len(whole) - 1, *(rng.randrange(8 * len(whole)) for _ in range(297))]:
        LAST.write_bytes(whole)
        _flip(LAST, bit)
        with pytest.raises(DamagedData, match=r"last\.pt is damaged: its SHA-256 is .*last\.pt\.sha256 says") as error:
            load(LAST)
        assert "previous.pt" in error.value.remedy


def test_any_of_100_truncations_is_found() -> None:
    _save(1)
    whole, rng = LAST.read_bytes(), random.Random(0)
    for size in [0, 1, 4, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(96))]:
        LAST.write_bytes(whole[:size])
        with pytest.raises(DamagedData, match=r"last\.pt is damaged"):
            load(LAST)


def test_a_copy_without_its_digest_is_accepted_and_checked_by_the_archives_own_sums() -> None:
    _save(4)
    digest_path(LAST).unlink()
    assert load(LAST)[0]["origin"]["step"] == 4
    digest_path(LAST).write_bytes(b"\xff\xfe")  # unreadable: as if it were not there
    assert load(LAST)[0]["origin"]["step"] == 4
    whole, rng, refused = LAST.read_bytes(), random.Random(1), 0
    for bit in [rng.randrange(8 * len(whole)) for _ in range(60)]:
        LAST.write_bytes(whole)
        _flip(LAST, bit)
        try:
            payload, _ = load(LAST)
        except (DamagedData, UnsafeInput, UsageError):
            refused += 1
        else:  # padding and such: nothing that is used
            assert (payload["encoder"]["conv1.weight"] == 4).all()
            assert payload["state"]["optimizer"]["state"][0]["exp_avg"][1] == 4
    assert refused > 20
