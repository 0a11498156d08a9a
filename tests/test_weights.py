"""Weights to start from: the same features as the file's own network, from every format; all else refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import resource
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from scarce_cli import checkpoint
from scarce_cli.checkpoint import EncoderInfo
from scarce_cli.errors import DamagedData, ResourceError, ScarceError, UnsafeInput, UsageError
from scarce_cli.files import sha256
from scarce_cli.models.resnet import Encoder, build_encoder
from scarce_cli.weights import read_weights
from tests.hostile import torch_tar

State = dict[str, Tensor]
SMALL = {
    "conv1.weight": torch.zeros(4, 1, 3, 3),
    "bn1.bias": torch.zeros(4),
    "bn1.num_batches_tracked": torch.tensor(0),
}


def _network(backbone: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """torchvision's own, with running statistics that are not those of a new one."""
    torch.manual_seed(1)
    network = getattr(torchvision.models, backbone)(weights=None).to(dtype)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn_like(buffer))
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return network.eval()


def _as_own_checkpoint(state: State, path: Path) -> None:
    origin = {"method": "spark", "step": 1, "epoch": 1, "seed": 0, "data": {}}
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    state["conv1.weight"] = state["conv1.weight"].sum(dim=1, keepdim=True)
    checkpoint.save(path, encoder=state, info=EncoderInfo("resnet18", 32, 0.5, 0.25), origin=origin)


FORMATS: dict[str, Callable[[State, Path], None]] = {
    "zip.pth": torch.save,
    "old.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "some.safetensors": save_file,
    "safetensors.bin": save_file,
    "last.pt": _as_own_checkpoint,
}


@pytest.mark.parametrize("name", FORMATS)
def test_one_channel_gives_what_three_of_the_same_did(name: str) -> None:
    network, path = _network("resnet18"), Path(name)
    FORMATS[name](dict(network.state_dict()), path)
    encoder = build_encoder("resnet18", seed=0)
    found = read_weights(path, encoder.state_dict(), "resnet18")
    encoder.load_state_dict(found.state)
    network.fc = torch.nn.Identity()
    x_B1HW = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        wanted, features = network(x_B1HW.expand(-1, 3, -1, -1)), encoder.eval()(x_B1HW)
    torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)
    assert wanted.std() > 0.01
    assert found.digest == sha256(path)
    assert found.state.keys() == encoder.state_dict().keys()
    for key, value in network.state_dict().items():
        if key != "conv1.weight":
            assert torch.equal(found.state[key], value), key


def test_it_is_exact_in_float64_and_for_resnet50() -> None:
    network = _network("resnet50", torch.float64)
    torch.save(network.state_dict(), "a.pth")
    encoder = Encoder("resnet50").double()
    encoder.load_state_dict(read_weights(Path("a.pth"), encoder.state_dict(), "resnet50").state)
    network.fc = torch.nn.Identity()
    x_B1HW = torch.randn(2, 1, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        wanted = network(x_B1HW.expand(-1, 3, -1, -1))
        torch.testing.assert_close(encoder.eval()(x_B1HW), wanted, rtol=1e-9, atol=1e-12)


def test_half_precision_and_files_without_counters_are_taken() -> None:
    state = {name: value for name, value in _network("resnet18").half().state_dict().items() if "tracked" not in name}
    torch.save(OrderedDict(state), "a.pth")
    found = read_weights(Path("a.pth"), build_encoder("resnet18", seed=0).state_dict(), "resnet18").state
    assert {value.dtype for name, value in found.items() if "tracked" not in name} == {torch.float32}
    assert torch.equal(found["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"].float())
    assert int(found["bn1.num_batches_tracked"]) == 0


def _read(path: Path | str, wanted: State = SMALL) -> State:
    return read_weights(Path(path), wanted, "resnet18").state


def test_another_network_names_the_first_keys() -> None:
    torch.save(_network("resnet50").state_dict(), "r50.pth")
    with pytest.raises(UsageError) as error:
        _read("r50.pth", build_encoder("resnet18", seed=0).state_dict())
    assert error.value.message.startswith("r50.pth holds no weights of a resnet18; ")
    five = "conv3.weight, bn3.weight, bn3.bias, bn3.running_mean, bn3.running_var".replace(", ", ", layer1.0.")
    assert f"unknown: layer1.0.{five} and " in error.value.message
    assert "other shape or type: layer1.0.conv1.weight, layer1.1.conv1.weight, " in error.value.message
    assert error.value.message.endswith("; these are names of a resnet50: --set model.backbone=resnet50")
    assert error.value.remedy == (
        "name a local file (nothing is downloaded): torchvision's resnet18 as .pth or .safetensors, or a checkpoint's"
    )
    torch.save({"fc.weight": torch.zeros(2, 2), "bn1.bias": torch.zeros(4), "bn1.num_batches_tracked": 0.5}, "b.pth")
    with pytest.raises(
        UsageError, match=r"b\.pth is not a plain state dict of tensors; it holds fc.weight, bn1.bias, "
    ):
        _read("b.pth")
    torch.save({"bn1.bias": torch.zeros(4)}, "c.pth")
    with pytest.raises(UsageError) as error:
        _read("c.pth")
    assert error.value.message.endswith("; missing: conv1.weight")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conv1.weight", torch.zeros(4, 2, 3, 3)),
        ("conv1.weight", torch.zeros(4, 3, 3, 4)),
        ("conv1.weight", torch.zeros(4, 1, 3, 3, dtype=torch.int64)),
        ("bn1.bias", torch.zeros(1)),
        ("bn1.num_batches_tracked", torch.tensor(0.5)),
    ],
)
def test_other_shapes_and_types_are_named(name: str, value: Tensor) -> None:
    torch.save({**SMALL, name: value}, "a.pth")
    with pytest.raises(UsageError) as error:
        _read("a.pth")
    assert error.value.message.endswith(f"; other shape or type: {name}")


