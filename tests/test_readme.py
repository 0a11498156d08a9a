"""The README stays true: generated help, commands that exist, the map of the house, no registry's address."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from scarce_cli.commands import TABLE

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_help_in_the_readme_is_the_programs() -> None:
    spec = importlib.util.spec_from_file_location("readme_help", ROOT / "tests" / "readme_help.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.with_help(TEXT) == TEXT, "run: python tests/readme_help.py"


def test_every_command_in_the_readme_exists() -> None:
    used = set(re.findall(r"^\s*(?:\.venv/bin/)?scarce ([a-z][a-z-]+)", TEXT, re.M))
    assert used
    assert used <= {name for name, _, _ in TABLE}


def test_the_map_of_the_house_names_every_room() -> None:
    rooms = {p.name for p in (ROOT / "scarce_cli").iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    rooms |= {p.name for p in (ROOT / "scarce_cli").glob("[a-z]*.py")}
    assert not [room for room in rooms if f"  {room}" not in TEXT]


def test_the_readme_says_what_it_is_not_for() -> None:
    assert "not for diagnosis" in TEXT.lower()
