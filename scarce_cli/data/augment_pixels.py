"""What happens to the pixels of a view after its geometry: brightness and contrast, normalisation, blur, noise.

Normalisation comes with brightness and contrast, in one product and one sum: a blur whose weights sum to 1 and noise
divided by the same number commute with it.

Shape suffixes: B films of the batch, n films of a chunk, b those of them that are blurred, V side of the view,
D distances, P pairs of pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from scarce_cli.data.augment_draw import ViewParameters
from scarce_cli.data.augment_table import Row, Rows, Workspace

_WHITE = 255.0
_BAND = 56  # rows of a view that are blurred at once
_LEAST_WEIGHT = -20.0  # exponent: 2e-9 of the largest weight, below float32's resolution of the sum
# Odd constants with well-mixed bits: 2**32 over the golden ratio, and Ettinger's of "lowbias32" (hash-prospector).
_STEP, _MIX_1, _MIX_2 = 0x9E3779B9 - 2**32, 0x7FEB352D, 0x846CA68B - 2**32


def jitter_rows(p: ViewParameters) -> dict[str, Row]:
    """What `jitter_terms` needs.

    With brightness b and contrast c, each clamped to [0, 1], and m the mean before contrast:
    b first: clamp(c min(bx, 1) + (1 - c) m) = bcx + (1 - c) m between (1 - c) m and c + (1 - c) m;
    c first: clamp(b clamp(cx + (1 - c) m)) = bcx + b(1 - c) m between 0 and b;
    and both between 0 and 1. So one line between two bounds holds for either order.
    """
    b, c = np.where(p.jitter, p.brightness, 1.0), np.where(p.jitter, p.contrast, 1.0)
    before = np.where(p.contrast_first, 1.0, b)  # brightness when the mean is taken
    return {
        "ceiling": _WHITE / np.maximum(before, 1e-6),
        "before": before / _WHITE,
        "gain": b * c / _WHITE,
        "lift": np.where(p.contrast_first, b, 1.0) * (1 - c),
        "bound_lift": np.where(p.contrast_first, 0.0, 1 - c),
        "bound": np.where(p.contrast_first, b, c),
    }


def jitter_terms(rows: Rows, size: int, std: float) -> Rows:
    """What `jitter` needs. With the mean times ``slopes`` plus ``bases`` it finds (shift, low, high) of each film."""
    none, lift = torch.zeros_like(rows["bound"]), rows["bound_lift"]
    return {
        "ceiling": rows["ceiling"].view(-1, 1, 1),
        "share": (rows["before"] / size**2).view(-1, 1, 1),
        "gain": (rows["gain"] / std).view(-1, 1, 1),
        "slopes": torch.stack((rows["lift"], lift, lift), 1).unsqueeze(2),
        "bases": torch.stack((none, none, rows["bound"]), 1).unsqueeze(2),
    }


def jitter(views_nVV: Tensor, terms: Rows, mean: float, std: float, out_nVV: Tensor) -> Tensor:
    """Brightness and contrast as torchvision's ColorJitter, each clamped to [0, 1], in the order drawn; normalised.

    Args:
        views_nVV: grey values 0 to 255.
        out_nVV: where the result goes.
    """
    cut_nVV = torch.minimum(views_nVV, terms["ceiling"], out=out_nVV)
    # Rows first, then columns: the same order of sums, hence the same bits, in any batch.
    mean_n11 = cut_nVV.sum(2, keepdim=True).sum(1, keepdim=True).mul_(terms["share"])
    levels_n31 = torch.addcmul(terms["bases"], terms["slopes"], mean_n11)
    levels_n31[:, 1:].clamp_(0, 1)
    shift, low, high = levels_n31.sub_(mean).div_(std).split(1, 1)
    torch.mul(views_nVV, terms["gain"], out=out_nVV).add_(shift)
    torch.maximum(out_nVV, low, out=out_nVV)
    return torch.minimum(out_nVV, high, out=out_nVV)


def normalise(views_nVV: Tensor, mean: float, std: float, out_nVV: Tensor) -> Tensor:
    """Grey values 0 to 255 without jitter."""
    return torch.mul(views_nVV, 1 / (_WHITE * std), out=out_nVV).sub_(mean / std)


def blur_rows(p: ViewParameters, chunk: int) -> dict[str, Row]:
    """What `blur_terms` needs. In ``blurred`` each chunk of films begins with the places of those blurred in it."""
    blurred = np.zeros(len(p.blur), np.int32)
    for first in range(0, len(p.blur), chunk):
        places = np.flatnonzero(p.blur[first : first + chunk])
        blurred[first : first + len(places)] = places
    return {"blurred": blurred, "half": (p.kernel - 1) / 2, "sharpness": -0.5 / p.sigma**2}


def blur_terms(rows: Rows, size: int, half: int) -> Rows:
    """What `blur_` needs: torchvision's weights exp(-d^2 / 2 sigma^2) at distances d from 1 - V on, zero outside each
    film's own kernel size, sum 1.

    Args:
        half: of the largest kernel size that can be drawn, without its middle.
    """
    distance_D = torch.arange(1 - size, max(size, 2 * half), dtype=torch.float32, device=rows["half"].device)
    exponent_BD = distance_D.square() * rows["sharpness"].unsqueeze(1)
    # Without the bound the weights of narrow kernels reach subnormal numbers, which slow a CPU down tenfold.
    kept_BD = (distance_D.abs() <= rows["half"].unsqueeze(1)) & (exponent_BD > _LEAST_WEIGHT)
    weights_BD = exponent_BD.exp_().mul_(kept_BD)
    return {"blurred": rows["blurred"].to(torch.int64), "weights": weights_BD.div_(weights_BD.sum(1, keepdim=True))}


def blur_(views_nVV: Tensor, terms: Rows, blurred: int, half: int, work: Workspace) -> None:
    """Gaussian blur, in place, of ``blurred`` films of the chunk, each with its own kernel and sigma; edges mirrored.

    Vertically and horizontally by a product of matrices, in bands, since a matrix is zero away from its diagonal. Where
    a GPU may round these products to TensorFloat32, the error is below a tenth of a grey value in the mean.
    """
    if blurred == 0 or half == 0:
        return
    size = views_nVV.shape[-1]
    chosen_b = terms["blurred"][:blurred]
    sharp_bVV = torch.index_select(views_nVV, 0, chosen_b, out=work.take("sharp", blurred, size, size))
    weights_bVV = blur_matrices(terms["weights"].index_select(0, chosen_b), size, half)
    bands = [slice(first, first + _BAND) for first in range(0, size, _BAND)]
    reach = [slice(max(0, band.start - half), band.stop + half) for band in bands]
    down = [torch.bmm(weights_bVV[:, b, r], sharp_bVV[:, r]) for b, r in zip(bands, reach, strict=True)]
    down_bVV = torch.cat(down, 1, out=work.take("down", blurred, size, size))
    both = [torch.bmm(down_bVV[:, :, r], weights_bVV[:, b, r].mT) for b, r in zip(bands, reach, strict=True)]
    views_nVV.index_copy_(0, chosen_b, torch.cat(both, 2, out=sharp_bVV))


def blur_matrices(weights_bD: Tensor, size: int, half: int) -> Tensor:
    """(b, V, V): row i has the weights of the pixels in pixel i, those beyond an edge added to their mirror images."""
    matrices_bVV = weights_bD[:, : 2 * size - 1].unfold(1, size, 1).flip(1)
    mirrored_bhh = weights_bD[:, size : size + 2 * half - 1].unfold(1, half, 1)
    matrices_bVV[:, :half, 1 : half + 1] += mirrored_bhh
    matrices_bVV[:, size - half :, size - 1 - half : size - 1] += mirrored_bhh.flip(1, 2)
    return matrices_bVV


def noise_rows(p: ViewParameters) -> dict[str, Row]:
    """What `noise_terms` needs: the 64 bits of each film's seed."""
    low, high = (p.noise_seed & np.uint64(0xFFFFFFFF)), (p.noise_seed >> np.uint64(32))
    return {"seed_low": low.astype(np.uint32).view(np.int32), "seed_high": high.astype(np.uint32).view(np.int32)}


