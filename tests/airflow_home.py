"""An Airflow for tests: a home and a database of its own, made before Airflow is first imported."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest


def _version() -> str:
    try:
        return importlib.metadata.version("apache-airflow")
    except importlib.metadata.PackageNotFoundError:
        return ""


VERSION = _version()  # without importing it; nothing where it is not installed
AIRFLOW = "airflow.decorators" if VERSION.startswith("2.") else "airflow.sdk"  # what the DAG files of tests import from
HEAD = f"from {AIRFLOW} import dag, setup, task, task_group, teardown\nfrom k8s_venv import IsolatedOperator, runtime\n"
# A project with one environment, of this Python.
SAME = """
[environments.same]
python = "{}.{}"
""".format(*sys.version_info)

LoadText = Callable[[str], Any]
RunText = Callable[[str], tuple[dict[str, str], dict[str, Any]]]


def require_airflow() -> None:
    """Skip the test where Airflow is not installed; this does not import it."""
    if importlib.util.find_spec("airflow") is None:
        pytest.skip("Airflow is not installed")


@functools.cache
def airflow_home() -> Path:
    """Return Airflow's home for this test session; nothing else may have set one up."""
    require_airflow()
    if "airflow" in sys.modules:
        raise RuntimeError("Airflow was imported before its home was set")
    home = Path(tempfile.mkdtemp(prefix="k8s-venv-test-airflow-"))
    os.environ["AIRFLOW_HOME"] = str(home)
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{home}/airflow.db"
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    return home


@contextmanager
def dags_folder(folder: Path, **variables: str) -> Iterator[None]:
    """Let Airflow take its DAGs from a folder, with more variables of the surroundings."""
    airflow_home()
    with (
        patch.dict(os.environ, {"AIRFLOW__CORE__DAGS_FOLDER": str(folder), **variables}),
        patch("airflow.settings.DAGS_FOLDER", str(folder)),
        patch("sys.path", [*sys.path, str(folder)]),
    ):
        yield
