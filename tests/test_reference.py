"""Official numbers: every key of every file is checked, or stands in the table of what is not, with the reason.

``pytest tests/test_reference.py --reference DIR`` runs on other files of the same layout. A file of an unknown
family fails, and so does an unknown key: nothing is passed over in silence. The checks are in tests/official/.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.official import (
    barlow,
    collapse,
    dino,
    dino_steps,
    moco,
    probe,
    schedules,
    spark_encoder,
    spark_loss,
    spark_model,
    split_batch_norm,
    vicreg,
)
from tests.official.common import Family

COPIES = Path(__file__).parent / "reference"
FAMILIES: dict[str, Family] = {
    **barlow.FAMILIES,
    **moco.FAMILIES,
    **split_batch_norm.FAMILIES,
    **vicreg.FAMILIES,
    **dino.FAMILIES,
    **dino_steps.FAMILIES,
    **spark_loss.FAMILIES,
    **spark_encoder.FAMILIES,
    **spark_model.FAMILIES,
    **collapse.FAMILIES,
    **probe.FAMILIES,
    **schedules.FAMILIES,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each file."""
    if "file" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("--reference")
    folder = COPIES if given is None else metafunc.config.invocation_params.dir / given
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise pytest.UsageError(f"no .npz file in {folder}")
    metafunc.parametrize("file", files, ids=lambda path: path.stem)


def test_reference(file: Path) -> None:
    family = FAMILIES.get(file.name.partition("__")[0])
    assert family is not None, f"{file.name}: no test knows this family"
    with np.load(file, allow_pickle=False) as archive:
        data = {name: archive[name] for name in archive.files}
    entries = {name: family.entry(name) for name in data}
    unknown = sorted(name for name, entry in entries.items() if entry is None)
    assert not unknown, f"{file.name}: no test knows these keys: {unknown}"
    missing = (family.checks.keys() | family.unchecked.keys()) - family.optional - set(entries.values())
    assert not missing, f"{file.name} lacks {sorted(missing)}"
    found = {family.checks[entry]: None for entry in entries.values() if entry in family.checks}
    for check in found:
        check(data)  # one check may stand for several keys


def test_no_key_is_both_checked_and_excused() -> None:
    for family in FAMILIES.values():
        assert not family.checks.keys() & family.unchecked.keys()
