"""``k8s-venv init``: a project to begin with, also from a Dockerfile with ``PYENV`` lines.

Astronomer's provider for venvs has the instruction ``PYENV <python-version> <venv-name> [<requirements-file>]``. All
else follows the Dockerfile reference (https://docs.docker.com/reference/dockerfile/): comments, continuations, the
``escape`` directive and here-documents.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from k8s_venv.cli.console import console, counted
from k8s_venv.config import FILE, PLATFORMS
from k8s_venv.errors import K8sVenvError, ProjectError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

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


_DIRECTIVE = re.compile(r"#\s*(\w+)\s*=\s*(.*?)\s*$")
_HEREDOC = re.compile(r"<<-?\s*([\"']?)([A-Za-z_]\w*)\1")
_WITH_HEREDOCS = ("RUN", "COPY", "ADD")
_VERSION = re.compile(r"(\d+\.\d+)(?:\.\d+)?")
_USAGE = "PYENV <python-version> <venv-name> [<requirements-file>]"


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

    FOLDER, by default this one, gets k8s-venv.toml with one environment, its requirements, and a DAG that uses it. The
    command overwrites no file.

    \b
    Examples:
        k8s-venv init
        k8s-venv init --from-dockerfile Dockerfile

    --from-dockerfile writes k8s-venv.toml alone, with an environment for each line
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
    """Return the files of a project to begin with, and the next steps."""
    from k8s_venv.locks.resolving import host_platform

    here = host_platform()
    environment: dict[str, object] = {
        "python": "{}.{}".format(*sys.version_info),
        "requirements": f"{_NAME}-requirements.txt",
    }
    if here in PLATFORMS and here != PLATFORMS[0]:
        environment["platforms"] = [PLATFORMS[0], here]
    dag = f"dags/{_NAME}_isolated.py"
    files = {
        FILE: _project_file({_NAME: environment}),
        f"{_NAME}-requirements.txt": _REQUIREMENTS,
        dag: _DAG.format(file=dag, module=_airflow_module(), name=_NAME),
    }
    return files, f"  k8s-venv test --backend local {dag}"


def _project_file(environments: dict[str, dict[str, object]]) -> str:
    import tomli_w

    return _HEAD + tomli_w.dumps({"environments": environments})


def _airflow_module() -> str:
    try:
        major = importlib.metadata.version("apache-airflow").partition(".")[0]
    except importlib.metadata.PackageNotFoundError:
        major = "3"
    return "airflow.decorators" if major == "2" else "airflow.sdk"


def _imported(folder: Path, dockerfile: Path) -> tuple[dict[str, str], str]:
    """Return the project file for a Dockerfile, and the next steps."""
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
    return {
        FILE: _project_file(environments)
    }, f"  k8s-venv lock\nand in the DAGs, instead of the path of a venv's Python:\n{tasks}"


def _environment(folder: Path, dockerfile: Path, venv: Venv, packages: list[str]) -> dict[str, object]:
    environment: dict[str, object] = {"python": venv.python}
    if venv.requirements is not None:
        file = dockerfile.parent.resolve() / venv.requirements
        environment["requirements"] = Path(os.path.relpath(file, folder.resolve())).as_posix()
    if packages:
        environment["packages"] = packages
    return environment


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write files that do not exist yet; write none if one cannot be written."""
    from k8s_venv.config.project import has_project

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


@dataclasses.dataclass(frozen=True)
class Venv:
    """The venv that a ``PYENV`` line declares.

    Args:
        name: a valid name of an environment, made from the line's.
        written: the name as the line has it.
        python: the minor version.
        requirements: the requirements file's path, relative to the Dockerfile's folder, or None.
        line: the line's number.
    """

    name: str
    written: str
    python: str
    requirements: str | None
    line: int


