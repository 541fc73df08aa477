"""Builds with BuildKit that fail: what is said, and what is left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.engine_proxy import engine_proxy

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings", "client")]


@pytest.mark.usefixtures("package_index")
def test_a_failed_compilation_names_the_debian_packages(cli: Command, test_registry: str, tmp_path: Path) -> None:
    (tmp_path / "k8s-venv.toml").write_text(
        '[environments.etl]\npython = "3.11"\nbuilder = "buildkit"\npackages = ["jq"]\n'
        'requirements = ["psycopg2==2.9.9"]\n'
    )

    ran = cli("build-images", "--load", K8S_VENV_REGISTRY=test_registry)

    assert ran.returncode == 1
    assert (
        "Error: Environment 'etl': psycopg2==2.9.9 has no wheel, and could not be compiled. Debian has what it lacks: "
        'packages = ["jq", "libpq-dev"] in [environments.etl]. The last lines of the build:' in ran.stderr
    )
    assert "Error: pg_config executable not found." in ran.stderr
    assert "/bin/sh -c" not in ran.stderr


def test_an_engine_that_ends_in_the_middle_is_said(test_registry: str, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "k8s-venv.toml").write_text(
        f'[environments.slow]\npython = "3.12"\ndockerfile = ["RUN echo {uuid.uuid4()} && sleep 300"]\n'
    )
    # A socket's path must be short.
    with tempfile.TemporaryDirectory() as folder, engine_proxy(Path(folder)) as proxy:
        if proxy is None:
            pytest.skip("needs an engine with a socket on this machine")
        process = subprocess.Popen(
            [sys.executable, "-c", "from k8s_venv.cli import main; main()", "build-images", "--load"],
            cwd=tmp_path,
            env={
                **os.environ,
                "K8S_VENV_REGISTRY": test_registry,
                "DOCKER_HOST": proxy.address,
                "TMPDIR": str(tmp_path / "tmp"),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "Debian packages" in line:
                break
        proxy.cut()
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "Environment 'slow': Docker Engine ended, or the connection to it. Start it, and build again" in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "tmp").iterdir()) == []
