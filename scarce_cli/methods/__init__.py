"""The table of methods. Adding one: its module, its line here, a preset, a test file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from scarce_cli.errors import UsageError
from scarce_cli.presets import nearest

if TYPE_CHECKING:
    from scarce_cli.config import Settings
    from scarce_cli.methods.base import Method

# Name -> "module:class". None: the recipe is written down (presets/), the method is not built yet.
TABLE: dict[str, str | None] = {
    "spark": "scarce_cli.methods.spark:SparK",
    "moco": "scarce_cli.methods.moco:MoCo",
    "barlow": "scarce_cli.methods.barlow:BarlowTwins",
    "dino": "scarce_cli.methods.dino:DINO",
}


def check_name(name: str) -> None:
    """UsageError when there is no such method, or when it is not built yet. Imports nothing heavy."""
    if name not in TABLE:
        raise UsageError(f"no method '{name}'{nearest(name, TABLE)}", f"methods: {', '.join(TABLE)}")
    if TABLE[name] is None:
        built = ", ".join(method for method, place in TABLE.items() if place)
        raise UsageError(f"{name} is not built yet; its recipe in presets/ is for reading", f"built: {built}")


def method_class(name: str) -> type[Method]:
    """The class of a method. Raises UsageError as `check_name`."""
    check_name(name)
    module, _, attribute = str(TABLE[name]).partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found


def settings_class(name: str) -> type[Settings]:
    """The class of a method's own settings: without loading torch where it stands in ``methods/settings.py``."""
    from scarce_cli.methods.settings import SETTINGS

    return SETTINGS.get(name) or method_class(name).settings_type
