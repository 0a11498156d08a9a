"""The plain loops that people write, one for each method: what throughput.py and gpu.py compare this program with.

Network, heads, batch, crops and loss are those of the recipe that is compared; how it is done is the published
series' way (presets/l4-published and its listings): torchvision's ResNet on three equal channels in contiguous memory,
Pillow and torchvision's transforms in the workers of a DataLoader over a shared tensor of films, a moving average by a
loop over the parameters, torch's default optimizer, ``.item()`` on every step, float16 autocast with a loss scaler on
a GPU, and activation checkpointing by stage where the series had it. What is common beside that is here too:
``cudnn.benchmark``, pinned memory, copies that do not block, workers that stay.

SparK is the series' version, masked at the input with a U-Net; the program's sparse one is another network.

Shape suffixes: B films, C channels, H and W pixels, N rows, D dimensions of the embedding, K outputs or keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scarce_cli.config import RunConfig, Settings
from scarce_cli.methods.regularizers import variance_hinge
from scarce_cli.methods.settings import BarlowSettings, DINOSettings, MoCoSettings, SparKSettings
from scarce_cli.models.dino_head import DINOHead
from scarce_cli.models.ema import frozen_copy
from scarce_cli.models.heads import batch_norm_projector, two_layer_projector
from scarce_cli.models.split_batch_norm import split_batch_norms
from scarce_cli.models.unet import UNetDecoder

CHANNELS = 3


class Backbone(nn.Module):
    """torchvision's ResNet without classifier; its first ``checkpointing`` stages are recomputed (published: all)."""

    def __init__(self, name: str, *, checkpointing: int = 0, zero_init_residual: bool = False) -> None:
        super().__init__()
        self.net = torchvision.models.get_model(name, weights=None, zero_init_residual=zero_init_residual)
        self.features: int = self.net.fc.in_features
        self.net.fc = nn.Identity()
        self.checkpointing = checkpointing

    def stages(self, x_BCHW: Tensor) -> list[Tensor]:
        """Outputs of the four stages."""
        net = self.net
        x, maps = net.maxpool(net.relu(net.bn1(net.conv1(x_BCHW)))), []
        for number, stage in enumerate((net.layer1, net.layer2, net.layer3, net.layer4)):
            x = checkpoint(stage, x, use_reentrant=False) if number < self.checkpointing else stage(x)
            maps.append(x)
        return maps

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, D)."""
        return self.net.avgpool(self.stages(x_BCHW)[-1]).flatten(1)


class PlainMethod(nn.Module):
    """A method as people write it."""

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        """Of one batch of views, each (B, 3, H, W)."""
        raise NotImplementedError

    def before_step(self) -> None:
        """After the backward pass and the clipping."""

    def after_step(self) -> None:
        """After the optimizer."""


@torch.no_grad()
def moving_average_loop(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Parameter by parameter, as in the listings of MoCo and of the series."""
    for mine, theirs in zip(slow.parameters(), fast.parameters(), strict=True):
        mine.data = mine.data * momentum + theirs.data * (1.0 - momentum)


class PlainMoCo(PlainMethod):
    """Follows moco/builder.py: average, keys, logits against a clone of the queue, enqueue, all in the forward."""

    queue_DK: Tensor

    def __init__(self, encoder: Backbone, settings: MoCoSettings, size: int) -> None:
        super().__init__()
        self.settings, self.pointer = settings, 0
        split_batch_norms(encoder, settings.bn_splits)
        self.query = nn.Sequential(encoder, two_layer_projector(encoder.features, settings.dimension))
        self.key = frozen_copy(self.query)
        self.register_buffer("queue_DK", F.normalize(torch.randn(settings.dimension, settings.queue), dim=0))

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        """InfoNCE, and the series' hinge where the recipe has it."""
        raw_ND = self.query(views[0])
        q_ND = F.normalize(raw_ND, dim=1)
        with torch.no_grad():
            moving_average_loop(self.key, self.query, self.settings.key_momentum)
            k_ND = self._keys(views[1])
        own_N1 = torch.einsum("nd,nd->n", q_ND, k_ND).unsqueeze(-1)
        others_NK = torch.einsum("nd,dk->nk", q_ND, self.queue_DK.clone().detach())
        logits = torch.cat([own_N1, others_NK], dim=1) / self.settings.temperature
        self._enqueue(k_ND)
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
        if not self.settings.variance_weight:
            return loss
        spread = raw_ND if self.settings.variance_on == "raw" else q_ND * self.settings.dimension**0.5
        return loss + self.settings.variance_weight * variance_hinge(spread)

    def _keys(self, images_BCHW: Tensor) -> Tensor:
        if not self.settings.shuffle_keys:
            return F.normalize(self.key(images_BCHW), dim=1)
        order = torch.randperm(len(images_BCHW), device=images_BCHW.device)
        return F.normalize(self.key(images_BCHW[order]), dim=1)[torch.argsort(order)]

    @torch.no_grad()
    def _enqueue(self, keys_ND: Tensor) -> None:
        length, count = self.queue_DK.shape[1], len(keys_ND)
        first = min(count, length - self.pointer)
        self.queue_DK[:, self.pointer : self.pointer + first] = keys_ND[:first].T
        self.queue_DK[:, : count - first] = keys_ND[first:].T
        self.pointer = (self.pointer + count) % length


