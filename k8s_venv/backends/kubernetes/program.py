"""Run a program in a pod of an environment's image."""

from __future__ import annotations

import getpass
import json
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from kubernetes.stream import stream
from websocket import ABNF, WebSocketException

from k8s_venv.backends.kubernetes import diagnose, pod_state, render
from k8s_venv.backends.kubernetes.api import PodApi, without_retries
from k8s_venv.backends.kubernetes.backend import KubernetesBackend, connect
from k8s_venv.backends.kubernetes.pod_state import PodPhaseTracker, Timeouts
from k8s_venv.backends.overlay import overlay
from k8s_venv.backends.program import attend, on_terminal, starter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubernetes.client import models as k8s

    from k8s_venv.backends.program import Program
    from k8s_venv.config.project import Project

# Channels of the API server's connection.
_OUTPUT, _RESIZE = (1, 2), 4


def run_in_pod(program: Program, project: Project, progress: Callable[[str], None]) -> int:
    """Run a program in a pod and return its exit code.

    Args:
        program: what to run.
        project: the project, for the image's reference.
        progress: is called with what happens before it starts.

    Raises:
        BackendError: the pod cannot be made, or cannot start.
    """
    environment = program.environment
    client, namespace = connect(environment)
    pod = _pod(program, project, namespace.name, progress)
    api = PodApi(without_retries(client), namespace.name, environment, progress, namespace.origin)
    with overlay(environment, program.extra, progress, platform=environment.image_platforms[0]) as packages:
        made = api.create_pod(pod)
        try:
            progress(f"Pod {made.metadata.name} in namespace {namespace.name}")
            _wait_until_started(api, made, program)
            attend(_Streams(client, made), program, packages)
            return _exit_code(api, made, program)
        finally:
            api.delete(made.metadata.name, made.metadata.uid)


def _pod(program: Program, project: Project, namespace: str, progress: Callable[[str], None]) -> k8s.V1Pod:
    """Return the pod: a call's own, whose one container waits for the program."""
    name = render.pod_name(f"{program.environment.name}-run", f"{getpass.getuser()}-{uuid.uuid4().hex}")
    pod = KubernetesBackend(project, name, progress).pod(program.environment, namespace, name)
    base = pod.spec.containers[0]
    base.command, base.args = starter(), None
    base.stdin, base.stdin_once, base.tty = True, True, on_terminal()
    ours = {render.CALL_VOLUME, render.RESULT_VOLUME}
    base.volume_mounts = [mount for mount in base.volume_mounts if mount.name not in ours]
    pod.spec.volumes = [volume for volume in pod.spec.volumes if volume.name not in ours]
    pod.spec.containers = [base]
    return pod


def _wait_until_started(api: PodApi, pod: k8s.V1Pod, program: Program) -> None:
    """Wait until the pod's program runs.

    Raises:
        BackendError: it cannot start, or did not in time.
    """
    environment = program.environment
    timeouts, seen = Timeouts(), {"created": time.time()}
    tracker = PodPhaseTracker(timeouts, seen)
    for kind, state in api.events(pod, tracker.next_look):
        outcome = tracker.observe(kind, state)
        if "running" in seen:
            return
        if outcome is not None and outcome.reason == "stuck":
            raise diagnose.startup_failure(outcome.pod, environment)
        if outcome is not None and outcome.reason == "late":
            warning = api.last_warning(pod.metadata.name)
            raise diagnose.startup_timeout(outcome.pod, environment, outcome.allowed, warning)
        if outcome is not None:
            raise diagnose.death(outcome.pod, environment, program.command[0])


def _exit_code(api: PodApi, pod: k8s.V1Pod, program: Program) -> int:
    tracker = PodPhaseTracker(Timeouts(), {"created": time.time(), "running": time.time()})
    for kind, state in api.events(pod, tracker.next_look):
        outcome = tracker.observe(kind, state)
        if outcome is not None:
            ended = pod_state.container_state(outcome.pod)
            if ended is None or ended.terminated is None or ended.terminated.reason == "OOMKilled":
                raise diagnose.death(outcome.pod, program.environment, program.command[0])
            return int(ended.terminated.exit_code)
    raise AssertionError("a watch never ends by itself")


class _Streams:
    """The streams of a pod's container, through the API server."""

    def __init__(self, client: Any, pod: k8s.V1Pod) -> None:
        tty = on_terminal()
        self._lock = threading.Lock()
        self._socket = stream(
            client.connect_get_namespaced_pod_attach,
            pod.metadata.name,
            pod.metadata.namespace,
            container=render.BASE,
            stdin=True,
            stdout=True,
            stderr=not tty,
            tty=tty,
            _preload_content=False,
            binary=True,
        )

    def send(self, data: bytes) -> None:
        try:
            with self._lock:
                self._socket.write_stdin(data)
        except WebSocketException as error:
            raise ConnectionError(str(error)) from None

    def receive(self) -> Iterator[tuple[int, bytes]]:
        # Not through the client's `update`, which waits for the network while TLS holds what has come already.
        while True:
            try:
                code, frame = self._socket.sock.recv_data_frame(True)
            except (WebSocketException, OSError):
                return  # the connection broke; how the pod ends is read from its status
            if code == ABNF.OPCODE_CLOSE:
                return
            if code in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) and len(frame.data) > 1 and frame.data[0] in _OUTPUT:
                yield frame.data[0], frame.data[1:]

    def resize(self, rows: int, columns: int) -> None:
        with self._lock:
            self._socket.write_channel(_RESIZE, json.dumps({"Height": rows, "Width": columns}))
