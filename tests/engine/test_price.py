"""Hours, dollars and bytes as a person reads them."""

from __future__ import annotations

import pytest

from scarce_cli.engine.price import bytes_in_words, dollars, hours


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (hours(1 / 3600), "1 s"),
        (hours(89 / 3600), "89 s"),
        (hours(0.2), "12 min"),
        (hours(1.5), "1.5 hours"),
        (hours(74.4), "74 hours"),
        (dollars(0), "$0.00"),
        (dollars(0.068), "$0.07"),
        (dollars(9.5), "$9.50"),
        (dollars(1092.4), "$1,092"),
        (bytes_in_words(2**29), "512 MiB"),
        (bytes_in_words(29 * 2**29), "14.5 GiB"),
    ],
)
def test_figures_have_as_many_digits_as_matter(said: str, words: str) -> None:
    assert said == words
