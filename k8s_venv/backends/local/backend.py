"""Run calls as subprocesses on this machine."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv import cache
from k8s_venv.backends.limits import END_GRACE
from k8s_venv.backends.local.environments import environment_in_use, variables
from k8s_venv.backends.local.interpreters import interpreters
from k8s_venv.backends.pod_options import options_without_pod, plain_variables
from k8s_venv.backends.process import LineSplitter, ignore_line, no_result, runner_arguments
from k8s_venv.calls import PackedCall, Result, parse_document, write_files
from k8s_venv.errors import BackendError
from k8s_venv.wire import protocol
from k8s_venv.wire.values import map_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from k8s_venv.config.project import Project

_CALL_FOLDER = "k8s-venv-call-"  # how the names of these folders begin
_NEW = 60.0  # seconds; no call takes longer between making its folder and holding it
_LOOK = 0.2  # seconds between two looks at whether a silent task has ended
_PIPE = 1 << 20  # bytes; no pipe holds more


class LocalBackend:
    """Runs calls on this machine.

    Args:
        progress: is called with what happens before the call starts.
        project: the project, whose ``[pod]`` may be meant for Kubernetes alone.
        options: the task's own options, which win over its environment's ``pod``.
    """

    def __init__(
        self,
        progress: Callable[[str], None] | None = None,
        project: Project | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._progress = progress or (lambda line: None)
        self._project = project
        self._options = dict(options or {})
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, call: PackedCall, log: Callable[[str], None]) -> Result:
        """Run a call as a subprocess; see ``Backend.run``."""
        environment = call.environment
        given, note = options_without_pod("local", environment, self._options, self._project)
        own = plain_variables(environment, given.get("env_vars"), "local")
        if note:
            self._progress(note)
        with environment_in_use(call.environment, self._progress) as python, _call_folder() as folder:
            write_files(call, folder)
            env = {**variables(python), **own}
            # Somebody may change the packages of an interpreter that is not ours before the next call.
            again = environment.interpreter_path is None
            message = _command(folder) + call.secrets_document + b"\n"
            code = self._run(python, env, message, log if given.get("get_logs", True) else ignore_line, again=again)
            return _read(folder / "result", call, code)

    def on_kill(self) -> None:
        """End the running call and what it started."""
        if self._process is not None:
            _end(self._process)

    def _run(
        self, python: Path, env: Mapping[str, str], message: bytes, log: Callable[[str], None], *, again: bool
    ) -> int:
        with interpreters.take(python, env) as process:
            self._process = process
            try:
                assert process.stdin is not None  # noqa: S101 -- it is a pipe
                with contextlib.suppress(BrokenPipeError):  # the process has ended already
                    process.stdin.write(message)
                if again:
                    interpreters.prepare(python, env)
                for line in _lines(process):
                    log(line)
                return process.wait()
            except BaseException:
                _end(process)
                raise
            finally:
                _kill(process)  # and what it has started, as the end of a pod does


@contextlib.contextmanager
def _call_folder() -> Iterator[Path]:
    """Yield a new folder of this call, which no other user may read (mode 0700); it is removed with the call.

    Folders of calls whose processes were killed are removed, too.
    """
    with tempfile.TemporaryDirectory(prefix=_CALL_FOLDER) as name, cache.try_exclusive_lock(Path(name)):
        _remove_abandoned(Path(name).parent)
        yield Path(name)


def _command(folder: Path) -> bytes:
    """Return what an interpreter reads first: what it runs in a call's folder, and since when."""
    result = folder / "result"
    result.mkdir()
    umask = 0o777 & ~result.stat().st_mode  # no other way to ask is safe beside threads
    # From here on, so that the time it takes to start counts where it did not wait.
    since = ["--since", repr(time.clock_gettime(time.CLOCK_BOOTTIME))] if hasattr(time, "CLOCK_BOOTTIME") else []
    return runner_arguments(umask, str(folder / protocol.ARCHIVE), "--result", str(result), "--secrets", "-", *since)


def _remove_abandoned(place: Path) -> None:
    with os.scandir(place) as entries:
        folders = [Path(entry.path) for entry in entries if entry.name.startswith(_CALL_FOLDER)]
    for folder in folders:
        with contextlib.suppress(OSError):  # it is gone, or another user's
            if time.time() - folder.lstat().st_mtime > _NEW:
                with cache.try_exclusive_lock(folder) as abandoned:
                    if abandoned:
                        shutil.rmtree(folder)


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield the lines that a process prints until it has ended, even if its child keeps the output open."""
    assert process.stdout is not None  # noqa: S101 -- it is a pipe
    splitter, ended, data = LineSplitter(), False, b"-"
    while data and not ended:
        ended = process.poll() is not None  # before reading: then the pipe has all that it printed
        if select.select([process.stdout], [], [], 0 if ended else _LOOK)[0]:
            data = process.stdout.read(_PIPE) or b""
            yield from splitter.feed(data)
    yield from splitter.end()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and its children to end; kill them if they do not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_GRACE)
    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # macOS raises PermissionError for a group in which only zombies are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _read(folder: Path, call: PackedCall, code: int) -> Result:
    environment = call.environment.name
    document, payload = folder / protocol.DOCUMENT, folder / protocol.PAYLOAD
    if not (document.is_file() and payload.is_file()):
        raise BackendError(environment, no_result(call.function, code), code)
    return Result(parse_document(document.read_bytes(), environment), map_file(str(payload)))
