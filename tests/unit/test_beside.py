"""Which files beside a DAG file travel with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s_venv.calls.source.beside import imported_names, modules_beside


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "dag.py": "import helpers.clean\nfrom shared import util\nimport json\n",
        "helpers/__init__.py": "from . import extra\n",
        "helpers/clean.py": "from .deep.more import x\n",
        "helpers/extra.py": "import helpers.clean\n",
        "helpers/unused.py": "",
        "helpers/deep/__init__.py": "",
        "helpers/deep/more.py": "def f():\n    import late\n",
        "late.py": "",
        "shared/util.py": "",
        "other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def found(project: Path, file: str = "dag.py", package: str = "") -> set[str]:
    path = project / file
    return set(modules_beside(imported_names(path, package), path, project))


def test_imports_are_followed_through_packages_relative_and_late_ones(project: Path) -> None:
    assert found(project) == {
        "helpers/__init__.py",
        "helpers/clean.py",
        "helpers/extra.py",
        "helpers/deep/__init__.py",
        "helpers/deep/more.py",
        "late.py",
        "shared/util.py",
    }


def test_imports_by_a_constant_text_are_followed(project: Path) -> None:
    (project / "only.py").write_text("def __getattr__(name): return importlib.import_module('late')\n")

    assert found(project, "only.py") == {"late.py"}


def test_packages_without_init_can_be_imported(project: Path) -> None:
    (project / "only.py").write_text("from shared.util import x\n")

    assert found(project, "only.py") == {"shared/util.py"}


def test_installed_packages_and_the_standard_library_stay_behind(project: Path) -> None:
    (project / "only.py").write_text("import pytest, json, os.path\n")

    assert found(project, "only.py") == set()


def test_a_file_that_does_not_parse_is_left_to_its_import(project: Path) -> None:
    (project / "broken.py").write_text("def (")
    (project / "only.py").write_text("import broken\n")

    assert found(project, "only.py") == {"broken.py"}