def read_venvs(path: Path) -> list[Venv]:
    """Return the venvs that the ``PYENV`` lines of a Dockerfile declare.

    Args:
        path: the Dockerfile.

    Raises:
        ProjectError: it cannot be read, has no such line, or one of them is wrong.
    """
    venvs: list[Venv] = []
    for number, text in _instructions(_read(path)):
        keyword, *words = text.split()
        if keyword.upper() != "PYENV":
            continue
        venv = _venv(path, number, words)
        for other in venvs:
            if other.name == venv.name:
                raise ProjectError(f"Two venvs are named {venv.name!r}, here and on line {other.line}.", path, number)
        venvs.append(venv)
    if not venvs:
        raise ProjectError(f"This file has no line {_USAGE}, so it declares no environment.", path)
    return venvs


def read_packages(path: Path) -> list[str]:
    """Return the Debian packages that a ``packages.txt`` lists.

    Args:
        path: the file.

    Raises:
        ProjectError: it cannot be read, or lists something else.
    """
    from k8s_venv.config.environment import DEBIAN_PACKAGE

    found: dict[str, None] = {}
    for number, line in enumerate(_read(path).split("\n"), 1):
        for package in line.partition("#")[0].split():
            if not DEBIAN_PACKAGE.fullmatch(package):
                raise ProjectError(f"{package!r} is not a Debian package's name.", path, number)
            found[package] = None
    return list(found)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProjectError(f"This file is not UTF-8 text ({error}).", path) from None
    except OSError as error:
        raise ProjectError(f"This file cannot be read: {error.strerror}.", path) from None


def _instructions(text: str) -> Iterator[tuple[int, str]]:
    """Yield each instruction as one line, with the number of its first line."""
    lines = text.split("\n")
    escape = _escape(lines)
    started, parts = 0, list[str]()
    heredocs: list[str] = []
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if heredocs:
            if line == heredocs[0]:
                del heredocs[0]
            continue
        if not line or line.startswith("#"):
            continue  # also between the lines of an instruction
        started = started or number
        parts.append(line.removesuffix(escape).strip())
        if line.endswith(escape):
            continue
        whole = " ".join(part for part in parts if part)
        started, parts, first = 0, [], started
        if whole:
            yield first, whole
            if whole.split()[0].upper() in _WITH_HEREDOCS:
                heredocs = [name for _, name in _HEREDOC.findall(whole)]
    if whole := " ".join(part for part in parts if part):
        yield started, whole


def _escape(lines: list[str]) -> str:
    """Return the character that continues lines; directives come first in the file."""
    for line in lines:
        directive = _DIRECTIVE.match(line.strip())
        if not directive:
            break
        if directive[1].lower() == "escape" and directive[2] == "`":
            return "`"
    return "\\"


def _venv(path: Path, number: int, words: list[str]) -> Venv:
    from k8s_venv.config.environment import NAME, python_version

    if any("$" in word for word in words):
        raise ProjectError("A variable in a PYENV line has no value here. Write the value itself.", path, number)
    if len(words) not in (2, 3):
        raise ProjectError(f"This PYENV line has {counted(len(words), 'argument')}; write {_USAGE}.", path, number)
    version, written, *requirements = words
    minor = _VERSION.fullmatch(version)
    if not minor:
        hint = " The version comes first." if _VERSION.fullmatch(written) else ""
        raise ProjectError(f"{version!r} is not a Python version such as 3.8.{hint}", path, number)
    try:
        python = python_version(minor[1])
    except ValueError as error:
        raise ProjectError(f"The Python version {error}.", path, number) from None
    name = re.sub(r"[^a-z0-9]+", "-", written.lower()).strip("-")[:63].rstrip("-")
    name = written if NAME.fullmatch(written) else name
    if not NAME.fullmatch(name):
        raise ProjectError(f"{written!r} cannot be an environment's name.", path, number)
    file = requirements[0] if requirements else None
    if file is not None and not os.path.isfile(path.parent / file):  # noqa: PTH113 -- of any name
        near = did_you_mean(file, [found.name for found in path.parent.glob("*") if found.is_file()])
        raise ProjectError(f"The requirements file {file!r} does not exist in {path.parent}.{near}", path, number)
    return Venv(name, written, python, file, number)
