"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import contextlib
import decimal
import os
import random
import resource
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.config.environment import Environment
from k8s_venv.config.project import Project, load_project
from k8s_venv.locks import uv

pytest.register_assert_rewrite("tests.contract")

# What the shell of whoever runs the tests may say, and what would change their outcome.
_SETTINGS = ("K8S_VENV_PROJECT", "K8S_VENV_REGISTRY", "K8S_VENV_BACKEND")

BASE_REGISTRY = "K8S_VENV_BASE_REGISTRY"


def pytest_configure() -> None:
    """Leave no core dumps of processes that tests end; take base images from the tests' registry if it has them."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    registry = os.environ.get("K8S_VENV_TEST_REGISTRY")
    if registry and BASE_REGISTRY not in os.environ:
        from k8s_venv.registry import RegistryError, resolve_base

        with contextlib.suppress(RegistryError):
            resolve_base(f"{registry}/library/python:3.12-slim-bookworm", attempts=1)
            os.environ[BASE_REGISTRY] = f"{registry}/library"


Command = Callable[..., "subprocess.CompletedProcess[str]"]
ProjectWriter = Callable[..., Project]


@pytest.fixture(autouse=True)
def python_settings() -> Generator[None, None, None]:
    """Undo what samples set for the whole process."""
    digits, state = sys.get_int_max_str_digits(), random.getstate()
    with decimal.localcontext():
        yield
    sys.set_int_max_str_digits(digits)
    random.setstate(state)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as in a shell that has none of our variables, apart from the cache's."""
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write_project(tmp_path: Path) -> ProjectWriter:
    """Return a function that writes a project file, and others beside it, and loads it."""

    def write(text: str, *, file: str = "k8s-venv.toml", **others: str) -> Project:
        for name, content in others.items():
            (tmp_path / name.replace("_txt", ".txt")).write_text(content, "utf-8")
        path = tmp_path / file
        path.write_text(textwrap.dedent(text), "utf-8")
        return load_project(path)

    return write


@pytest.fixture
def cli(tmp_path: Path, no_settings: None) -> Command:
    """Return a function that runs ``k8s-venv`` in a folder of its own, as a user would."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from k8s_venv.cli import main; main(prog_name='k8s-venv')", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def in_process(tmp_path: Path, no_settings: None, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs ``k8s-venv`` in a folder of its own, in this process, which takes less time."""
    from click.testing import CliRunner

    from k8s_venv.cli import main

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        ran = CliRunner(catch_exceptions=False).invoke(main, arguments, prog_name="k8s-venv", env=environ)
        return subprocess.CompletedProcess(arguments, ran.exit_code, ran.stdout, ran.stderr)

    return run


@pytest.fixture
def bare_environment(tmp_path: Path) -> Callable[[str], Environment]:
    """Return a function that gives a locked environment of a Python version, without any packages."""

    def make(python: str) -> Environment:
        from k8s_venv.locks.locking import write_lock

        if uv.find_interpreter(python) is None:
            pytest.skip(f"Python {python} is not installed here")
        environment = Environment(name="bare", root=tmp_path, python=python)
        write_lock(environment)
        return environment

    return make


@pytest.fixture(scope="session")
def package_index() -> None:
    """Skip where no package index can be reached."""
    try:
        uv.run(["pip", "compile", "-", "--python", sys.executable], stdin="idna")
    except uv.UvError as error:
        pytest.skip(f"needs a package index: {error}")


@pytest.fixture
def test_registry() -> str:
    """Return a registry prefix that no other test uses, on the registry that ``K8S_VENV_TEST_REGISTRY`` names."""
    registry = os.environ.get("K8S_VENV_TEST_REGISTRY")
    if not registry:
        pytest.skip("needs a registry to push to: K8S_VENV_TEST_REGISTRY=localhost:5000, and a Docker Engine")
    return f"{registry}/test-{uuid.uuid4().hex[:8]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Where a cluster is required, a skipped cluster test is a failure."""
    report = yield
    if report.skipped and item.get_closest_marker("cluster") and os.environ.get("K8S_VENV_REQUIRE_CLUSTER"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where K8S_VENV_REQUIRE_CLUSTER asks for it: {report.longrepr}"
    return report
