"""The docker backend: the environment's image on the local engine, through Docker's SDK.

The archive lies in a volume of the container's own, which also receives the result. The secrets come over the
attached standard input, so they are nowhere on the engine's disk; when that connection is cut, the call ends.
"""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from k8s_venv.backends import image_of
from k8s_venv.backends.docker.container import (
    FOLDER,
    LABEL,
    container_options,
    mapped_payload,
    memory_limit,
    result_file,
    write_folders,
)
from k8s_venv.backends.limits import END_GRACE
from k8s_venv.backends.pod_options import options_without_pod
from k8s_venv.backends.process import LineSplitter, cannot_run_python, ignore_line, no_result, out_of_memory
from k8s_venv.builders.engine import EngineError, connect
from k8s_venv.calls import PackedCall, Result, call_files, parse_document
from k8s_venv.errors import BackendError
from k8s_venv.wire import protocol

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image

    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project

Progress = Callable[[str], None]

_END_TIMEOUT = 30.0  # seconds between the end of a container's output and its own
# A container that ended, or was never started, so long ago has no sender any more.
_ABANDONED = datetime.timedelta(hours=1)


class DockerBackend:
    """Runs calls as containers on the engine that ``DOCKER_HOST`` or its usual socket gives.

    Args:
        project: the project, for the images' references.
        options: the task's own options, which win over its environment's ``pod``.
        progress: is called with what happens before the call starts.
    """

    def __init__(
        self, project: Project, options: Mapping[str, Any] | None = None, progress: Progress | None = None
    ) -> None:
        self._project = project
        self._options = dict(options or {})
        self._progress = progress or (lambda line: None)
        self._container: Container | None = None
        self._killed = False

    def run(self, call: PackedCall, log: Callable[[str], None]) -> Result:
        """Run a call as a container; see ``Backend.run``."""
        environment = call.environment
        with engine_faults_explained(environment), contextlib.closing(connect_engine(environment)) as client:
            _remove_abandoned(client)
            given, note = options_without_pod("docker", environment, self._options, self._project)
            if note:
                self._progress(note)
            image = self.image(client, environment, given)
            options = container_options(environment, given, image.attrs["Config"].get("User") or "")
            labels = {LABEL: environment.name, "k8s-venv.function": call.function}
            container = client.containers.create(image, labels=labels, **options)
            self._container = container
            try:
                with tempfile.TemporaryFile(prefix="k8s-venv-call-") as tar:
                    write_folders(tar, call_files(call))
                    container.put_archive(FOLDER, tar)
                ended = _attend(client, container, call, log if given.get("get_logs", True) else ignore_line)
                if self._killed:
                    raise BackendError(environment.name, f"{call.function}() was ended, since its task was killed.")
                return _result(container, call, ended, memory_limit(given))
            finally:
                remove(container)

    def on_kill(self) -> None:
        """End the running call and remove its container."""
        if self._container is not None:
            self._killed = True
            remove(self._container)

    def image(self, client: DockerClient, environment: Environment, given: Mapping[str, Any]) -> Image:
        """Return an environment's image, pulled where it is not on the engine.

        Args:
            client: the engine.
            environment: the environment.
            given: the pod options that this backend honours.

        Raises:
            BackendError: it cannot be had.
        """
        import docker

        named = given.get("image") or environment.image
        reference = named or image_of(environment, self._project)
        policy = given.get("image_pull_policy") or "IfNotPresent"
        remedy = (
            "The task's or the environment's `image` names it: is that right, and does `docker pull` get it?"
            if named
            else f"Is it built? Run `k8s-venv build-images {environment.name}`."
        )
        if policy != "Always":
            with contextlib.suppress(docker.errors.ImageNotFound):
                return client.images.get(reference)
        if policy == "Never":
            raise BackendError(
                environment.name,
                f"its image {reference} is not on the engine, and image_pull_policy='Never' forbids pulling. {remedy}",
            )
        self._progress(f"Pulling {reference}")
        try:
            return client.images.pull(reference)
        except docker.errors.APIError as error:
            raise BackendError(
                environment.name,
                f"its image {reference} is not on the engine and cannot be pulled. {remedy} "
                f"The engine says: {_reason(error)}.",
            ) from None


