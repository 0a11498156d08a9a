"""05_dino_*: loss and centre, head, temperature of the teacher, and whole training steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from scarce_cli.config import OptimizerSettings
from scarce_cli.data.augment import View
from scarce_cli.engine.optim import build_optimizer, clip_gradients, parameter_groups
from scarce_cli.methods.base import Progress
from scarce_cli.methods.dino import DINO, centred_targets, dino_loss, teacher_signals, teacher_temperature
from scarce_cli.methods.settings import DINOSettings
from scarce_cli.models.dino_head import DINOHead
from tests.official.common import Data, Family, close, close_f32


def tensor(data: Data, key: str) -> Tensor:
    """In float64."""
    return torch.from_numpy(np.asarray(data[key], np.float64))


# Loss -------------------------------------------------------------------------------------------------------


def _temperatures(data: Data) -> list[float]:
    return [
        teacher_temperature(
            epoch,
            start=float(data["warmup_teacher_temp"]),
            final=float(data["teacher_temp"]),
            warmup_epochs=int(data["warmup_teacher_temp_epochs"]),
        )
        for epoch in range(int(data["nepochs"]))
    ]


def _loss_steps(data: Data) -> Iterator[dict[str, Tensor]]:
    centre, temperatures = tensor(data, "center0"), _temperatures(data)
    for step, epoch in enumerate(np.asarray(data["epochs_used"])):
        student = tensor(data, "student")[step].requires_grad_()
        teacher = tensor(data, "teacher")[step]
        targets = centred_targets(teacher, centre, temperatures[epoch])
        loss = dino_loss(student, targets, float(data["student_temp"]))
        loss.backward()
        momentum = float(data["center_momentum"])
        centre = momentum * centre + (1 - momentum) * teacher.mean(dim=0, keepdim=True)
        assert student.grad is not None
        yield {
            "loss": loss.detach(),
            "grad_student": student.grad,
            "center_after": centre,
            "teacher_entropy": teacher_signals(targets)["teacher_entropy"],
        }


def _loss(data: Data) -> None:
    steps = list(_loss_steps(data))
    for key in ("loss", "center_after", "teacher_entropy"):
        close(torch.stack([step[key] for step in steps]), data, key)
    close_f32(torch.stack([step["grad_student"] for step in steps]), data, "grad_student")


def _float32_loss(data: Data) -> None:
    student, teacher, centre = (tensor(data, key).float() for key in ("student", "teacher", "center0"))
    targets = centred_targets(teacher[0], centre, _temperatures(data)[int(np.asarray(data["epochs_used"])[0])])
    found = dino_loss(student[0], targets, float(data["student_temp"]))
    np.testing.assert_allclose(found, np.asarray(data["loss"])[0], rtol=1e-4)


def _centre_of_the_method(data: Data) -> None:
    """The method's own centre, over the same steps."""
    method = _method(DINOSettings(
        outputs=int(data["out_dim"]), hidden=4, bottleneck=4, centre_momentum=float(data["center_momentum"])
    ))  # fmt: skip
    method.centre_K.copy_(tensor(data, "center0"))
    for step, teacher in enumerate(tensor(data, "teacher")):
        method._new_centre = teacher.mean(dim=0, keepdim=True)
        method.after_step(Progress(step, 10, 10))
        close(method.centre_K, {"center_after": np.asarray(data["center_after"])[step]}, "center_after")


LOSS = Family(
    checks={
        "loss": _loss,
        "grad_student": _loss,
        "center_after": _loss,
        "teacher_entropy": _loss,
        "teacher_temp_schedule": lambda data: close(_temperatures(data), data, "teacher_temp_schedule"),
        "student": _float32_loss,
        "center_momentum": _centre_of_the_method,
    },
    unchecked=dict.fromkeys(
        (
            "N",
            "out_dim",
            "n_local",
            "warmup_teacher_temp",
            "teacher_temp",
            "warmup_teacher_temp_epochs",
            "nepochs",
            "student_temp",
            "center0",
            "epochs_used",
            "teacher",
        ),
        "input",
    ),
)


def _schedules(data: Data) -> None:
    for row, (start, final, warmup, epochs) in enumerate(np.asarray(data["args"], np.float64)):
        found = [
            teacher_temperature(epoch, start=start, final=final, warmup_epochs=int(warmup))
            for epoch in range(int(epochs))
        ]
        close(found, data, f"sched{row}")


