"""Each method's own settings, apart from the methods, so that a wrong one is answered without loading torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from scarce_cli.config import Count, Settings


class SparKSettings(Settings):
    """SparK's own settings."""

    masking: Literal["input"] = "input"  # patches zeroed in the input (part 4 of the series)
    patch: Count = 32  # px, side of a patch; the view's side is a multiple of it
    mask_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.60  # share of patches hidden
    decoder_width: Annotated[int, Field(ge=8, multiple_of=4)] = 256  # channels of the U-Net


SETTINGS: dict[str, type[Settings]] = {"spark": SparKSettings}
