"""What is no checkpoint of ours: never executed, never unfolded, refused with its code, path and remedy."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scarce_cli import checkpoint
from scarce_cli.checkpoint import EncoderInfo, digest_path, load, load_encoder, save
from scarce_cli.errors import DamagedData, ResourceError, UnsafeInput, UsageError
from scarce_cli.files import sha256
from tests.hostile import torch_tar

PATH = Path("a.pt")


INFO = {"backbone": "resnet18", "size": 32, "mean": 0.5, "std": 0.25}
ORIGIN = {"method": "spark", "step": 1, "epoch": 1, "seed": 0, "data": {}}


def _save(encoder: dict[str, torch.Tensor]) -> None:
    save(PATH, encoder=encoder, info=EncoderInfo(**INFO), origin=ORIGIN)  # type: ignore[arg-type]


class _Evil:
    """Pickled, this touches a file when it is unpickled without care."""

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {Path.cwd() / 'marker'}",))


def _payload() -> dict:
    return {"format": checkpoint.FORMAT, "encoder": {"w": _Evil()}, "info": {}, "origin": {}, "state": None}


def _legacy(protocol: int) -> bytes:
    return pickle.dumps(_payload(), protocol=protocol)


def _zip(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr("archive/" + name.replace("__", "/").replace("_dot_", "."), data)
    return buffer.getvalue()


def _torch_zip(legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(_payload(), buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _tar() -> bytes:
    return torch_tar(_legacy(2))


def _torchscript() -> bytes:
    return _zip(code____torch__=b"import os", constants_dot_pkl=_legacy(2), data_dot_pkl=_legacy(2), version=b"3")


HOSTILE: dict[str, Callable[[], bytes]] = {
    "zip pickle": _torch_zip,
    "legacy torch.save": lambda: _torch_zip(legacy=True),
    **{f"bare pickle {n}": lambda n=n: _legacy(n) for n in (2, 3, 4, 5)},
    "tar": _tar,
    "TorchScript": _torchscript,
    "pt2": lambda: _zip(archive_format=b"pt2", data__weights__w=b"", models__model_dot_json=b"{}"),
    "pt2 with a library": lambda: _zip(data_dot_pkl=_legacy(2), data__aotinductor__model_dot_so=b"\x7fELF"),
    "zip pickle 0": lambda: _zip(data_dot_pkl=_legacy(0), version=b"3", byteorder=b"little"),
}


@pytest.mark.parametrize("listed", [False, True], ids=["no digest", "digest that fits"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_could_execute_code_is_refused_and_not_executed(
    kind: str, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[bool] = []
    torch_load = torch.load

    def record(*arguments: object, weights_only: bool, **more: object) -> object:
        tries.append(weights_only)
        return torch_load(*arguments, weights_only=weights_only, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "load", record)
    path = Path("evil.pt")
    path.write_bytes(HOSTILE[kind]())
    if listed:
        digest_path(path).write_text(f"{sha256(path)}  evil.pt\n")
    for reader in (load, load_encoder):
        with pytest.raises(UnsafeInput, match=r"evil\.pt") as error:
            reader(path)
        assert error.value.remedy == "scarce opens its own checkpoints only"
    assert not Path("marker").exists()
    assert False not in tries
    assert len(tries) <= 2


def test_the_payload_does_harm_where_it_is_not_refused() -> None:
    """Otherwise the test above could not fail."""
    torch.load(io.BytesIO(HOSTILE["zip pickle"]()), weights_only=False)
    assert Path("marker").exists()


@pytest.mark.parametrize("protocol", [0, 1])
def test_the_oldest_pickles_begin_like_any_text_and_are_not_opened(protocol: int) -> None:
    Path("old.pt").write_bytes(_legacy(protocol))
    with pytest.raises(UsageError, match=r"old\.pt is not a checkpoint"):
        load(Path("old.pt"))
    assert not Path("marker").exists()


def _bomb() -> bytes:
    """An entry that says it unfolds to 2**31 bytes."""
    data = bytearray(_zip(data_dot_pkl=b"x" * 10))
    place = data.index(b"PK\x01\x02")
    data[place + 20 : place + 28] = (2**31 - 1).to_bytes(4, "little") * 2
    return bytes(data)


def _packed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    return buffer.getvalue()


def _unfolding(tensor: torch.Tensor) -> bytes:
    _save({"w": tensor})
    return PATH.read_bytes()


BOMBS: dict[str, Callable[[], bytes]] = {
    "forged size": _bomb,
    "compressed": _packed,
    "10**12 values on one": lambda: _unfolding(torch.zeros(1).expand(10**6, 10**6)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_that_declares_more_than_it_holds_is_refused(kind: str) -> None:
    Path("bomb.pt").write_bytes(BOMBS[kind]())
    with pytest.raises(UnsafeInput, match=r"bomb\.pt.* declares more than it holds"):
        load_encoder(Path("bomb.pt"))


def _somebody_elses() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, buffer)
    return buffer.getvalue()


def _tensor_alone() -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.zeros(3), buffer)
    return buffer.getvalue()


def _changed(**changes: object) -> bytes:
    payload = {"format": checkpoint.FORMAT, "encoder": {}, "info": {}, "origin": {}, "state": None, **changes}
    buffer = io.BytesIO()
    torch.save({key: value for key, value in payload.items() if value != "absent"}, buffer)
    return buffer.getvalue()


WRONG_INFO = [("size", 10**9), ("size", 0), ("size", 32.0), ("std", 0.0), ("std", float("nan"))]
WRONG_INFO += [("mean", float("inf")), ("mean", "grey"), ("backbone", ["resnet18"])]
NOT_OURS: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"these are labels, not weights\n" * 50,
    "empty": lambda: b"",
    "one byte": lambda: b"P",
    "png": lambda: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "some zip": lambda: _zip(word__document_dot_xml=b"<x/>"),
    "state dict": _somebody_elses,
    "tensor": _tensor_alone,
    "later format": lambda: _changed(format="scarce-checkpoint-2"),
    "missing part": lambda: _changed(origin="absent"),
    "info that does not fit": lambda: _changed(info={"backbone": "resnet18", "colour": 3}),
    "encoder that is none": lambda: _changed(encoder=[1, 2]),
    "encoder of numbers": lambda: _changed(encoder={"w": 1.0}),
    "method that is a list": lambda: _changed(info=INFO, origin={**ORIGIN, "method": ["spark"]}),
    "seed that is text": lambda: _changed(info=INFO, origin={**ORIGIN, "seed": "9" * 5000}),
    "data that is text": lambda: _changed(info=INFO, origin={**ORIGIN, "data": "films"}),
    **{
        f"{key} of {value}": lambda key=key, value=value: _changed(info={**INFO, key: value}, origin=ORIGIN)
        for key, value in WRONG_INFO
    },
}


def test_the_parts_that_are_forged_below_are_taken_where_they_are_right() -> None:
    Path("a.pt").write_bytes(_changed(info=INFO, origin=ORIGIN, encoder={"w": torch.zeros(2)}))
    saved = load_encoder(Path("a.pt"))
    assert (saved.info, saved.method, saved.seed) == (EncoderInfo("resnet18", 32, 0.5, 0.25), "spark", 0)


@pytest.mark.parametrize("kind", NOT_OURS)
def test_what_is_not_a_checkpoint_is_code_2_with_path_and_remedy(kind: str) -> None:
    Path("other.pt").write_bytes(NOT_OURS[kind]())
    with pytest.raises(UsageError, match=r"other\.pt is not a checkpoint") as error:
        load_encoder(Path("other.pt"))
    assert error.value.remedy


def test_a_folder_and_a_missing_file_are_code_2() -> None:
    Path("run").mkdir()
    for path, why in ((Path("run"), "run is a folder"), (Path("run/x.pt"), "run/x.pt does not exist")):
        with pytest.raises(UsageError, match=f"the checkpoint {why}") as error:
            load(path)
        assert "last.pt" in error.value.remedy


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    weights = torch.zeros(3, 3)
    weights[1, 2] = value
    _save({"good": torch.zeros(2), "layer1.0.conv1.weight": weights})
    load(PATH)
    with pytest.raises(DamagedData, match=r"a\.pt: the weights 'layer1\.0\.conv1\.weight' are not finite"):
        load_encoder(PATH)


def test_a_file_that_may_not_be_read_is_code_8(monkeypatch: pytest.MonkeyPatch) -> None:
    _save({"w": torch.arange(100.0)})

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ResourceError, match=r"cannot read a\.pt: Permission denied"):
        load(PATH)


def test_any_bytes_in_place_of_a_checkpoint_give_a_message() -> None:
    """Every part of the archive overwritten at random, without a digest: never a traceback."""
    _save({"w": torch.arange(100.0)})
    digest_path(PATH).unlink()
    whole, rng = PATH.read_bytes(), random.Random(2)
    for _ in range(200):
        data = bytearray(whole)
        place, length = rng.randrange(len(data)), rng.choice((1, 4, 40))
        data[place : place + length] = rng.randbytes(length)
        PATH.write_bytes(data)
        with contextlib.suppress(DamagedData, UnsafeInput, UsageError):
            load_encoder(PATH)


def _laughs(depth: int) -> list:
    """A few hundred bytes that are 2**depth elements when somebody writes them out."""
    value: list = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


@pytest.mark.parametrize("place", ["origin", "info", "encoder", "format"])
def test_values_that_unfold_are_never_written_out(place: str) -> None:
    deep = _laughs(60)
    changes = {
        "origin": {"info": INFO, "origin": {**ORIGIN, "method": deep}},
        "info": {"info": {**INFO, "backbone": deep}, "origin": ORIGIN},
        "encoder": {"info": INFO, "origin": ORIGIN, "encoder": {"w": deep}},
        "format": {"format": deep},
    }
    PATH.write_bytes(_changed(**changes[place]))
    with pytest.raises(UsageError, match=r"a\.pt is not a checkpoint"):
        load_encoder(PATH)


def _with_another_pickle(archive: bytes, change: Callable[[bytearray], None]) -> bytes:
    """The archive with its pickle changed and its check sums right: as somebody who knows would forge it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = bytearray(old.read(name))
            if name.endswith("data.pkl"):
                change(data)
            new.writestr(name, bytes(data))
    return buffer.getvalue()


