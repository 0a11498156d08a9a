"""``scarce visualize``: see what a method has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scarce_cli.commands.pretrain import Device


def visualize(
    method: Annotated[str, typer.Argument(help="spark: what it paints into masked films.")],
    checkpoint: Annotated[Path, typer.Argument(help="A run's checkpoint, such as runs/spark-cpu/last.pt.")],
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set. Default: the one the checkpoint was trained on.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG to write. Default: reconstructions.png beside the checkpoint.")
    ] = None,
    films: Annotated[int, typer.Option(min=1, max=64, help="Rows to draw.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the films and the masks.")] = 0,
    device: Annotated[Device | None, typer.Option(help="Where to compute. Default: the GPU if there is one.")] = None,
) -> None:
    """Draw original, masked input, prediction and composite for a few films."""
    from scarce_cli.errors import UsageError
    from scarce_cli.methods import check_name

    check_name(method)

    from scarce_cli.commands.console import say
    from scarce_cli.commands.inputs import compute_device, open_data
    from scarce_cli.engine.reconstruct import reconstruct_films
    from scarce_cli.engine.state import load_method
    from scarce_cli.figures.reconstruction import draw_reconstructions
    from scarce_cli.files import make_folder

    model, info, origin = load_method(checkpoint)
    if origin["method"] != method:
        raise UsageError(
            f"{checkpoint} was trained with {origin['method']}, not {method}",
            f"scarce visualize {origin['method']} {checkpoint}",
        )
    where = compute_device(device)
    rows = reconstruct_films(model, info, open_data(origin["data"], data), count=films, seed=seed, device=where)
    path = out or checkpoint.parent / "reconstructions.png"
    make_folder(path.parent)
    draw_reconstructions(rows, f"{method}, epoch {origin['epoch']}: {checkpoint.name}", path)
    say(f"Written: {path}")
