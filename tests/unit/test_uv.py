"""Calling uv: what goes in, what comes out, what is made of its errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8s_venv.errors import K8sVenvError
from k8s_venv.locks import uv
from k8s_venv.locks.uv import uv_variables


def test_the_cache_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "new" / "cache"))

    uv.run(["pip", "compile", "-", "--python", sys.executable], stdin="")

    assert (tmp_path / "new" / "cache" / "uv").is_dir()


def test_a_relative_cache_is_meant_from_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("K8S_VENV_CACHE", "cache")

    uv.run(["pip", "compile", "-", "--python", sys.executable], stdin="", cwd=Path("/"))

    assert (tmp_path / "cache" / "uv").is_dir()


def test_a_cache_that_cannot_be_written_to_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_VENV_CACHE", "/dev/null/cache")

    with pytest.raises(K8sVenvError, match=r"The cache folder /dev/null/cache cannot be written to .* K8S_VENV_CACHE"):
        uv.run(["--version"])


def test_the_output_is_returned_and_progress_gets_the_rest_line_by_line() -> None:
    lines: list[str] = []

    output = uv.run(["--verbose", "pip", "compile", "-", "--python", sys.executable], progress=lines.append)

    assert output.startswith("#")
    assert lines
    assert not any("\n" in line for line in lines)


def test_a_failure_carries_what_uv_said() -> None:
    with pytest.raises(uv.UvError, match="no-such-option"):
        uv.run(["pip", "compile", "--no-such-option"])


def test_more_output_and_more_input_than_a_pipe_holds_pass(tmp_path: Path) -> None:
    comments = "\n".join(f"# {number:0100}" for number in range(10_000))

    assert uv.run(["pip", "compile", "-", "--python", sys.executable], stdin=comments).strip().startswith("#")


@pytest.mark.parametrize("name", ["UV_CONSTRAINT", "UV_PROJECT", "UV_WORKING_DIR", "UV_CONFIG_FILE", "VIRTUAL_ENV"])
def test_what_the_shell_says_to_uv_does_not_change_what_is_resolved(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/nowhere")

    assert uv.run(["pip", "compile", "-", "--python", sys.executable], stdin="").startswith("#")


def test_where_packages_come_from_is_for_the_shell_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_INDEX_URL", "http://localhost:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")

    with pytest.raises(uv.UvError, match="localhost:1"):
        uv.run(["pip", "compile", "-", "--python", sys.executable, "--refresh"], stdin="idna")


@pytest.mark.parametrize("name", ["PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT"])
def test_a_timeout_is_known_by_both_of_pip_s_names(name: str) -> None:
    assert uv_variables({"PIP_CONFIG_FILE": os.devnull, name: "60"}) == {"UV_HTTP_TIMEOUT": "60"}


def test_warnings_are_dropped_from_what_uv_says() -> None:
    warning = "warning: Failed to inspect an interpreter\n  cause: it is broken\n\n"
    error = "error: No solution found\n  cause: Because a depends on b"

    assert uv.without_warnings(f"{warning}{error}\n{warning}") == error


@pytest.mark.parametrize("version", ["3.8", "3.11", "3.12", "3.13"])
def test_an_interpreter_has_the_version_that_was_asked_for(version: str) -> None:
    found = uv.find_interpreter(version)
    if found is None:
        pytest.skip(f"Python {version} is not installed here")

    said = subprocess.run([found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True)

    assert said.stdout.decode().strip() == version


def test_a_python_that_does_not_exist_is_known_for_that() -> None:
    assert uv.find_interpreter("3.99") is None
    assert not uv.is_known("3.99")
    assert uv.is_known("{}.{}".format(*sys.version_info))
