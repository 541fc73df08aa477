"""The way to Docker Engine."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s_venv.builders.engine import EngineError, connect

pytest.importorskip("docker", reason="needs the docker extra")


@pytest.fixture
def forbidden_socket() -> Iterator[str]:
    """Return the address of an engine that others may use; root, who may use every one, is nobody meanwhile."""
    user = os.geteuid()
    # A socket's path must be short.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as engine:
        path = Path(folder) / "docker.sock"
        engine.bind(str(path))
        engine.listen()
        path.chmod(0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield f"unix://{path}"
        finally:
            os.seteuid(user)


def test_an_engine_that_others_may_use_is_told_from_none(
    forbidden_socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", forbidden_socket)

    with pytest.raises(
        EngineError, match=rf"This user may not use the Docker Engine at {forbidden_socket}\. Add it to"
    ):
        connect()