def noise_terms(rows: Rows) -> Rows:
    """What `add_noise` needs."""
    return {name: rows[name].unsqueeze(1) for name in ("seed_low", "seed_high")}


def add_noise(views_nVV: Tensor, terms: Rows, std: float, out_nVV: Tensor, work: Workspace) -> Tensor:
    """views + Gaussian noise of spread ``std``: a function of the film's seed and the pixel's number alone.

    32 well-mixed bits make two numbers for two pixels half a view apart (Box and Muller): 16 bits of radius, 16 of
    angle. So nothing is larger than 4.86 std, where one pixel in 800,000 would be.
    """
    views, out, pixels = views_nVV.flatten(1), out_nVV.flatten(1), views_nVV[0].numel()
    half, rest = (pixels + 1) // 2, pixels // 2
    radius_nP, angle_nP = noise_bits(terms["seed_low"], terms["seed_high"], half, work)
    radius_nP.add_(32768.5).mul_(2.0**-16).log_().neg_().sqrt_()
    angle_nP.mul_(2 * math.pi * 2.0**-16)
    cos_nP = torch.cos(angle_nP, out=work.take("cos", *angle_nP.shape))
    scale = math.sqrt(2.0) * std
    torch.addcmul(views[:, :half], cos_nP, radius_nP, value=scale, out=out[:, :half])
    torch.addcmul(views[:, half:], angle_nP.sin_()[:, :rest], radius_nP[:, :rest], value=scale, out=out[:, half:])
    return out_nVV


def noise_bits(low_n1: Tensor, high_n1: Tensor, count: int, work: Workspace) -> tuple[Tensor, Tensor]:
    """Two (n, count) float32 of whole numbers, uniform and independent: -32768 to 32767, and 0 to 65535.

    ``low_n1`` is where a film starts to count; ``high_n1`` changes what becomes of each count, so that films whose
    counts overlap do not share noise.
    """
    bits, moved = (work.take(name, len(low_n1), count, dtype=torch.int32) for name in ("bits", "moved"))
    counter_P = torch.arange(count, dtype=torch.int32, device=low_n1.device).mul_(_STEP)
    torch.add(counter_P, low_n1, out=bits)
    bits ^= high_n1
    bits ^= torch.bitwise_right_shift(bits, 16, out=moved).bitwise_and_(0xFFFF)  # int32 shifts its sign in
    bits *= _MIX_1
    bits ^= torch.bitwise_right_shift(bits, 15, out=moved).bitwise_and_(0x1FFFF)
    bits *= _MIX_2
    bits ^= torch.bitwise_right_shift(bits, 16, out=moved)
    bits &= 0xFFFF
    # In the same memory, number by number: more memory would push these films' pixels out of the cache.
    return moved.view(torch.float32).copy_(moved), bits.view(torch.float32).copy_(bits)
