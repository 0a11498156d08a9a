"""Why a film cannot be used. Not an error of the program or its user: the film is left out and listed."""

from __future__ import annotations

MAX_PIXELS = 64 * 10**6


class BadFilm(Exception):
    """The file cannot be used; the message is the reason, without the file's name."""


def check_pixels(width: int, height: int) -> None:
    """Refuse empty films and bombs by their declared size, before memory is taken for pixels."""
    if width < 1 or height < 1:
        raise BadFilm(f"declared size {width} x {height}: no pixels")
    if width * height > MAX_PIXELS:
        raise BadFilm(f"declared size {width} x {height}: more than {MAX_PIXELS // 10**6} megapixels")