def connect_engine(environment: Environment) -> DockerClient:
    """Return a client of the engine.

    Raises:
        BackendError: no engine answers.
    """
    try:
        return connect()
    except EngineError as error:
        raise BackendError(environment.name, f"the docker backend cannot run it. {error}") from None


@contextlib.contextmanager
def engine_faults_explained(environment: Environment) -> Iterator[None]:
    """Raise what the engine refuses as a ``BackendError`` with its own words."""
    try:
        yield
    except Exception as error:
        docker_error = type(error).__module__.partition(".")[0] in ("docker", "requests")
        if not docker_error:
            raise
        raise BackendError(environment.name, f"the Docker Engine failed: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "explanation", None) or error).strip().rstrip(".")


def _attend(
    client: DockerClient, container: Container, call: PackedCall, log: Callable[[str], None]
) -> Mapping[str, Any]:
    """Start a container, pass on what it prints, and return its state when it has ended."""
    import docker
    from docker.utils.socket import frames_iter

    streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    # Attached before it starts, so that no line is missed; held until it ends, since it ends with us.
    with contextlib.closing(client.api.attach_socket(str(container.id), streams)) as attached:
        socket = getattr(attached, "_sock", attached)
        socket.settimeout(None)
        try:
            container.start()
        except docker.errors.APIError as error:
            raise BackendError(call.environment.name, cannot_run_python(_reason(error))) from None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.sendall(call.secrets_document + b"\n")
        splitters: dict[int, LineSplitter] = {}
        for stream, data in frames_iter(attached, tty=False):  # type: ignore[no-untyped-call]
            for line in splitters.setdefault(stream, LineSplitter()).feed(data):
                log(line)
        for splitter in splitters.values():
            for line in splitter.end():
                log(line)
        try:
            container.wait(timeout=_END_TIMEOUT)
            container.reload()
        except docker.errors.NotFound:
            return {}
    state: Mapping[str, Any] = container.attrs["State"]
    return state


def _result(container: Container, call: PackedCall, state: Mapping[str, Any], limit: str) -> Result:
    name = call.environment.name
    with result_file(container, protocol.DOCUMENT) if state else contextlib.nullcontext() as file:
        text = file.read(protocol.DOCUMENT_LIMIT + 1) if file else None
    if text is None:
        raise BackendError(name, _death(call, state, limit), state.get("ExitCode"))
    document = parse_document(text, name)
    with result_file(container, protocol.PAYLOAD) as file:
        return Result(document, mapped_payload(file, document.size, name) if file else b"")


def _death(call: PackedCall, state: Mapping[str, Any], limit: str) -> str:
    if not state:
        return f"{call.function}() ended without a result: its container was removed from outside."
    if state["OOMKilled"]:
        return out_of_memory(call.function, limit)
    return no_result(call.function, state["ExitCode"])


def remove(container: Container) -> None:
    """Ask a container to end, and remove it with its volume."""
    import docker

    with contextlib.suppress(docker.errors.APIError):
        container.stop(timeout=END_GRACE)
    with contextlib.suppress(docker.errors.NotFound):
        try:
            container.remove(force=True, v=True)
        except docker.errors.APIError as error:
            if error.status_code != 409:  # somebody else is removing it
                raise


def _remove_abandoned(client: DockerClient) -> None:
    """Remove the containers that senders which died have left behind."""
    import docker

    for state in ("exited", "created"):
        for container in client.containers.list(all=True, sparse=True, filters={"label": LABEL, "status": state}):
            made = datetime.datetime.fromtimestamp(container.attrs["Created"], datetime.UTC)
            with contextlib.suppress(docker.errors.APIError):
                if datetime.datetime.now(datetime.UTC) - made > _ABANDONED and _is_old(container):
                    container.remove(force=True, v=True)


def _is_old(container: Container) -> bool:
    container.reload()
    state = container.attrs["State"]
    if state["Running"]:
        return False
    ended = datetime.datetime.fromisoformat(state["FinishedAt"])  # the year 1 where it was never started
    return datetime.datetime.now(datetime.UTC) - ended > _ABANDONED
