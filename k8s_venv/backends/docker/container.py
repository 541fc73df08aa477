"""One container of a Docker Engine: how it is made for a call, and how the call's files go in and come out."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
import tempfile
from typing import IO, TYPE_CHECKING, Any

from k8s_venv.backends.pod_options import amount, amounts, plain_variables
from k8s_venv.backends.process import CONTAINER_VARIABLES, SCRATCH_FOLDER, runner_command
from k8s_venv.errors import BackendError
from k8s_venv.wire import protocol
from k8s_venv.wire.values import map_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker.models.containers import Container

    from k8s_venv.config.environment import Environment
    from k8s_venv.wire.registry import Buffer

LABEL = "k8s-venv.environment"  # of a call's container and its volume
FOLDER = "/k8s-venv"
RESULT_FOLDER = f"{FOLDER}/result"
# The user of a call in an image that names none, or root: as in images that k8s-venv builds.
USER = "50000:0"
_ROOT = re.compile(r"(?:|0|root)(?::.*)?")
_PERIOD = 100_000  # microseconds, of which a container gets its share of CPU time
_CHUNK = 1 << 20  # bytes of a result that are in memory at once


def container_options(environment: Environment, given: Mapping[str, Any], image_user: str) -> dict[str, Any]:
    """Return the arguments that make a call's container.

    Args:
        environment: whose call it is.
        given: the pod options that this backend honours, in any of the forms that ``KubernetesPodOperator`` takes.
        image_user: the user whom the image names.

    Raises:
        BackendError: an option cannot be honoured.
    """
    from docker.types import LogConfig, Mount

    return {
        "entrypoint": runner_command("python", f"{FOLDER}/{protocol.ARCHIVE}"),
        "command": ["--result", RESULT_FOLDER, "--secrets", "-"],
        "environment": {**CONTAINER_VARIABLES, **plain_variables(environment, given.get("env_vars"), "docker")},
        "user": USER if _ROOT.fullmatch(image_user) else image_user,
        "stdin_open": True,
        "read_only": True,
        "tmpfs": {SCRATCH_FOLDER: "rw,exec,nosuid,nodev,mode=1777"},
        # Without a name: it goes with the container.
        "mounts": [Mount(FOLDER, None, no_copy=True, labels={LABEL: environment.name})],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        # What a task prints goes to its sender alone.
        "log_config": LogConfig(type="none"),
        **_resources(environment, given.get("container_resources")),
    }


def memory_limit(given: Mapping[str, Any]) -> str:
    """Return a container's limit of memory in its author's words, for messages.

    Args:
        given: pod options by name.
    """
    size = amounts(given.get("container_resources"), "limits").get("memory")
    return f"limit {size}" if size else "no limit of its own: the machine ran out"


def _resources(environment: Environment, given: Any) -> dict[str, Any]:
    """Return a container's limits; requests only tell a scheduler where there is room."""
    limits = amounts(given, "limits")
    options: dict[str, Any] = {}
    if "memory" in limits:
        size = int(_amount(environment, limits["memory"]))
        options |= {"mem_limit": size, "memswap_limit": size}
    if "cpu" in limits:
        share = int(_amount(environment, limits["cpu"]) * _PERIOD)
        options |= {"cpu_period": _PERIOD, "cpu_quota": max(share, 1000)}
    return options


def _amount(environment: Environment, quantity: Any) -> float:
    try:
        return amount(quantity)
    except ValueError as error:
        raise BackendError(environment.name, str(error)) from None


def write_folders(stream: IO[bytes], files: Mapping[str, Buffer]) -> None:
    """Write a tar with a call's files and the result's folder, which any user may write to.

    Args:
        stream: receives it; it stands at its beginning afterwards.
        files: the files' contents by their names.
    """
    with tarfile.open(fileobj=stream, mode="w") as tar:
        folder = tarfile.TarInfo("result")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o777
        tar.addfile(folder)
        for name, data in files.items():
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(data), 0o444
            content = io.BytesIO(data) if isinstance(data, bytes) else data
            tar.addfile(file, content)  # type: ignore[arg-type]  # a mapped file reads like one
    stream.seek(0)


def mapped_payload(file: IO[bytes], size: int, environment: str) -> Buffer:
    """Return a payload as a mapped file; the checksum finds one that is not as long as announced.

    Args:
        file: the payload.
        size: its announced length, in bytes.
        environment: whose call's it is, for messages.

    Raises:
        BackendError: it cannot be kept.
    """
    try:
        with tempfile.TemporaryFile(prefix="k8s-venv-result-") as copy:
            while size > 0 and (data := file.read(min(size, _CHUNK))):
                copy.write(data)
                size -= len(data)
            copy.flush()
            return map_file(copy.fileno())
    except OSError as error:
        raise BackendError(
            environment, f"the call's result cannot be kept in {tempfile.gettempdir()}: {error}. Set TMPDIR."
        ) from None


@contextlib.contextmanager
def result_file(container: Container, name: str) -> Iterator[IO[bytes] | None]:
    """Give a file of the result, or None where the container left none.

    Args:
        container: the container.
        name: the file's name in the result's folder.
    """
    import docker

    try:
        chunks, _ = container.get_archive(f"{RESULT_FOLDER}/{name}")
    except docker.errors.NotFound:
        yield None
        return
    with contextlib.closing(_Stream(chunks)) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        member = tar.next()
        yield tar.extractfile(member) if member is not None and member.isreg() else None


class _Stream(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