class PlainBarlow(PlainMethod):
    """Follows main.py of Barlow Twins."""

    def __init__(self, encoder: Backbone, settings: BarlowSettings, size: int) -> None:
        super().__init__()
        self.settings, self.encoder = settings, encoder
        self.projector = batch_norm_projector(encoder.features, settings.projector)
        self.norm = nn.BatchNorm1d(settings.projector[-1], affine=False)

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        """The correlation's distance from the identity."""
        one_ND, two_ND = (self.projector(self.encoder(view)) for view in views)
        c_DD = self._standardise(one_ND).T @ self._standardise(two_ND) / len(one_ND)
        on = (torch.diagonal(c_DD) - 1).pow(2).sum()
        size = len(c_DD)
        off = c_DD.flatten()[:-1].view(size - 1, size + 1)[:, 1:].pow(2).sum()
        return on + self.settings.lambd * off

    def _standardise(self, z_ND: Tensor) -> Tensor:
        if self.settings.standardise == "official":
            return self.norm(z_ND)
        return (z_ND - z_ND.mean(0)) / (z_ND.std(0) + 1e-6)


class PlainDINO(PlainMethod):
    """Follows main_dino.py: a loop over the pairs of crops. The series' version takes the crops one by one."""

    centre_K: Tensor

    def __init__(self, encoder: Backbone, settings: DINOSettings, size: int) -> None:
        super().__init__()
        assert not settings.koleo_weight, "no plain version of KoLeo"
        self.settings, self.encoder = settings, encoder
        self.head = DINOHead(
            encoder.features, settings.outputs, hidden=settings.hidden, bottleneck=settings.bottleneck,
            layers=settings.layers, batch_norm=settings.head_batch_norm,
            normalize_last_layer=settings.normalize_last_layer,
        )  # fmt: skip
        self.teacher, self.teacher_head = frozen_copy(encoder), frozen_copy(self.head)
        self.register_buffer("centre_K", torch.zeros(1, settings.outputs))

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        """Cross entropy over all pairs of a global crop and another one."""
        with torch.no_grad():
            teacher_NK = self._logits(views[:2], self.teacher, self.teacher_head)
            targets = self._targets(teacher_NK).chunk(2)
        student = (self._logits(views, self.encoder, self.head) / self.settings.student_temperature).chunk(len(views))
        terms = [
            torch.sum(-target * F.log_softmax(crop, dim=-1), dim=-1).mean()
            for number, target in enumerate(targets)
            for other, crop in enumerate(student)
            if number != other
        ]
        self._follow(teacher_NK)
        return torch.stack(terms).mean()

    def before_step(self) -> None:
        """The last layer is frozen in the first epoch, where the recipe says so."""
        if self.settings.freeze_last_layer_epochs:
            for parameter in self.head.last_layer.parameters():
                parameter.grad = None

    def after_step(self) -> None:
        """The teacher follows."""
        moving_average_loop(self.teacher, self.encoder, self.settings.teacher_momentum[0])
        moving_average_loop(self.teacher_head, self.head, self.settings.teacher_momentum[0])

    def _logits(self, crops: Sequence[Tensor], encoder: nn.Module, head: nn.Module) -> Tensor:
        if not self.settings.crops_together:
            return torch.cat([head(encoder(crop)) for crop in crops])
        sizes = sorted({crop.shape[-1] for crop in crops}, reverse=True)
        return head(torch.cat([encoder(torch.cat([c for c in crops if c.shape[-1] == size])) for size in sizes]))

    def _targets(self, teacher_NK: Tensor) -> Tensor:
        temperature = self.settings.teacher_temperature[0]
        if self.settings.centring == "centre":
            return F.softmax((teacher_NK - self.centre_K) / temperature, dim=-1)
        q_KN = torch.exp(teacher_NK.float() / temperature).T
        q_KN = q_KN / q_KN.sum()
        outputs, rows = q_KN.shape
        for _ in range(self.settings.sinkhorn_iterations):
            q_KN = q_KN / q_KN.sum(dim=1, keepdim=True) / outputs
            q_KN = q_KN / q_KN.sum(dim=0, keepdim=True) / rows
        return (q_KN * rows).T

    @torch.no_grad()
    def _follow(self, teacher_NK: Tensor) -> None:
        momentum = self.settings.centre_momentum
        self.centre_K = self.centre_K * momentum + teacher_NK.float().mean(dim=0, keepdim=True) * (1 - momentum)


