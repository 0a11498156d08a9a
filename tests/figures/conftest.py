"""What tests of figures share: the figures as drawn, to look into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from matplotlib.figure import Figure

from scarce_cli.figures import calibration, cases, collapse, learning, training
from scarce_cli.figures.page import page

DRAWING = (calibration, cases, collapse, learning, training)  # modules that open a page


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as drawn, in order."""
    drawn: list[Figure] = []

    @contextmanager
    def spy(*args: object, **kwargs: object) -> Iterator[object]:
        with page(*args, **kwargs) as (figure, axes):  # type: ignore[arg-type]
            drawn.append(figure)
            yield figure, axes

    for module in DRAWING:
        monkeypatch.setattr(module, "page", spy)
    return drawn
