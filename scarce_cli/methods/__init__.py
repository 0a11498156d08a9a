"""The table of methods. Adding one: its module, its line here, a preset, a test file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from scarce_cli.errors import UsageError
from scarce_cli.presets import nearest

if TYPE_CHECKING:
    from scarce_cli.config import Settings
    from scarce_cli.methods.base import Method

# Name -> "module:class".
TABLE: dict[str, str] = {
    "spark": "scarce_cli.methods.spark:SparK",
    "moco": "scarce_cli.methods.moco:MoCo",
    "barlow": "scarce_cli.methods.barlow:BarlowTwins",
    "dino": "scarce_cli.methods.dino:DINO",
}


def check_name(name: str) -> None:
    """UsageError when there is no such method. Imports nothing heavy."""
    if name not in TABLE:
        raise UsageError(f"no method '{name}'{nearest(name, TABLE)}", f"methods: {', '.join(TABLE)}")


def method_class(name: str) -> type[Method]:
    """The class of a method. Raises UsageError as `check_name`."""
    check_name(name)
    module, _, attribute = TABLE[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found


def settings_class(name: str) -> type[Settings]:
    """The class of a method's own settings: without loading torch where it stands in ``methods/settings.py``."""
    from scarce_cli.methods.settings import SETTINGS

    return SETTINGS.get(name) or method_class(name).settings_type
