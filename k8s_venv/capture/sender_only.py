"""What means something only on the sender's side, and can travel in no way."""

from __future__ import annotations

import asyncio
import io
import socket
import subprocess
import threading
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

_IN_MEMORY = (io.StringIO, io.BytesIO)
_TIED_TO_PROCESS = (
    io.IOBase, socket.socket, subprocess.Popen, type(threading.Lock()), type(threading.RLock()), threading.Thread,
    threading.Condition, threading.Event, threading.Semaphore, asyncio.AbstractEventLoop, GeneratorType, CoroutineType,
    AsyncGeneratorType,
)  # fmt: skip


def bound_to_process(value: Any) -> str | None:
    """Return why a value belongs to this process and can travel in no way, or None."""
    if isinstance(value, _TIED_TO_PROCESS) and not isinstance(value, _IN_MEMORY):
        return f"holds {type_name(value)}, which belongs to this process"
    return None


def of_airflow(value: Any) -> str | None:
    """Return what is in the way of an object of Airflow's that means nothing outside a DAG, or None."""
    kinds = {kind.__name__ for kind in type(value).__mro__ if kind.__module__.partition(".")[0] == "airflow"}
    if "XComArg" in kinds:
        return "is another task's value, which is known only when it has run and travels as an argument alone"
    if kinds & {"DAG", "DAGNode", "_TaskDecorator"}:
        return f"is an Airflow {type(value).__name__}, which means nothing inside an environment"
    return None


def type_name(value: Any) -> str:
    """Return a value's type as messages name it."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