def _mutate(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place] = rng.randrange(256)
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.choice((1, 4, 8)))
        else:
            del data[place : place + rng.choice((1, 3))]


def test_500_forged_pickles_are_refused_or_harmless_in_bounded_memory(child: Callable) -> None:
    """Shapes, sizes, strides, types and names changed at random, check sums right."""
    _save({"conv1.weight": torch.arange(640.0).reshape(64, 1, 10), "bn1.num_batches_tracked": torch.tensor(3)})
    digest_path(PATH).unlink()
    whole = PATH.read_bytes()

    def load_all() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rng, refused = random.Random(3), 0
        for _ in range(500):
            PATH.write_bytes(_with_another_pickle(whole, lambda data: _mutate(rng, data)))
            try:
                saved = load_encoder(PATH)
            except (DamagedData, UnsafeInput, UsageError):
                refused += 1
            else:
                assert sum(tensor.nbytes for tensor in saved.state.values()) <= len(whole)
        assert 400 < refused < 500
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB

    assert child(load_all) == 0


NOT_PLAIN: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.empty((10**6, 10**6), device="meta"),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_a_tensor_that_is_not_plain_numbers_is_refused(kind: str) -> None:
    _save({"w": NOT_PLAIN[kind]()})
    with pytest.raises(UnsafeInput, match=r"a\.pt: 'w' is no plain tensor"):
        load_encoder(PATH)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.zeros(3), UsageError),
        (torch.zeros((2, 2), dtype=torch.int64), UsageError),
        ([1, 2], UsageError),
        (torch.zeros(1, dtype=torch.int64).expand(1 << 40), UnsafeInput),
    ],
    ids=["float", "table", "list", "unfolds"],
)
def test_films_it_was_trained_on_are_a_row_of_keys(value: object, kind: type[Exception]) -> None:
    encoder = {"w": torch.ones(2)}
    save(PATH, encoder=encoder, info=EncoderInfo(**INFO), origin={**ORIGIN, "trained_on": value})  # type: ignore[arg-type]
    with pytest.raises(kind):
        load_encoder(PATH)
