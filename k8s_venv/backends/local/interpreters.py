"""Interpreters that wait for the next call of this process. Each runs one call, so that no call sees another.

From a second call in an environment on, the interpreter of the next one starts while the call before runs. It waits
with nothing loaded but what the runner needs of the standard library, and ends when this process does.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.backends.process import waiting_interpreter_command

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

_MOST = 4  # that wait at the same time
_MOST_KNOWN = 256
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


class Interpreters:
    """The interpreters that wait within a process, one for each environment and all else that a process starts with."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, subprocess.Popen[bytes]] = {}
        self._known: set[Hashable] = set()  # whose first call has been

    def take(self, python: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Return an interpreter for one call: one that waits, or a new one.

        Args:
            python: the environment's Python.
            variables: its variables.
        """
        with self._lock:
            process = self._waiting.pop(_origin(python, variables), None)
        if process is not None:
            if process.poll() is None:
                return process
            _end(process)
        return _start(python, variables)

    def prepare(self, python: Path, variables: Mapping[str, str]) -> None:
        """Start an interpreter for the next call, unless this is the first one: there may be no other.

        Args:
            python: the environment's Python.
            variables: its variables.
        """
        origin = _origin(python, variables)
        with self._lock:
            if origin in self._known and origin not in self._waiting:
                # Where no process can be started now, the next call says so, if it is still so then.
                with contextlib.suppress(OSError):
                    self._waiting[origin] = _start(python, variables)
            if len(self._waiting) > _MOST:
                _end(self._waiting.pop(next(iter(self._waiting))))  # whose last call was the longest ago
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known.add(origin)

    def end(self) -> None:
        """End all that wait."""
        with self._lock:
            while self._waiting:
                _end(self._waiting.popitem()[1])

    def forget(self) -> None:
        """Leave all that wait to the process of which this one is a fork."""
        for process in self._waiting.values():
            process.returncode = 0  # else Python would look after it, and warn
        self._lock, self._waiting, self._known = threading.Lock(), {}, set()


def _start(python: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # A session of its own, so that what the task starts ends with it.
    return subprocess.Popen(
        waiting_interpreter_command(str(python)),
        stdin=subprocess.PIPE,  # the task ends when this is closed, also by our own death
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=variables,
        bufsize=0,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _origin(python: Path, variables: Mapping[str, str]) -> Hashable:
    """Return what a process has from its start: where it differs, an interpreter that waits is of no use."""
    folder, working = (_identity(path) for path in (python.parent.parent, Path()))
    limits = tuple(resource.getrlimit(limit) for limit in _LIMITS)
    return python, folder, working, limits, frozenset(variables.items())


def _identity(path: Path) -> Hashable:
    try:
        status = path.stat()
    except OSError:  # a working folder that was removed
        return None
    return status.st_dev, status.st_ino


interpreters = Interpreters()
atexit.register(interpreters.end)
os.register_at_fork(after_in_child=interpreters.forget)
