"""05_dino_loss, 05_dino_teacher_temp and 05_dino_head: loss and centre, temperature of the teacher, and head."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from scarce_cli.methods.base import Progress
from scarce_cli.methods.dino import DINO, centred_targets, dino_loss, teacher_signals, teacher_temperature
from scarce_cli.methods.settings import DINOSettings
from scarce_cli.models.dino_head import DINOHead
from tests.official.common import Data, Family, close, close_f32


def tensor(data: Data, key: str) -> Tensor:
    """In float64."""
    return torch.from_numpy(np.asarray(data[key], np.float64))


class _Nothing(nn.Identity):
    """An encoder of six features that passes its input on, with a weight for the teacher to follow."""

    features = 6

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def small_method(settings: DINOSettings) -> DINO:
    """The method on features of six numbers, in float64."""
    return DINO(_Nothing(), settings).double()  # type: ignore[arg-type]


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
    method = small_method(DINOSettings(
        outputs=int(data["out_dim"]), hidden=4, bottleneck=4, centre_momentum=float(data["center_momentum"])
    ))  # fmt: skip
    method.centre_K.copy_(tensor(data, "center0"))
    for step, teacher in enumerate(tensor(data, "teacher")):
        method._new_centre = teacher.mean(dim=0, keepdim=True)
        method.after_step(Progress(step, 10, 10), torch.tensor(True))
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
    head.load_state_dict(group(data, "w/"))
    return head


def group(data: Data, prefix: str) -> dict[str, Tensor]:
    """The tensors under ``prefix``, by the rest of their name."""
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
    for name, value in group(data, "after/").items():
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


FAMILIES = {
    "05_dino_loss": LOSS,
    "05_dino_teacher_temp": TEMPERATURE,
    "05_dino_head": HEAD,
}
