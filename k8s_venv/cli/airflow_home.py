"""An Airflow for commands that load DAG files: its home and database, made before Airflow is imported."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv import cache
from k8s_venv.cli.console import console
from k8s_venv.config import PROJECT_VARIABLE
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DAGS_FOLDER = "AIRFLOW__CORE__DAGS_FOLDER"
_PLUGINS_FOLDER = "AIRFLOW__CORE__PLUGINS_FOLDER"
# Settings that the user's own win over. Logs have the lines that tasks print and faults, not those of Airflow's parts.
_SETTINGS = {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH": "100",
    # The command itself reports the faults of a DAG file.
    "AIRFLOW__LOGGING__NAMESPACE_LEVELS": (
        "airflow.task.operators=INFO,py.warnings=ERROR,airflow.dag_processing=CRITICAL"
    ),
    "AIRFLOW__LOGGING__LOG_FORMAT": "%(message)s",
    "AIRFLOW__METRICS__TIMER_UNIT_CONSISTENCY": "True",  # Airflow 2 warns without it
}


def files_to_load(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the Python files that paths name, those of folders included.

    Args:
        paths: files and folders.
    """
    for path in paths:
        if path.is_dir():
            found = path.rglob("*.py")
            yield from sorted(file for file in found if not file.is_dir() and "__pycache__" not in file.parts)
        else:
            yield path


@contextlib.contextmanager
def airflow_home(path: Path, project: Path | None, *, log_level: str = "CRITICAL") -> Iterator[None]:
    """Give Airflow a home for one command, unless the user has one; this must come before Airflow's import.

    Args:
        path: a DAG file, or the folder of DAG files.
        project: the value of ``--project``, for the tasks in them.
        log_level: the lowest level at which Airflow's own parts log.

    Raises:
        K8sVenvError: Airflow is not installed.
    """
    if importlib.util.find_spec("airflow") is None:
        raise K8sVenvError("DAG files need Airflow: pip install 'k8s-venv[airflow]'.")
    if project:
        os.environ[PROJECT_VARIABLE] = str(project.resolve())
    _find_dags(path.resolve() if path.is_dir() else path.resolve().parent)
    for name, value in {**_SETTINGS, "AIRFLOW__LOGGING__LOGGING_LEVEL": log_level}.items():
        os.environ.setdefault(name, value)
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(gc.freeze)  # or Python searches all of Airflow's objects for garbage before it ends
        if "AIRFLOW_HOME" not in os.environ:
            home = at_the_end.enter_context(tempfile.TemporaryDirectory(prefix="k8s-venv-airflow-"))
            os.environ["AIRFLOW_HOME"] = home
            os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{home}/airflow.db"
            shutil.copy(_empty_database(), Path(home) / "airflow.db")
        yield


def _find_dags(dags: Path) -> None:
    """Let Airflow and Python find the modules of DAG files, as Airflow's own processes do."""
    whole = next((folder for folder in (dags, *dags.parents) if folder.name == "dags"), dags)
    configured = os.environ.get(_DAGS_FOLDER, str(whole))
    os.environ[_DAGS_FOLDER] = configured if dags.is_relative_to(configured) else str(dags)
    sys.path += [folder for folder in dict.fromkeys((str(dags), configured)) if folder not in sys.path]
    if "AIRFLOW_HOME" not in os.environ and (whole.parent / "plugins").is_dir():
        os.environ.setdefault(_PLUGINS_FOLDER, str(whole.parent / "plugins"))  # beside the DAGs, as in Airflow's home


def _empty_database() -> Path:
    """Return an empty Airflow database, made once for each version of Airflow."""
    version = _airflow_version()
    path = cache.airflow_database(version)
    with cache.exclusive_lock(cache.lock_beside(path)):
        if path.exists():
            return path
        console().print(f"Preparing a database for Airflow {version} (once)")
        with cache.install_folder(f"airflow-{version}") as home:
            partial = home / "airflow.db"
            environ = {
                **os.environ,
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{partial}",
            }
            made = subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"],
                env=environ,
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                raise K8sVenvError(f"Airflow's database could not be prepared:\n{made.stderr or made.stdout}")
            partial.replace(path)
    return path


def _airflow_version() -> str:
    try:
        return importlib.metadata.version("apache-airflow-core")
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version("apache-airflow")  # one package before Airflow 3
