"""The rules of the house, tested: imports point down, nothing heavy at help, no method named in the engine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scarce_cli.commands import TABLE

PACKAGE = Path(__file__).parents[1] / "scarce_cli"
HEAVY = ("torch", "torchvision", "numpy", "scipy", "PIL", "yaml", "wandb", "matplotlib", "pydicom")
MODULES = sorted(PACKAGE.rglob("*.py"))


def _loaded_by(*arguments: str) -> set[str]:
    code = (
        "import sys\n"
        "from scarce_cli.cli import app\n"
        f"try: app({list(arguments)!r}, prog_name='scarce')\n"
        "except SystemExit: pass\n"
        f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    return set(re.findall(r"^LOADED (.*)$", done.stderr, re.M)[0].split()) if "LOADED " in done.stderr else set()


def test_help_loads_nothing_heavy() -> None:
    assert _loaded_by("--help") == set()


@pytest.mark.parametrize("command", [name for name, _, _ in TABLE])
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    assert _loaded_by(command, "--help") == set()


@pytest.mark.parametrize("wrong", ["run.epoch=1", "method.patc=8", "method.patch=1e-3"])
def test_a_wrong_setting_is_answered_without_torch(wrong: str) -> None:
    assert "torch" not in _loaded_by("pretrain", "spark", "--preset", "smoke", "--set", wrong)


@pytest.mark.parametrize("command", [name for name, _, _ in TABLE])
def test_every_command_has_an_example_in_its_help(command: str, scarce: Callable) -> None:
    result = scarce(command, "--help")
    assert result.code == 0
    assert f"Example: scarce {command}" in result.out
    assert "╭─" in result.out


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("scarce_cli")}


def test_a_probe_imports_no_method_and_methods_do_not_import_each_other() -> None:
    for path in (PACKAGE / "evaluation").rglob("*.py"):
        assert not [name for name in _imports(path) if ".methods" in name], path
    for path in (PACKAGE / "methods").glob("[a-z]*.py"):
        others = {f"scarce_cli.methods.{p.stem}" for p in path.parent.glob("[a-z]*.py")} - {
            "scarce_cli.methods.base",
            "scarce_cli.methods.settings",
            "scarce_cli.methods.regularizers",
            f"scarce_cli.methods.{path.stem}",
        }
        assert not _imports(path) & others, path


def test_preprocess_and_cache_never_import_torch() -> None:
    for name in ("preprocess", "cache", "build", "decode", "manifest", "audit", "labels", "order"):
        reached, todo = set(), [PACKAGE / "data" / f"{name}.py"]
        while todo:
            path = todo.pop()
            if path in reached or not path.exists():
                continue
            reached.add(path)
            text = path.read_text()
            assert not re.search(r"^\s*(import torch|from torch)", text, re.M), f"{name} reaches {path}"
            todo += [PACKAGE.parent / (m.replace(".", "/") + ".py") for m in _imports(path)]


def test_the_engine_names_no_method() -> None:
    from scarce_cli.methods import TABLE as METHODS

    for path in (PACKAGE / "engine").glob("*.py"):
        words = set(re.findall(r"[a-z]+", path.read_text().lower()))
        assert not words & set(METHODS), path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small_and_safe(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for forbidden in (r"weights_only\s*=\s*False", r"pickle\.loads?\(", r"yaml\.load\(", r"shell\s*=\s*True"):
        assert not re.search(forbidden, text)
    assert ast.get_docstring(ast.parse(text)), "every module says what it is for"
