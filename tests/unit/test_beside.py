"""Which files beside a DAG file travel with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from k8s_venv.capture.origins import imported_names, modules_beside, why_absent


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


def test_a_star_import_of_a_package_brings_the_modules_that_it_lists(project: Path) -> None:
    (project / "shared" / "__init__.py").write_text("__all__ = ['util', 'x']\n")
    (project / "only.py").write_text("from shared import *\n")

    assert found(project, "only.py") == {"shared/__init__.py", "shared/util.py"}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("common/util.py", "common/__init__.py common/util.py", {"second/common/__init__.py", "second/common/util.py"}),
        ("common.py", "common/__init__.py common/util.py", {"first/common.py"}),
        ("common/util.py", "common/other.py", {"first/common/util.py", "second/common/other.py"}),
    ],
)
def test_of_several_folders_that_is_taken_which_python_takes(
    first: str, second: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*(f"first/{name}" for name in first.split()), *(f"second/{name}" for name in second.split())]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for folder in ("second", "first"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))

    taken = modules_beside(["common.util", "common.other"], None, tmp_path)

    assert {str(path.relative_to(tmp_path)) for path in taken.values()} == expected


def test_plugins_beside_the_dags_travel_and_folders_elsewhere_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dags/dag.py", "plugins/plugin.py", "else/where/other.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    monkeypatch.syspath_prepend(str(tmp_path / "else" / "where"))
    file, root = tmp_path / "dags" / "dag.py", tmp_path / "dags"

    assert set(modules_beside(["plugin", "other"], file, root)) == {"plugin.py"}
    assert why_absent("other", file, root) == (
        f"It is {tmp_path}/else/where/other.py, which lies outside of the project's folder {root} and does not travel. "
        f"Move the project file and the locks to {tmp_path}, so that both lie below it."
    )


def test_a_project_can_lie_inside_the_prefix_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "airflow" / "dags").mkdir(parents=True)
    (tmp_path / "airflow" / "include").mkdir()
    (tmp_path / "airflow" / "include" / "tools.py").write_text("")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "airflow"))
    file, root = tmp_path / "airflow" / "dags" / "dag.py", tmp_path / "airflow"

    assert set(modules_beside(["include.tools"], file, root)) == {"include/tools.py"}


def test_installed_packages_and_the_standard_library_stay_behind(project: Path) -> None:
    (project / "only.py").write_text("import pytest, json, os.path\n")

    assert found(project, "only.py") == set()


def test_a_file_that_does_not_parse_is_left_to_its_import(project: Path) -> None:
    (project / "broken.py").write_text("def (")
    (project / "only.py").write_text("import broken\n")

    assert found(project, "only.py") == {"broken.py"}
