"""From stored films to the pixels of a view: crop, flip and rotation, in one resampling or in the published steps.

Shape suffixes: B films of the batch, n films of a chunk, S side of the stored film, V side of the view,
F side of the fine grid of the view (V times taps), 2 (x, y).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scarce_cli.config import AugmentSettings
from scarce_cli.data.augment_draw import Floats, ViewParameters
from scarce_cli.data.augment_table import Row, Rows, Workspace


def taps_for(settings: AugmentSettings, stored: int, size: int) -> int:
    """Samples per view pixel and direction: as many as the largest crop has stored pixels for one."""
    return max(1, round(stored * settings.crop_scale[1] ** 0.5 / size))


def warp_rows(p: ViewParameters, stored: int) -> dict[str, Row]:
    """What `grid_terms` needs: x' = xx x + xy y + x0 and y' = yx x + yy y + y0 lead from positions in the view to
    positions in the film, both in [-1, 1]."""
    cos, sin = np.cos(np.deg2rad(p.angle)), np.sin(np.deg2rad(p.angle))
    scale_x, scale_y = np.where(p.flip, -p.width, p.width) / stored, p.height / stored
    return {
        "xx": scale_x * cos,
        "xy": -scale_x * sin,
        "x0": (2 * p.left + p.width) / stored - 1,
        "yx": scale_y * sin,
        "yy": scale_y * cos,
        "y0": (2 * p.top + p.height) / stored - 1,
    }


def grid_terms(rows: Rows, side: int) -> Rows:
    """What the grid of a view is the sum of: (B, 1, F) for its columns and (B, F, 1) for its rows, complex.

    x and y are one complex number, so that a grid is one vectorised sum. A product of matrices, as in affine_grid, may
    be rounded to TensorFloat32 on a GPU: a tenth of a pixel.
    """
    along = _centres(side, rows["xx"].device)
    xx, xy, x0, yx, yy, y0 = (rows[name].unsqueeze(1) for name in ("xx", "xy", "x0", "yx", "yy", "y0"))
    across = torch.complex(xx * along + x0, yx * along + y0)
    return {"across": across.unsqueeze(1), "down": torch.complex(xy * along, yy * along).unsqueeze(2)}


def warp(films_nSS: Tensor, terms: Rows, taps: int, work: Workspace) -> Tensor:
    """Crop, flip and rotate in one resampling of the stored pixels.

    Each view pixel is the mean of ``taps`` x ``taps`` bilinear samples spread over its own footprint, so
    that shrinking does not alias. Where a rotated crop reaches beyond the film, the film is mirrored.

    Args:
        films_nSS: uint8.
        terms: of `grid_terms` for V times ``taps``.

    Returns:
        (n, V, V) float32, grey values 0 to 255.
    """
    views_nFF = _sample(_floats(films_nSS, work), terms, "bilinear", "reflection", work)
    return F.avg_pool2d(views_nFF, taps) if taps > 1 else views_nFF


def _sample(images_nHW: Tensor, terms: Rows, mode: str, edge: str, work: Workspace) -> Tensor:
    across, down = terms["across"], terms["down"]
    grid = work.take("grid", len(across), down.shape[1], across.shape[2], dtype=torch.complex64)
    grid_nFF2 = torch.view_as_real(torch.add(across, down, out=grid))
    images_n1HW = images_nHW.unsqueeze(1)
    return F.grid_sample(images_n1HW, grid_nFF2, mode=mode, padding_mode=edge, align_corners=False).squeeze(1)


def _centres(side: int, device: torch.device) -> Tensor:
    """Centres of ``side`` pixels that span [-1, 1]."""
    return torch.arange(1, 2 * side, 2, dtype=torch.float32, device=device).div_(side).sub_(1)


def _floats(films_nSS: Tensor, work: Workspace) -> Tensor:
    return work.take("films", *films_nSS.shape).copy_(films_nSS)


def published_rows(p: ViewParameters) -> dict[str, Row]:
    """What `published_terms` needs."""
    cos, sin, zero = np.cos(np.deg2rad(p.angle)), np.sin(np.deg2rad(p.angle)), np.zeros(len(p.angle))
    turn: dict[str, Floats] = {"xx": cos, "xy": -sin, "x0": zero, "yx": sin, "yy": cos, "y0": zero}
    return {**turn, "top": p.top, "left": p.left, "height": p.height, "width": p.width, "flip": p.flip}


def published_terms(rows: Rows, size: int) -> Rows:
    """What `published` needs."""
    return {**grid_terms(rows, size), **{name: rows[name] for name in ("top", "left", "height", "width", "flip")}}


def published(films_nSS: Tensor, terms: Rows, size: int, work: Workspace, *, turn: bool) -> Tensor:
    """The published steps: crop and resize as Pillow does, flip, then rotate the VIEW by the nearest pixel; its corners
    are black (torchvision's RandomResizedCrop, RandomHorizontalFlip and RandomRotation with their defaults).

    Args:
        films_nSS: uint8.
        turn: whether there is a rotation at all.

    Returns:
        (n, V, V) float32, grey values 0 to 255. Pillow rounds to whole grey values after each step, this does not.
    """
    shape = (len(films_nSS), size, films_nSS.shape[-1])
    down_nVS = resize_weights(terms["top"], terms["height"], None, work.take("down", *shape))
    across_nVS = resize_weights(terms["left"], terms["width"], terms["flip"], work.take("across", *shape))
    narrow_nSV = torch.bmm(_floats(films_nSS, work), across_nVS.mT)
    views_nVV = torch.bmm(down_nVS, narrow_nSV)
    return _sample(views_nVV, terms, "nearest", "zeros", work) if turn else views_nVV


def resize_weights(first_n: Tensor, length_n: Tensor, flip_n: Tensor | None, out_nVS: Tensor) -> Tensor:
    """(n, V, S): each row the share of the stored pixels in one pixel of the view, sum 1; rows in reverse for a flip.

    A triangle about the pixel's centre, as wide as the pixel where the crop shrinks and one stored pixel wide where it
    grows, cut off at the crop's ends: Pillow's bilinear filter, which torchvision calls antialiased.

    Args:
        first_n, length_n: the crop, whole stored pixels.
        flip_n: 1 or 0.
        out_nVS: where the result goes.
    """
    size, stored = out_nVS.shape[1:]
    length_n11, device = length_n.view(-1, 1, 1), first_n.device
    reach_n11 = (length_n11 / size).clamp(min=1)  # half the triangle's width
    pixel_n1S = torch.arange(0.5, stored, device=device) - first_n.view(-1, 1, 1)  # from the crop's first edge
    view_nV1 = torch.arange(0.5, size, device=device).unsqueeze(1) * (length_n11 / size)
    if flip_n is not None:
        view_nV1 = torch.where(flip_n.view(-1, 1, 1) > 0, length_n11 - view_nV1, view_nV1)
    torch.sub(pixel_n1S / reach_n11, view_nV1 / reach_n11, out=out_nVS).abs_()
    inside_n1S = (pixel_n1S > 0) & (pixel_n1S < length_n11)
    torch.sub(torch.where(inside_n1S, 1.0, -torch.inf), out_nVS, out=out_nVS).clamp_(min=0)
    return out_nVS.div_(out_nVS.sum(-1, keepdim=True))
