"""What travels to an environment needs nothing there but Python 3.8 and its standard library."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import k8s_venv

PACKAGE = Path(k8s_venv.__file__).parent
WIRE, RUNNER = sorted((PACKAGE / "wire").glob("*.py")), sorted((PACKAGE / "runner").glob("*.py"))
TRAVELLING = [PACKAGE / "runtime.py", *WIRE, *RUNNER]
OF_OLDER_PYTHONS = {"_sha256"}


def imported(module: Path) -> Iterator[str]:
    """Yield what a module imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", TRAVELLING, ids=lambda module: f"{module.parent.name}/{module.name}")
def test_it_imports_the_standard_library_alone(module: Path) -> None:
    packages = {name.partition(".")[0] for name in imported(module)}

    assert packages <= sys.stdlib_module_names | OF_OLDER_PYTHONS | {"k8s_venv"}


@pytest.mark.parametrize("module", TRAVELLING, ids=lambda module: f"{module.parent.name}/{module.name}")
def test_of_this_package_it_imports_only_what_travels_as_well(module: Path) -> None:
    below = {"runtime"} if module in WIRE else {"runtime", "wire", "runner"} if module in RUNNER else set()
    own = {name.split(".")[1] for name in imported(module) if name.startswith("k8s_venv.")}

    assert own <= {*below, module.parent.name}


@pytest.mark.parametrize("module", TRAVELLING, ids=lambda module: f"{module.parent.name}/{module.name}")
def test_python_3_8_can_parse_it(module: Path) -> None:
    ast.parse(module.read_text("utf-8"), feature_version=(3, 8))
