"""On the CPU: what torch frees stays with this process, for the next step.

glibc takes every large block from the kernel and gives it back as soon as it is freed. Every step then waits until
the kernel has cleared the same memory anew, page by page: a quarter of a step of a ResNet at 224 px.
"""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt, in malloc.h
_NEVER, _NONE = -1, 0


def keep_memory() -> bool:
    """Keep what is freed, to the end of the process or until `give_back_memory`. False where the C library is not
    glibc: nothing is changed there."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # others have a mallopt too, with other numbers
        return bool(library.mallopt(_MMAP_MAX, _NONE) and library.mallopt(_TRIM_THRESHOLD, _NEVER))
    return False


def give_back_memory() -> None:
    """Give the kernel what is kept and not in use."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