TEMPERATURE = Family(checks={"sched*": _schedules}, unchecked={"args": "input"})


# Head -------------------------------------------------------------------------------------------------------


def _head(data: Data) -> DINOHead:
    head = DINOHead(
        int(data["in_dim"]),
        int(data["out_dim"]),
        hidden=int(data["hidden"]),
        bottleneck=int(data["bottleneck"]),
        layers=int(data["nlayers"]),
        batch_norm=bool(data["use_bn"]),
        normalize_last_layer=bool(data["norm_last_layer"]),
    ).double()
    head.load_state_dict(_group(data, "w/"))
    return head


def _group(data: Data, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(np.asarray(data[name])) for name in data if name.startswith(prefix)
    }


def _head_step(data: Data) -> None:
    """Output, all gradients, and the running statistics after one pass in training mode."""
    head, x = _head(data).train(), tensor(data, "x").requires_grad_()
    y = head(x)
    close(y.detach(), data, "y")
    y.backward(tensor(data, "gy"))
    close(x.grad, data, "gx", atol=1e-13)
    found = {f"g/{name}": p.grad for name, p in head.named_parameters() if p.grad is not None}
    assert found.keys() == {name for name in data if name.startswith("g/")}
    for name, gradient in found.items():
        # The gradient of a bias before a BatchNorm is nought but for rounding.
        np.testing.assert_allclose(gradient, data[name], rtol=1e-9, atol=1e-13, err_msg=name)
    for name, value in _group(data, "after/").items():
        np.testing.assert_allclose(head.state_dict()[name], value, rtol=1e-9)
    assert head.last_layer.weight_g.requires_grad == bool(data["weight_g_trainable"])


def _head_evaluated(data: Data) -> None:
    head = _head(data)
    head(tensor(data, "x"))  # the official pass in training mode came first
    close(head.eval()(tensor(data, "x")).detach(), data, "y_eval")


HEAD = Family(
    checks={
        "y": _head_step,
        "gx": _head_step,
        "g/*": _head_step,
        "after/*": _head_step,
        "weight_g_trainable": _head_step,
        "y_eval": _head_evaluated,
    },
    unchecked=dict.fromkeys(
        ("in_dim", "hidden", "out_dim", "bottleneck", "nlayers", "use_bn", "norm_last_layer", "w/*", "x", "gy"), "input"
    ),
    optional=frozenset({"after/*", "y_eval"}),  # with BatchNorm only
)


# Whole steps ------------------------------------------------------------------------------------------------


class _Nothing(nn.Identity):
    """An encoder of six features that passes its input on, with a weight for the teacher to follow."""

    features = 6

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def _method(settings: DINOSettings) -> DINO:
    return DINO(_Nothing(), settings).double()  # type: ignore[arg-type]


def _training(data: Data) -> tuple[DINO, OptimizerSettings]:
    method = _method(DINOSettings(
        outputs=14, hidden=10, bottleneck=5, head_batch_norm=True,
        normalize_last_layer=bool(data["norm_last_layer"]),
        freeze_last_layer_epochs=float(data["freeze_last_layer"]),
        local_crops=2, local_size=32, teacher_temperature=(0.04, 0.07), teacher_temperature_epochs=1,
        teacher_momentum=(float(np.asarray(data["momentum"])[0]), 1.0),
    ))  # fmt: skip
    start = _group(data, "w0/")
    method.head.load_state_dict(start)
    method.teacher_head.load_state_dict(start)
    settings = OptimizerSettings(
        name="adamw",
        lr=float(np.asarray(data["lr"])[0]),
        weight_decay=float(np.asarray(data["wd"])[0]),
        betas=(float(data["adamw_beta1"]), float(data["adamw_beta2"])),
        clip_each=float(data["clip_grad"]),
    )
    return method.train(), settings


def _views(data: Data, step: int) -> list[View]:
    return [View(crop, crop) for crop in tensor(data, "x")[step].split(4)]


