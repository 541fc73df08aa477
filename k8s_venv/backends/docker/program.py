"""Run a program in a container of an environment's image, on the local engine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.docker.backend import DockerBackend, connect_engine, engine_faults_explained, remove
from k8s_venv.backends.docker.container import LABEL, container_options
from k8s_venv.backends.overlay import overlay
from k8s_venv.backends.program import attend, on_terminal, starter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from docker import DockerClient

    from k8s_venv.backends.program import Program
    from k8s_venv.config.project import Project


def run_in_container(
    program: Program, project: Project, given: Mapping[str, Any], progress: Callable[[str], None]
) -> int:
    """Run a program in a container and return its exit code.

    Args:
        program: what to run.
        project: the project, for the image's reference.
        given: the pod options that this backend honours.
        progress: is called with what happens before it starts.

    Raises:
        BackendError: the image cannot be had, or the engine fails.
    """
    environment = program.environment
    with engine_faults_explained(environment), contextlib.closing(connect_engine(environment)) as client:
        image = DockerBackend(project, progress=progress).image(client, environment, given)
        options = container_options(environment, given, image.attrs["Config"].get("User") or "")
        options |= {"entrypoint": starter(), "command": [], "mounts": [], "tty": on_terminal()}
        platform = f"{image.attrs['Os']}/{image.attrs['Architecture']}"
        with overlay(environment, program.extra, progress, platform=platform) as packages:
            container = client.containers.create(image, labels={LABEL: environment.name}, **options)
            try:
                with contextlib.closing(_Streams(client, str(container.id), tty=on_terminal())) as streams:
                    container.start()
                    attend(streams, program, packages)
                return int(container.wait()["StatusCode"])
            finally:
                remove(container)


class _Streams:
    """The streams of a container, attached before it starts, so that nothing is missed."""

    def __init__(self, client: DockerClient, container: str, *, tty: bool) -> None:
        self._client, self._container, self._tty = client, container, tty
        self._attached = client.api.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self._socket = getattr(self._attached, "_sock", self._attached)
        self._socket.settimeout(None)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> Iterator[tuple[int, bytes]]:
        from docker.utils.socket import frames_iter

        for stream, data in frames_iter(self._attached, tty=self._tty):  # type: ignore[no-untyped-call]
            yield (stream or 1), data

    def resize(self, rows: int, columns: int) -> None:
        self._client.api.resize(self._container, rows, columns)

    def close(self) -> None:
        self._attached.close()