@pytest.mark.parametrize("what", [[1, 2], "text", torch.zeros(3), {"state_dict": SMALL, "epoch": 3}])
def test_what_is_no_state_dict_is_code_2(what: object) -> None:
    for new in (True, False):
        torch.save(what, "a.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(UsageError, match=r"a\.pth is not a plain state dict of tensors; it holds "):
            _read("a.pth")


def test_names_of_any_length_and_number_stay_one_short_message() -> None:
    torch.save({f"{n}-{'x' * 10**5}": torch.zeros(1) for n in range(20)}, "a.pth")
    with pytest.raises(UsageError) as error:
        _read("a.pth")
    assert len(error.value.message) < 500
    assert " and 15 more" in error.value.message


def test_no_file_a_folder_and_other_files_are_code_2() -> None:
    Path("folder.pth").mkdir()
    Path("text.pth").write_text("weights\n" * 100)
    Path("empty.pth").touch()
    for path, why in (
        ("none.pth", "the weights none.pth do not exist"),
        ("folder.pth", "the weights folder.pth are a folder"),
        ("text.pth", "text.pth is no file of weights"),
        ("empty.pth", "empty.pth is no file of weights"),
    ):
        with pytest.raises(UsageError) as error:
            _read(path)
        assert error.value.message == why
        assert "nothing is downloaded" in error.value.remedy


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "some.safetensors"])
def test_weights_that_are_not_finite_are_named(name: str, value: float) -> None:
    state = {key: tensor.clone() for key, tensor in SMALL.items()}
    state["bn1.bias"][2] = value
    FORMATS[name](state, Path(name))
    with pytest.raises(DamagedData, match=r"the weights 'bn1\.bias' are not finite"):
        _read(name)


def test_weights_that_are_finite_in_float64_alone_are_named() -> None:
    """Also where only the sum over three channels is too large."""
    wide = torch.float64
    for name, value in (
        ("bn1.bias", torch.full((4,), 1e300, dtype=wide)),
        ("conv1.weight", torch.full((4, 3, 3, 3), 2e38, dtype=wide)),
    ):
        torch.save({**SMALL, name: value}, "a.pth")
        with pytest.raises(DamagedData, match=rf"the weights '{name}' are not finite"):
            _read("a.pth")


@pytest.mark.parametrize("name", ["zip.pth", "old.pth"])
@pytest.mark.parametrize("key", ["conv1.weight", "bn1.num_batches_tracked"])
def test_a_tensor_that_holds_nothing_is_code_4(name: str, key: str) -> None:
    FORMATS[name]({**SMALL, key: SMALL[key].to("meta")}, Path(name))
    with pytest.raises(UnsafeInput, match=rf"'{key}' is no plain tensor"):
        _read(name)


@pytest.mark.parametrize("name", ["zip.pth", "some.safetensors"])
def test_a_negative_variance_is_named(name: str) -> None:
    wanted = {**SMALL, "bn1.running_var": torch.ones(4)}
    good = {**SMALL, "bn1.running_var": torch.tensor([0.0, 1, 2, 3])}
    FORMATS[name](good, Path(name))
    assert torch.equal(_read(name, wanted)["bn1.running_var"], good["bn1.running_var"])
    FORMATS[name]({**good, "bn1.running_var": torch.tensor([1.0, -1e-9, 2, 3])}, Path(name))
    with pytest.raises(DamagedData, match=r"variances 'bn1\.running_var' below zero"):
        _read(name, wanted)


class _Evil:
    """Pickled, this touches a file when it is unpickled without care."""

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {Path.cwd() / 'marker'}",))


