"""The interpreters and environments that tests run code in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from k8s_venv.cache import cache_folder, exclusive_lock, lock_beside
from k8s_venv.locks import uv

CHECKOUT = Path(__file__).parent.parent


def interpreter(version: str) -> str:
    """Return the path of an installed Python, or skip the test.

    Args:
        version: its minor version, such as ``3.8``.
    """
    found = uv.find_interpreter(version)
    if not found:
        pytest.skip(f"Python {version} is not installed here")
    return found


def environment(version: str, *requirements: str) -> str:
    """Return the path of the Python of a virtual environment, made once and kept in the cache; or skip the test.

    Args:
        version: its minor version, such as ``3.8``.
        requirements: what is installed in it, from wheels only.
    """
    base = interpreter(version)
    if not requirements:
        return base
    digest = hashlib.sha256("\n".join([base, *requirements]).encode()).hexdigest()[:12]
    folder = cache_folder() / "test-environments" / f"{version}-{digest}"
    python = folder / "bin" / "python"
    with exclusive_lock(lock_beside(folder)):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                uv.run(["venv", "--quiet", "--python", base, str(folder)])
                uv.run(["pip", "install", "--quiet", "--only-binary=:all:", "--python", str(python), *requirements])
            except uv.UvError as error:
                pytest.skip(f"{', '.join(requirements)} cannot be installed for Python {version}: {error}")
            (folder / "complete").touch()
    return str(python)


def run_code(python: str, code: str, *arguments: str) -> str:
    """Run code in an interpreter that sees the checkout and return what it printed.

    Args:
        python: the interpreter.
        code: what to run.
        arguments: its command line.
    """
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    result = subprocess.run(
        [python, "-c", code, *arguments], env=environ, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