def _steps(data: Data) -> None:
    """Every step in the official order: rates, teacher and student, loss, clipping, freezing, AdamW, moving average."""
    method, settings = _training(data)
    optimizer = build_optimizer(method.trained_parameters(), settings)
    steps, per_epoch = len(np.asarray(data["x"])), int(data["niter_per_ep"])
    for step in range(steps):
        progress = Progress(step, per_epoch * int(data["epochs"]), per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = float(np.asarray(data["lr"])[step])
            group["weight_decay"] = float(np.asarray(data["wd"])[step]) if group["weight_decay"] else 0.0
        output = method(_views(data, step), progress, torch.Generator())
        close(output.loss.detach(), {"loss": np.asarray(data["loss"])[step]}, "loss")
        optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        if step == 0:
            _norms(method, data)
        clip_gradients(optimizer, settings)
        if step == 0:
            _clipped(method, data)
        method.after_backward(progress)
        optimizer.step()
        assert abs(method.teacher_momentum(progress) - np.asarray(data["momentum"])[step]) < 1e-12
        method.after_step(progress)
        _same_state(method.head, data, f"student_after{step}/")
        _same_state(method.teacher_head, data, f"teacher_after{step}/")
    close(method.centre_K, data, "center_final")


def _norms(method: DINO, data: Data) -> None:
    norms = [p.grad.norm() for p in method.head.parameters() if p.grad is not None]
    wanted = np.asarray(data["clip_norms_step0"])
    order = _official_order(method)
    found = {name: float(norm) for name, norm in zip(_with_gradient(method), norms, strict=True)}
    # A bias before a BatchNorm has no gradient but rounding.
    np.testing.assert_allclose([found[name] for name in order], wanted, rtol=1e-9, atol=1e-13)


def _with_gradient(method: DINO) -> list[str]:
    return [name for name, p in method.head.named_parameters() if p.grad is not None]


def _official_order(method: DINO) -> list[str]:
    names = [name for name, _ in method.head.named_parameters() if name.startswith("mlp")]
    last = ["last_layer.weight_g", "last_layer.weight_v"]
    return [name for name in [*names, *last] if name in _with_gradient(method)]


def _clipped(method: DINO, data: Data) -> None:
    for name, gradient in _group(data, "grad_after_clip_step0/").items():
        found = method.head.get_parameter(name).grad
        np.testing.assert_allclose(found, gradient, rtol=1e-9, atol=1e-13, err_msg=name)


def _same_state(head: DINOHead, data: Data, prefix: str) -> None:
    """The gradient of a bias before a BatchNorm is nought but for rounding (below 1e-14 here), which AdamW divides by
    no less than its eps: such a bias, and the running mean behind it, may differ by that much in each step."""
    noise = 1e-14 / float(data["adamw_eps"]) * float(np.asarray(data["lr"]).sum())
    for name, wanted in _group(data, prefix).items():
        idle = name in ("mlp.0.bias", "mlp.3.bias") or name.endswith("running_mean")
        atol = noise if idle else 1e-12
        np.testing.assert_allclose(head.state_dict()[name], wanted, rtol=1e-9, atol=atol, err_msg=prefix + name)


def _groups(data: Data) -> None:
    """0: decayed, 1: not decayed, 2: not trained; in the official order of parameters."""
    method, settings = _training(data)
    groups = parameter_groups(method.trained_parameters(), settings)
    kinds = {id(p): 0 if group["weight_decay"] else 1 for group in groups for p in group["params"]}
    names = [name for name, _ in method.head.named_parameters() if name.startswith("mlp")]
    found = [
        kinds.get(id(method.head.get_parameter(n)), 2) for n in [*names, "last_layer.weight_g", "last_layer.weight_v"]
    ]
    assert found == np.asarray(data["group_of_param_0decay_1nodecay_2frozen"]).tolist()


STEPS = Family(
    checks={
        "loss": _steps,
        "student_after*": _steps,
        "teacher_after*": _steps,
        "center_final": _steps,
        "clip_norms_step0": _steps,
        "grad_after_clip_step0/*": _steps,
        "momentum": _steps,
        "group_of_param_0decay_1nodecay_2frozen": _groups,
    },
    unchecked=dict.fromkeys(
        (
            "freeze_last_layer",
            "niter_per_ep",
            "epochs",
            "clip_grad",
            "norm_last_layer",
            "lr",
            "wd",
            "adamw_beta1",
            "adamw_beta2",
            "adamw_eps",
            "w0/*",
            "x",
        ),
        "input",
    ),
)


FAMILIES = {
    "05_dino_loss": LOSS,
    "05_dino_teacher_temp": TEMPERATURE,
    "05_dino_head": HEAD,
    "05_dino_steps": STEPS,
}
