"""``k8s-venv init``."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import click
import tomli_w

from k8s_venv.cli.console import console
from k8s_venv.cli.dockerfile import Venv, read_packages, read_venvs
from k8s_venv.config import FILE, PLATFORMS
from k8s_venv.config.project import has_project
from k8s_venv.errors import K8sVenvError
from k8s_venv.locks.resolving import host_platform

_HEAD = """\
# The environments of isolated tasks. `k8s-venv lock` writes pylock.<environment>.toml beside this file; commit both.

# Where `k8s-venv build-images` pushes images, and the cluster pulls them from:
# registry = "registry.example.com/airflow"

"""
_NAME = "hello"
_REQUIREMENTS = """\
# What the environment needs; `k8s-venv lock hello` fixes exact versions.
humanize
"""
_DAG = '''\
"""Two tasks, one of them in a Python environment of its own.

    k8s-venv test --backend local {file}
"""

from {module} import dag, task


@dag(schedule=None, tags=["k8s-venv"])
def hello_isolated():
    @task.isolated("{name}")
    def in_words(seconds: int) -> str:
        import platform

        import humanize  # installed in the environment, not beside Airflow

        return f"{{humanize.naturaldelta(seconds)}} on Python {{platform.python_version()}}"

    @task
    def show(text: str) -> None:
        print(text)

    show(in_words(90_000))


hello_isolated()
'''


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option(
    "--from-dockerfile",
    "dockerfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the environments from PYENV lines, and Debian packages from packages.txt beside it.",
)
def init(folder: Path, dockerfile: Path | None) -> None:
    """Write a project to begin with.

    FOLDER, by default this one, gets k8s-venv.toml with one environment, its requirements, and a DAG that uses it.
    Nothing is ever overwritten.

    \b
    Examples:
        k8s-venv init
        k8s-venv init --from-dockerfile Dockerfile

    With --from-dockerfile, k8s-venv.toml alone is written, with an environment for each line
    PYENV <python-version> <venv-name> [<requirements-file>], as Astronomer's Dockerfiles have them.
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    if dockerfile is None:
        files, steps = _starter()
    else:
        files, steps = _imported(folder, dockerfile)
    _write(folder, files)
    for name in files:
        click.echo(os.path.normpath(folder / name))
    console().print(f"\nNext:\n{steps}")


def _starter() -> tuple[dict[str, str], str]:
    """Return the files of a project to begin with, and what to do next."""
    here = host_platform()
    environment: dict[str, object] = {
        "python": "{}.{}".format(*sys.version_info),
        "requirements": f"{_NAME}-requirements.txt",
    }
    if here in PLATFORMS and here != PLATFORMS[0]:
        environment["platforms"] = [PLATFORMS[0], here]
    dag = f"dags/{_NAME}_isolated.py"
    files = {
        FILE: _HEAD + tomli_w.dumps({"environments": {_NAME: environment}}),
        f"{_NAME}-requirements.txt": _REQUIREMENTS,
        dag: _DAG.format(file=dag, module=_airflow_module(), name=_NAME),
    }
    return files, f"  k8s-venv test --backend local {dag}"


def _airflow_module() -> str:
    try:
        major = importlib.metadata.version("apache-airflow").partition(".")[0]
    except importlib.metadata.PackageNotFoundError:
        major = "3"
    return "airflow.decorators" if major == "2" else "airflow.sdk"


def _imported(folder: Path, dockerfile: Path) -> tuple[dict[str, str], str]:
    """Return the project file for a Dockerfile, and what to do next."""
    venvs = read_venvs(dockerfile)
    listed = dockerfile.parent / "packages.txt"
    packages = read_packages(listed) if listed.is_file() else []
    environments = {venv.name: _environment(folder, dockerfile, venv, packages) for venv in venvs}
    for venv in venvs:
        if venv.name != venv.written:
            console().print(f"{venv.written} (line {venv.line}) is named {venv.name} here.")
    if packages:
        console().print(f"Each environment gets the Debian packages of {listed}: remove what it does not need.")
    tasks = "\n".join(f'  @task.isolated("{name}")' for name in environments)
    text = _HEAD + tomli_w.dumps({"environments": environments})
    return {FILE: text}, f"  k8s-venv lock\nand in the DAGs, instead of the path of a venv's Python:\n{tasks}"


def _environment(folder: Path, dockerfile: Path, venv: Venv, packages: list[str]) -> dict[str, object]:
    environment: dict[str, object] = {"python": venv.python}
    if venv.requirements is not None:
        file = dockerfile.parent.resolve() / venv.requirements
        environment["requirements"] = Path(os.path.relpath(file, folder.resolve())).as_posix()
    if packages:
        environment["packages"] = packages
    return environment


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write files that do not exist yet, or none at all."""
    if has_project(folder):
        raise K8sVenvError(f"{folder.resolve()} has a project already. `k8s-venv init` never overwrites one.")
    if existing := [name for name in files if (folder / name).exists()]:
        raise K8sVenvError(f"{', '.join(existing)} in {folder.resolve()} would be overwritten, so nothing was written.")
    written: list[Path] = []
    try:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("x", encoding="utf-8") as stream:
                written.append(folder / name)
                stream.write(text)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        place = error.filename or folder.resolve()
        raise K8sVenvError(f"{place} cannot be written: {error.strerror}. Nothing was written.") from None
