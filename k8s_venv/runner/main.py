"""Open a call, run its function, report how it ended.

``python call.pyz --result DIR [--message FILE]`` runs the call. ``python call.pyz --hand-over DIR`` waits
beside it in a pod, as the container from which the sender reads a result that is too large for the pod's
status. ``python call.pyz --read DIR`` writes that result to standard output, ``--release DIR`` ends the wait.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import sys
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple
from zipfile import ZipFile

from k8s_venv import runtime
from k8s_venv.runner import failures, function, hand_over, protocol, report, values
from k8s_venv.runner.errors import WrongPythonError
from k8s_venv.runner.shipped_types import resolver

if TYPE_CHECKING:
    from types import FrameType

    from k8s_venv.runner.registry import Types


def main(archive: str, arguments: Optional[List[str]] = None) -> int:
    """Run the runner's command line.

    Args:
        archive: the path of the call's archive.
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        The process's exit code: 0 when the call returned a value or was skipped.
    """
    parser = argparse.ArgumentParser(prog="call.pyz")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--result", type=Path, help="run the call and leave its result in this folder")
    mode.add_argument("--hand-over", type=Path, help="wait until the result in this folder was read")
    mode.add_argument("--read", type=Path, help="write the result in this folder to standard output")
    mode.add_argument("--release", type=Path, help="say that the result in this folder was read")
    parser.add_argument("--message", type=Path, help="leave a small result in this file instead")
    parser.add_argument("--message-limit", type=int, default=protocol.MESSAGE_LIMIT, help="in bytes")
    options = parser.parse_args(arguments)
    if options.hand_over:
        return hand_over.wait(options.hand_over)
    if options.read:
        return hand_over.send(options.read)
    if options.release:
        return hand_over.release(options.release)
    with report.Reporter(options.result, options.message, options.message_limit) as reporter:
        return run(Path(archive), reporter)


def run(path: Path, reporter: report.Reporter) -> int:
    """Run the call in an archive and report how it ended.

    Args:
        path: the archive.
        reporter: where the result goes.

    Returns:
        0 when the call returned a value or was skipped, else 1.
    """
    _prepare_process()
    started = time.perf_counter()
    try:
        with ZipFile(path) as archive:
            call, args, kwargs, discard = _open(path, archive, reporter)
        reporter.timings["open"] = time.perf_counter() - started
        started = time.perf_counter()
        value = call(*args, **kwargs)
        if isinstance(value, types.CoroutineType):  # what an asynchronous function returns
            value = importlib.import_module("asyncio").run(value)
        reporter.timings["run"] = time.perf_counter() - started
        reporter.value(None if discard else value)
    except SystemExit as error:  # a task that calls sys.exit(0) did what it wanted
        if error.code in (None, 0):
            reporter.value(None)
            return 0
        reporter.failure(error)
    except BaseException as error:  # noqa: BLE001 -- whatever it is, the sender must hear of it
        reporter.failure(error)
        return 0 if failures.outcome(error) == protocol.SKIP else 1
    else:
        return 0
    return 1


def _open(
    path: Path, archive: ZipFile, reporter: report.Reporter
) -> Tuple[function.Function, List[Any], Dict[str, Any], bool]:
    header = json.loads(archive.read(protocol.HEADER))
    _check_python(header)
    sys.path.insert(1, str(path / protocol.VENDOR))
    sys.path.append(str(path / protocol.BESIDE))  # last, as Airflow's own DAG folder
    from_context = _install_runtime(path, archive)
    call, pickled_types = function.load(archive, header)
    reporter.types = _shipped_types(header, call, pickled_types)
    packed = values.loads(archive.read(protocol.ARGUMENTS), function.unpickle, reporter.types)
    return call, packed["args"], {**from_context, **packed["kwargs"]}, header["discard_value"]


def _shipped_types(header: Dict[str, Any], call: Any, pickled: List[type]) -> Types:
    """Return what finds the types that travelled with the call; what is pickled has no module to look them up in."""
    found: Dict[str, Dict[str, Any]] = {}
    if header["transport"] == protocol.CLOUDPICKLE and hasattr(call, "__globals__"):
        found[call.__module__] = dict(call.__globals__)
    for kind in pickled:
        found.setdefault(kind.__module__, {})[kind.__name__] = kind
    return resolver(header["modules"], found)


def _check_python(header: Dict[str, Any]) -> None:
    found = "{}.{}".format(*sys.version_info)
    if found != header["python"]:
        raise WrongPythonError(
            f"it is declared with Python {header['python']}, but its `python` is {sys.version.split()[0]} "
            f"({sys.executable}). Use an image whose `python` has the declared version."
        )


def _install_runtime(path: Path, archive: ZipFile) -> Dict[str, Any]:
    """Make connections and context available; return the arguments that the context gives."""
    delivered = path.parent / protocol.CONNECTIONS
    connections = json.loads(delivered.read_text("utf-8")) if delivered.exists() else {}
    for conn_id, fields in connections.items():
        os.environ["AIRFLOW_CONN_" + conn_id.upper()] = json.dumps(fields)
    packed = values.loads(archive.read(protocol.CONTEXT))
    if packed is None:
        runtime.install(connections, None)
        return {}
    objects = {name: runtime.ContextObject(name, facts) for name, facts in packed["objects"].items()}
    context = {**packed["values"], **objects}
    runtime.install(connections, context)
    return {name: context[name] for name in packed["parameters"]}


def _prepare_process() -> None:
    """Show the records of ``logging`` from INFO on, as Airflow does in place; end when told to."""
    signal.signal(signal.SIGTERM, _terminate)  # process 1, as in a pod, has no default handler
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelname)s - %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def _terminate(number: int, frame: Optional[FrameType]) -> None:
    raise SystemExit(128 + number)