class PlainSparK(PlainMethod):
    """Follows the series' listing: patches zeroed in the input, ResNet, U-Net, error on what was hidden."""

    def __init__(self, encoder: Backbone, settings: SparKSettings, size: int) -> None:
        super().__init__()
        self.settings, self.encoder = settings, encoder
        widths = [encoder.features // share for share in (8, 4, 2, 1)]
        self.decoder = UNetDecoder(widths, settings.decoder_width)
        self.decoder.out = nn.Conv2d(settings.decoder_width // 4, CHANNELS, kernel_size=1)

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        """Mean squared error on the hidden pixels."""
        (x_BCHW,) = views
        hidden_B1HW = self.draw_hidden(x_BCHW)
        prediction = self.decoder(self.encoder.stages(x_BCHW * (1.0 - hidden_B1HW)))
        error = (prediction - self._normalised(x_BCHW)) ** 2 * hidden_B1HW
        return error.sum() / (hidden_B1HW.sum() * x_BCHW.shape[1])

    def draw_hidden(self, x_BCHW: Tensor) -> Tensor:
        """1 where a pixel is hidden, (B, 1, H, W)."""
        b, side = len(x_BCHW), x_BCHW.shape[-1] // self.settings.patch
        order = torch.rand(b, side * side, device=x_BCHW.device).argsort(dim=1)
        hidden = torch.zeros(b, side * side, device=x_BCHW.device)
        hidden.scatter_(1, order[:, : int(side * side * self.settings.mask_ratio)], 1.0)
        return F.interpolate(hidden.view(b, 1, side, side), scale_factor=float(self.settings.patch), mode="nearest")

    def _normalised(self, x_BCHW: Tensor) -> Tensor:
        b, c, h, w = x_BCHW.shape
        p = self.settings.patch
        cut = x_BCHW.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
        mean, variance = cut.mean(dim=(-1, -2, -3), keepdim=True), cut.var(dim=(-1, -2, -3), keepdim=True)
        scaled = (cut - mean) / (variance + 1e-6).sqrt()
        return scaled.permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


METHODS: dict[str, Callable[[Backbone, Any, int], PlainMethod]] = {
    "moco": PlainMoCo, "barlow": PlainBarlow, "dino": PlainDINO, "spark": PlainSparK,
}  # fmt: skip


class PlainLoop:
    """Network, optimizer and scaler of a plain run, and its step."""

    def __init__(
        self, method: str, recipe: RunConfig, settings: Settings, published: RunConfig, device: torch.device
    ) -> None:
        """``recipe`` and ``settings``: of what is compared; ``published``: how it is done."""
        torch.backends.cudnn.benchmark = True
        self.device, self.half = device, device.type == "cuda"
        model = recipe.model
        encoder = Backbone(
            model.backbone,
            checkpointing=published.model.gradient_checkpointing,
            zero_init_residual=model.zero_init_residual,
        )
        self.method = METHODS[method](encoder, settings, recipe.data.size).to(device).train()
        self.parameters = [p for p in self.method.parameters() if p.requires_grad]
        self.clip = published.optimizer.clip_norm
        self.optimizer = _optimizer(self.parameters, published)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half)

    def step(self, views: Sequence[Tensor]) -> float:
        """Forward, backward, update; returns the loss, for the log."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.half):
            loss = self.method.loss(views)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.method.before_step()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.after_step()
        return loss.item()


def _optimizer(parameters: list[nn.Parameter], published: RunConfig) -> torch.optim.Optimizer:
    """One group, torch's default way; the rate is that of the first warm-up epoch."""
    o, start = published.optimizer, published.optimizer.lr / max(1.0, published.schedule.warmup_epochs)
    if o.name == "sgd":
        return torch.optim.SGD(parameters, lr=start, momentum=o.momentum, weight_decay=o.weight_decay)
    return torch.optim.AdamW(parameters, lr=start, betas=o.betas, weight_decay=o.weight_decay)
