"""06_spark_densify and 06_spark_e2e: mask tokens and projections, and the whole of SparK."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor, nn

from scarce_cli.methods.settings import SparKSettings
from scarce_cli.methods.spark import SparK, reconstruction_loss, visible_count
from scarce_cli.models.light_decoder import Densify, Norm
from scarce_cli.models.sparse import STRIDE, VisiblePatches, packed_stages
from tests.official.common import Data, Family, close, close_f32
from tests.official.spark_encoder import COUNTERS, recipe_encoder

_NORMS: tuple[Norm, ...] = ("none", "bn", "ln")
_NAMES = (  # theirs, ours
    (r"^densify_norms\.", "densify.norms."),
    (r"^densify_projs\.", "densify.projections."),
    (r"^mask_tokens\.", "densify.tokens."),
    (r"^dense_decoder\.proj\.", "decoder.out."),
    (r"^dense_decoder\.dec\.(\d)\.up_sample\.", r"decoder.levels.\1.up."),
    (r"^dense_decoder\.dec\.(\d)\.conv\.", r"decoder.levels.\1.block."),
)


def _ours(name: str) -> str:
    for theirs, ours in _NAMES:
        name = re.sub(theirs, ours, name)
    return name


def _tensor(data: Data, key: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.asarray(data[key])).to(dtype)


def _load(module: nn.Module, data: Data, prefix: str = "") -> None:
    """All weights of the file; what the module has beyond them is the encoder and counters."""
    state = {}
    for key in (key for key in data if key.startswith("w/")):
        values = torch.from_numpy(np.asarray(data[key]))
        name = _ours(key.removeprefix("w/"))
        state[name.removeprefix(prefix)] = values.ravel() if "tokens" in name else values
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith("encoder.") or name.endswith(COUNTERS) for name in missing), missing


def _densify(data: Data) -> None:
    """Evaluation first, then a training pass that moves the running statistics."""
    norm = _NORMS[int(data["densify_norm_0none_1bn_2ln"])]
    densify = Densify([int(width) for width in np.asarray(data["enc_chs"])], int(data["dec_width"]), norm).double()
    _load(densify, data, "densify.")
    visible = VisiblePatches(torch.from_numpy(np.asarray(data["active"])))
    stages = [visible.pack(_tensor(data, f"feat{number}")) for number in (1, 2, 3, 4)]
    for mode in ("eval", "train"):
        densify.train(mode == "train")
        with torch.no_grad():
            maps = densify(stages, visible)
        assert len(maps) == sum(key.startswith(f"{mode}_to_dec") for key in data)
        for number, found in enumerate(maps):
            close_f32(found, data, f"{mode}_to_dec{number}")
    state = densify.state_dict()
    for key in (key for key in data if key.startswith("after/")):
        close(state[_ours(key.removeprefix("after/")).removeprefix("densify.")], data, key)


def _spark(data: Data, dtype: torch.dtype) -> SparK:
    image, visible = np.asarray(data["x"]), np.asarray(data["active"])
    encoder = recipe_encoder("resnet18", int(data["encoder_weight_seed"]), image.shape[1])
    size = int(data["input_size"])
    assert visible.shape[-1] == size // STRIDE
    # Neither SparK.build nor the settings' own check: they refuse widths that the official decoder halves all the same.
    settings = SparKSettings().model_copy(update={"decoder_width": int(data["dec_width"])})
    spark = SparK(encoder, settings, size)
    _load(spark, data)
    return spark.to(dtype)


def _step(spark: SparK, data: Data, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Prediction and loss for the file's mask, whose counts may differ from film to film."""
    image, active = _tensor(data, "x", dtype), torch.from_numpy(np.asarray(data["active"]))
    visible = VisiblePatches(active)
    prediction = spark.decoder(spark.densify(packed_stages(spark.encoder, image, visible), visible))
    if (active.flatten(1).sum(dim=1) == visible_count(spark.side, spark.settings.mask_ratio)).all():
        twin = _spark(data, dtype).train(spark.training)  # as training does it
        assert torch.equal(twin._paint(image, active)[1], prediction)
    return prediction, reconstruction_loss(prediction, image, active, STRIDE)


def _e2e(data: Data) -> None:
    """Evaluation first, then a training step with its gradients."""
    spark = _spark(data, torch.float64)
    for mode in ("eval", "train"):
        prediction, loss = _step(spark.train(mode == "train"), data, torch.float64)
        close_f32(prediction.detach(), data, f"{mode}_pred")
        close(loss.detach(), data, f"{mode}_loss")
    loss.backward()
    close_f32(spark.encoder.conv1.weight.grad, data, "grad_encoder_conv1")
    for number, token in enumerate(spark.densify.tokens):
        assert token.grad is not None
        close_f32(token.grad.view(1, -1, 1, 1), data, f"grad_mask_token{number}")


def _e2e_float32(data: Data) -> None:
    spark = _spark(data, torch.float32)
    for mode in ("eval", "train"):
        with torch.no_grad():
            _, loss = _step(spark.train(mode == "train"), data, torch.float32)
        close(loss, data, f"{mode}_loss", rtol=1e-4)


DENSIFY = Family(
    checks=dict.fromkeys(("eval_to_dec*", "train_to_dec*", "after/*"), _densify),
    unchecked=dict.fromkeys(
        ("B", "enc_chs", "dec_width", "input_size", "active", "densify_norm_0none_1bn_2ln", "feat*", "w/*"), "input"
    ),
    optional=frozenset({"after/*"}),  # BatchNorm has running statistics, LayerNorm has none
)

E2E = Family(
    checks={
        **dict.fromkeys(("eval_pred", "train_pred", "grad_encoder_conv1", "grad_mask_token*"), _e2e),
        "eval_loss": _e2e_float32,
        "train_loss": _e2e_float32,
    },
    unchecked=dict.fromkeys(("encoder_weight_seed", "x", "active", "dec_width", "input_size", "w/*"), "input"),
)


FAMILIES = {"06_spark_densify": DENSIFY, "06_spark_e2e": E2E}
