"""Everything a run needs to go on, packed into a checkpoint and taken out again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scarce_cli import checkpoint
from scarce_cli.checkpoint import EncoderInfo
from scarce_cli.config import RunConfig, Settings
from scarce_cli.data.cache import Cache
from scarce_cli.engine.device import LossScaler
from scarce_cli.engine.film_keys import joined_keys
from scarce_cli.engine.optim import restore_optimizer
from scarce_cli.errors import DamagedData, UsageError
from scarce_cli.methods import method_class
from scarce_cli.methods.base import Method
from scarce_cli.models.ranks import world_size
from scarce_cli.models.resnet import build_encoder
from scarce_cli.runs import RunFolder

# These say where and how often, not what is learned; they may differ on resume.
_FREE = {
    ("data", "cache"),
    ("run", "device"),
    ("run", "gpu_memory"),
    ("run", "gpu_price"),
    ("run", "checkpoint_minutes"),
    ("run", "checkpoint_steps"),
    ("run", "log_steps"),
    ("run", "snapshot_epochs"),
    ("monitor", "steps"),
    ("monitor", "films"),
    ("monitor", "on_collapse"),
    ("monitor", "grace"),
}

_NAMED = 5  # names in a message


@dataclass
class TrainState:
    """The objects that change while training."""

    method: Method
    optimizer: torch.optim.Optimizer
    scaler: LossScaler
    init_digest: str = ""  # SHA-256 of the file that the encoder started from; "": drawn by the seed, or not looked at
    trained_on: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # see `SavedEncoder`
    step: int = 0  # steps done
    bad_in_a_row: int = 0  # steps skipped for a non-finite loss, without a good one between
    bad_steps: int = 0
    rescaled_steps: int = 0  # steps left out by fp16's scaler, which found a better scale
    epoch_sums: dict[str, list[float]] = field(default_factory=dict)  # metric -> [sum, count], running epoch
    seconds: float = 0.0  # of training, over all sessions
    vitals: dict[str, Any] = field(default_factory=dict)  # what the monitor saw, as plain values

    @property
    def parameters(self) -> int:
        """How many weights are trained."""
        return sum(p.numel() for _, p in self.method.trained_parameters())

    @property
    def machine(self) -> dict[str, str]:
        """What the bits of a run depend on beside its settings."""
        device = next(self.method.parameters()).device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        machine = {"device": name, "threads": str(torch.get_num_threads()), "torch": str(torch.__version__)}
        return {**machine, "processes": str(world_size())}


@dataclass(frozen=True)
class Identity:
    """What a run is: written into each of its checkpoints, compared on resume."""

    method: str
    preset: str
    config: RunConfig
    cache: Cache

    def info(self) -> EncoderInfo:
        """What the encoder wants to see."""
        data = self.config.data
        return EncoderInfo(self.config.model.backbone, data.size, data.mean, data.std)

    def origin(self, step: int, epoch: int) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {
            "method": self.method,
            "preset": self.preset,
            "step": step,
            "epoch": epoch,
            "seed": self.config.run.seed,
            "settings": self.config.model_dump(mode="json"),
            "data": {
                "folder": str(self.cache.folder.resolve()),
                "digest": self.cache.digest,
                "films": len(self.cache.names),
            },
        }


def _origin(identity: Identity, state: TrainState, epoch: int) -> dict[str, Any]:
    more = {"init_digest": state.init_digest, "vitals": state.vitals, "trained_on": state.trained_on}
    return {**identity.origin(state.step, epoch), **more}


def save_run(run: RunFolder, identity: Identity, state: TrainState, epoch: int) -> None:
    """Write ``last.pt``; what it replaces becomes ``previous.pt``."""
    checkpoint.save(
        run.last,
        encoder=state.method.evaluation_encoder().state_dict(),
        info=identity.info(),
        origin=_origin(identity, state, epoch),
        state={
            "method": state.method.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "bad_in_a_row": state.bad_in_a_row,
            "bad_steps": state.bad_steps,
            "rescaled_steps": state.rescaled_steps,
            "epoch_sums": state.epoch_sums,
            "seconds": state.seconds,
            "torch_rng": torch.get_rng_state(),
            "machine": state.machine,
        },
        previous=run.previous,
    )


def save_snapshot(path: Path, identity: Identity, state: TrainState, epoch: int) -> None:
    """Write the encoder alone."""
    checkpoint.save(
        path,
        encoder=state.method.evaluation_encoder().state_dict(),
        info=identity.info(),
        origin=_origin(identity, state, epoch),
    )


def restore_newest(run: RunFolder, identity: Identity, state: TrainState, *, override: bool = False) -> list[str]:
    """Load the run's newest undamaged checkpoint; returns warnings for the user.

    Where ``last.pt`` is damaged or missing ``previous.pt`` is used, and the damaged one set aside.

    Raises:
        DamagedData: neither can be used.
        UsageError: other settings or data than the run's, unless ``override`` makes that a warning.
    """
    if not run.last.exists() and not run.previous.exists():
        return ["the run has no checkpoint yet: it starts from the beginning"]
    damaged = []
    for path in (run.last, run.previous):
        if not path.exists():
            continue
        try:
            warnings = _restore(path, identity, state, override)
        except DamagedData as error:
            damaged.append(error.message)
        else:
            return [*_passed_over(run, path, damaged), *warnings]
    raise DamagedData("; ".join(damaged), _afresh(run))


def _passed_over(run: RunFolder, used: Path, damaged: Sequence[str]) -> list[str]:
    """Why ``used`` is not the newest checkpoint, if it is not; a damaged newest one is set aside."""
    if used == run.last:
        return []
    if not damaged:
        return [f"{run.last} is missing: going on from {used.name}"]
    aside = run.last.with_name(f"{run.last.name}.damaged")
    run.last.replace(aside)
    return [f"{damaged[0]}; set aside as {aside.name}, going on from {used.name}"]


def _afresh(run: RunFolder) -> str:
    """What can be done when no checkpoint of a run can be used."""
    snapshots = run.snapshots()
    begin = f"from its newest encoder: --init {snapshots[-1]} --out ANOTHER" if snapshots else "anew: --out ANOTHER"
    return f"put back a copy of one of them if there is any, or start another run {begin}"


def _restore(path: Path, identity: Identity, state: TrainState, override: bool) -> list[str]:
    """Load a checkpoint into ``state``; warns of what may keep the run from being bit-identical."""
    payload, _ = checkpoint.load(path)
    saved = payload["state"]
    if saved is None:
        raise UsageError(f"{path} holds an encoder only", "resume from the run's last.pt")
    changed = _changes(payload["origin"], identity, state)
    if changed and not override:
        raise UsageError(
            f"{path} was trained with other settings: {'; '.join(changed)}",
            "resume with the run's own settings, go on with the new ones by --override, or start another with --out",
        )
    _load_weights(state.method, saved["method"], path)
    name = payload["origin"]["settings"]["optimizer"]["name"]
    if name == identity.config.optimizer.name:
        restore_optimizer(state.optimizer, saved["optimizer"])
    else:
        changed = [*changed, "the moments of the optimizer begin anew"]
    if saved["scaler"]:  # nothing is saved of one that does nothing
        state.scaler.load_state_dict(saved["scaler"])
    state.step = int(payload["origin"]["step"])
    state.init_digest = payload["origin"].get("init_digest", "")
    state.bad_in_a_row, state.bad_steps = int(saved["bad_in_a_row"]), int(saved["bad_steps"])
    state.rescaled_steps = int(saved.get("rescaled_steps", 0))  # older checkpoints do not count them
    state.epoch_sums = saved["epoch_sums"]
    state.seconds = float(saved.get("seconds", 0.0))
    state.vitals = payload["origin"].get("vitals", {})
    state.trained_on = joined_keys(state.trained_on, checkpoint.film_keys(path, payload["origin"].get("trained_on")))
    torch.set_rng_state(saved["torch_rng"])
    changes = _differences({"processes": "1", **saved["machine"]}, state.machine)
    warnings = [f"the resumed run is not bit-identical: {'; '.join(changes)}"] if changes else []
    return [*([f"going on with other settings: {'; '.join(changed)}"] if changed else []), *warnings]


def _load_weights(method: Method, weights: Mapping[str, Any], path: Path) -> None:
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        now = method.state_dict()
        names = [name for name in {**now, **weights} if not _same_shape(now.get(name), weights.get(name))]
        if not names:
            raise
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise UsageError(
            f"{path}: the weights do not fit: {', '.join(names[:_NAMED])}{more}",
            "go on with the network and the settings that the run was started with",
        ) from error


def _same_shape(one: Any, other: Any) -> bool:
    return one is not None and other is not None and getattr(one, "shape", None) == getattr(other, "shape", None)


def _changes(origin: Mapping[str, Any], identity: Identity, state: TrainState) -> list[str]:
    """What is not as it was when the checkpoint was written, in words."""
    now = identity.origin(0, 0)
    changes = [f"method: {origin['method']} -> {now['method']}"] if origin["method"] != now["method"] else []
    changes += _differences(_with_defaults(origin["settings"], state.method.settings_type), now["settings"])
    if origin["data"]["digest"] != now["data"]["digest"]:
        changes.append(f"films of {origin['data']['folder']} -> films of {now['data']['folder']}")
    old = origin.get("init_digest", "")
    if state.init_digest and state.init_digest != old:
        changes.append(f"SHA-256 of {identity.config.model.init}: {old[:12]}… -> {state.init_digest[:12]}…")
    return changes


def _with_defaults(settings: Mapping[str, Any], kind: type[Settings]) -> Mapping[str, Any]:
    """The settings of a checkpoint; what a later version added has its default, which is what was done before."""
    try:
        own = kind.model_validate_json(json.dumps(settings["method"]))
        whole = RunConfig.model_validate_json(json.dumps(settings))
    except (KeyError, TypeError, ValueError):
        return settings
    return {**whole.model_dump(mode="json"), "method": own.model_dump(mode="json")}


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> list[str]:
    changes = []
    for key in sorted({*saved, *now}):
        old, new, name = saved.get(key), now.get(key), (*prefix, key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += _differences(old, new, name)
        elif old != new and name not in _FREE:
            changes.append(f"{'.'.join(name)}: {old} -> {new}")
    return changes


def load_method(path: Path) -> tuple[Method, EncoderInfo, Mapping[str, Any]]:
    """Rebuild the method of a run's checkpoint, in evaluation mode, with its origin.

    Raises:
        UsageError: the checkpoint holds an encoder only, or its weights do not fit.
        DamagedData, UnsafeInput: as `checkpoint.load_encoder`.
    """
    payload, digest = checkpoint.load(path)
    saved = checkpoint.encoder_of(payload, digest, path)  # checks what it holds, tensor by tensor
    if payload["state"] is None:
        raise UsageError(f"{path} holds an encoder only", "name the run's last.pt")
    kind = method_class(saved.method)
    try:
        settings = kind.settings_type.model_validate_json(json.dumps(payload["origin"]["settings"]["method"]))
        weights = payload["state"]["method"]
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{path} is not a checkpoint of this version of scarce", "pretrain again") from None
    method = kind.build(build_encoder(saved.info.backbone, seed=0), settings, saved.info.size)  # type: ignore[arg-type]
    _load_weights(method, weights, path)
    return method.eval(), saved.info, payload["origin"]