def _saved(what: object, *, new: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(what, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def _tar() -> bytes:
    return torch_tar(pickle.dumps(_Evil()))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "zip": lambda: _saved({"conv1.weight": _Evil()}, new=True),
    "old": lambda: _saved({"conv1.weight": _Evil()}, new=False),
    **{f"bare pickle {n}": lambda n=n: pickle.dumps({"conv1.weight": _Evil()}, protocol=n) for n in (2, 3, 4, 5)},
    "a whole module": lambda: _saved(torch.nn.Linear(2, 2), new=True),
    "a whole module, old": lambda: _saved(torch.nn.Linear(2, 2), new=False),
    "tar": _tar,
}


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_may_hold_code_is_refused_and_not_executed(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[bool] = []
    torch_load = torch.load

    def record(*arguments: object, weights_only: bool, **more: object) -> object:
        tries.append(weights_only)
        return torch_load(*arguments, weights_only=weights_only, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "load", record)
    Path(name).write_bytes(HOSTILE[kind]())
    with pytest.raises((UnsafeInput, DamagedData) if name == "w.safetensors" else UnsafeInput, match=r"w\."):
        _read(name)
    assert not Path("marker").exists()
    assert tries in ([], [True])


def test_the_payload_does_harm_where_it_is_not_refused() -> None:
    """Otherwise the test above could not fail."""
    torch.load(io.BytesIO(HOSTILE["old"]()), weights_only=False)
    assert Path("marker").exists()


class _Storage:
    """Stands for the memory behind a tensor while a pickle is forged."""


class _Forged:
    def __init__(self, count: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.count, self.parts = count, (shape, stride)

    def __reduce__(self) -> tuple:
        storage = _Storage()
        storage.count = self.count  # type: ignore[attr-defined]
        return (torch._utils._rebuild_tensor_v2, (storage, 0, *self.parts, False, OrderedDict()))


def _old_file(tensors: dict[str, _Forged], keys: list[str]) -> bytes:
    """torch's old format by hand: it may declare any size, and what data follows."""

    class Writer(pickle.Pickler):
        def persistent_id(self, thing: object) -> tuple | None:
            if isinstance(thing, _Storage):
                return ("storage", torch.FloatStorage, str(thing.count), "cpu", thing.count, None)  # type: ignore[attr-defined]
            return None

    buffer = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, buffer, protocol=2)
    Writer(buffer, protocol=2).dump(tensors)
    pickle.dump(keys, buffer, protocol=2)
    return buffer.getvalue()


def _header(entry: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps({"conv1.weight": entry}).encode()
    return len(text).to_bytes(8, "little") + text + data


HUGE: dict[str, Callable[[], bytes]] = {
    "old, 40 GB that are not there": lambda: _old_file({"conv1.weight": _Forged(10**10, (10**10,), (1,))}, ["1"]),
    "old, 40 GB never filled": lambda: _old_file({"conv1.weight": _Forged(10**10, (4, 1, 3, 3), (9, 9, 3, 1))}, []),
    "old, 4 EB": lambda: _old_file({"conv1.weight": _Forged(10**18, (10**18,), (1,))}, []),
    "old, a stride of zero": lambda: _saved({**SMALL, "bn1.bias": torch.zeros(1).expand(4)}, new=False),
    "zip, a stride of zero": lambda: _saved({**SMALL, "conv1.weight": torch.zeros(1).expand(4, 1, 3, 3)}, new=True),
    "safetensors, more than the file": lambda: _header(
        {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}
    ),
    "safetensors, shape larger than its data": lambda: _header(
        {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}, bytes(4)
    ),
    "safetensors, header larger than the file": lambda: (10**12).to_bytes(8, "little") + b"{" + bytes(100),
}


@pytest.mark.parametrize("kind", HUGE)
def test_huge_declared_tensors_are_refused_and_take_no_memory(kind: str, child: Callable[..., int]) -> None:
    """In a child, whose largest size is watched."""
    path = Path("huge.safetensors" if kind.startswith("safe") else "huge.pth")
    path.write_bytes(HUGE[kind]())

    def read() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            _read(path)
        finally:
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "KiB"

    assert child(read) in (UnsafeInput.exit_code, DamagedData.exit_code)


@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "some.safetensors"])
def test_cut_and_overwritten_files_give_a_message_or_weights(name: str) -> None:
    state = {key: torch.randn(value.shape) if value.ndim else value for key, value in SMALL.items()}
    FORMATS[name](state, Path(name))
    whole, rng, path = Path(name).read_bytes(), random.Random(5), Path(f"bad-{name}")
    assert torch.equal(_read(name)["bn1.bias"], state["bn1.bias"])
    for number in range(250):
        data = bytearray(whole)
        place, length = rng.randrange(len(data)), rng.choice((1, 4, 40))
        data[place : place + length] = rng.randbytes(length)
        path.write_bytes(data[: rng.randrange(len(data))] if number % 5 == 0 else data)
        with contextlib.suppress(ScarceError):
            assert _read(path).keys() == SMALL.keys()
        if number % 5 == 0 and name != "zip.pth":
            with pytest.raises(ScarceError):
                _read(path)


def test_a_flipped_bit_in_a_zip_and_in_an_own_checkpoint_is_found() -> None:
    for name in ("zip.pth", "last.pt"):
        FORMATS[name]({**SMALL, "conv1.weight": torch.ones(4, 3, 3, 3)}, Path(name))
        data = bytearray(Path(name).read_bytes())
        data[data.index(torch.ones(4).numpy().tobytes()) if name == "zip.pth" else len(data) // 2] ^= 2
        Path(name).write_bytes(data)
        with pytest.raises(DamagedData, match="damaged"):
            _read(name)


def test_a_file_that_may_not_be_read_is_code_8(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(SMALL, "a.pth")

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ResourceError, match=r"cannot read a\.pth: Permission denied"):
        _read("a.pth")
