"""Files that someone might hand us, for the tests of every loader."""

from __future__ import annotations

import io
import tarfile


def torch_tar(member: bytes) -> bytes:
    """torch's oldest format: a tar file of pickles, all of them ``member``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(member)
            archive.addfile(entry, io.BytesIO(member))
    return buffer.getvalue()
