"""Open a call, run its function, report how it ended.

``python call.pyz --result DIR [--message FILE] [--secrets -]`` runs the call; with the
last, the secrets come on standard input, and the call ends when that is closed. ``python call.pyz
--hand-over DIR`` waits beside it in a pod, as the container from which the sender reads a result that is too large
for the pod's status. ``python call.pyz --read DIR [--from BYTE]`` writes that result to standard output, ``--release
DIR`` ends the wait.

Every call waits for what is imported here. So what only some need is imported where they need it, and the standard
library's heavier modules, such as ``argparse``, ``pathlib`` and ``zipfile``, are done without.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from signal import SIGTERM, signal
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple
from zipimport import zipimporter

from k8s_venv import runtime
from k8s_venv.runner import function, protocol, report, streams, values

if TYPE_CHECKING:
    from types import FrameType

    from k8s_venv.runner.registry import Types

# The ways to run this program, each with the folder of a result.
_MODES = ("--result", "--hand-over", "--read", "--release")
_TERMINATED = 128 + SIGTERM


def main(archive: str, arguments: List[str]) -> int:
    """Run the runner's command line.

    Args:
        archive: the path of the call's archive.
        arguments: the command line without the program's name: names and values in turn.

    Returns:
        The process's exit code: 0 when the call returned a value or was skipped.
    """
    options = dict(zip(arguments[::2], arguments[1::2]))
    modes = [name for name in _MODES if name in options]
    if len(modes) != 1:
        raise SystemExit(f"usage: python {archive} {{{'|'.join(_MODES)}}} DIR [--message FILE]")
    folder = options[modes[0]]
    if modes[0] == "--result":
        with report.Reporter(folder, options.get("--message")) as reporter:
            if os.path.exists(os.path.join(os.path.dirname(archive), protocol.DELIVERY)):
                delivery: Any = importlib.import_module("k8s_venv.runner.delivery")
                reporter.delivery = delivery.read(os.path.dirname(archive))
            return run(archive, reporter, attached=options.get("--secrets") == "-")
    hand_over: Any = importlib.import_module("k8s_venv.runner.hand_over")
    if modes[0] == "--read":
        return int(hand_over.send(folder, int(options.get("--from", 0))))
    act = {"--hand-over": hand_over.wait, "--release": hand_over.release}[modes[0]]
    return int(act(folder))


def run(path: str, reporter: report.Reporter, *, attached: bool = False) -> int:
    """Run the call in an archive and report how it ended.

    Args:
        path: the archive.
        reporter: where the result goes.
        attached: whether the sender holds standard input and sends the secrets there.

    Returns:
        0 when the call returned a value or was skipped, else 1.
    """
    _prepare_process()
    started = time.perf_counter()
    try:
        call, args, kwargs, discard = _open(path, reporter, attached)
        reporter.timings["open"] = time.perf_counter() - started
        reporter.timings["imports"] = _age()
        started = time.perf_counter()
        value = call(*args, **kwargs)
        if isinstance(value, CoroutineType):  # what an asynchronous function returns
            value = importlib.import_module("asyncio").run(value)
        reporter.timings["run"] = time.perf_counter() - started
        reporter.timings["clock"] = time.time()
        reporter.value(None if discard else value)
    except SystemExit as error:  # a task that calls sys.exit(0) did what it wanted
        if error.code in (None, 0):
            reporter.value(None)
            return 0
        if error.code == _TERMINATED and "result" in reporter.delivery:
            return _TERMINATED  # whoever ended the call fetches nothing from the location for large values
        reporter.failure(error)
    except BaseException as error:  # noqa: BLE001 -- whatever it is, the sender must hear of it
        return 0 if reporter.failure(error) == protocol.SKIP else 1
    else:
        return 0
    finally:
        streams.finish()
    return 1


def _age() -> float:
    """Return for how many seconds this process has lived, where the system says so (proc(5))."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            started = int(stat.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def _open(
    path: str, reporter: report.Reporter, attached: bool
) -> Tuple[function.Function, List[Any], Dict[str, Any], bool]:
    secrets = _receive() if attached else _delivered(os.path.dirname(path))
    read = zipimporter(path).get_data
    header = json.loads(read(protocol.HEADER))
    _check_python(header)
    sys.path.insert(1, os.path.join(path, protocol.VENDOR))
    sys.path.append(os.path.join(path, protocol.BESIDE))  # last, as Airflow's own DAG folder
    if secrets:
        _install_secrets(secrets, reporter)
    sys.meta_path.insert(0, _AirflowImport(os.path.dirname(path)))
    from_context = _install_context(read(protocol.CONTEXT))
    call, pickled_types = function.load(read, header)
    reporter.types = _shipped_types(header, call, pickled_types)
    if header["serializer"] or "references" in reporter.delivery:
        references: Any = importlib.import_module("k8s_venv.runner.references")
        references.delivered = (reporter.delivery.get("references", {}), os.path.dirname(path), reporter.folder)
    if header["serializer"]:
        reporter.pickle = function.pickled
        references.unpickle = function.unpickle
    arguments = _arguments(path, reporter) if "arguments" in reporter.delivery else read(protocol.ARGUMENTS)
    packed = values.loads(arguments, function.unpickle, reporter.types)
    return call, packed["args"], {**from_context, **packed["kwargs"]}, header["discard_value"]


def _arguments(path: str, reporter: report.Reporter) -> values.Buffer:
    from k8s_venv.runner.delivery import fetch

    return fetch(os.path.dirname(path), reporter.delivery["arguments"], reporter.folder, "its arguments")


def _shipped_types(header: Dict[str, Any], call: Any, pickled: List[type]) -> Types:
    """Return what finds the types that travelled with the call; what is pickled has no module to look them up in."""
    found: Dict[str, Dict[str, Any]] = {}

    def find(module: str, name: str) -> Optional[type]:
        from k8s_venv.runner.shipped_types import resolver

        return resolver(header["modules"], found)(module, name)

    if header["transport"] == protocol.CLOUDPICKLE and hasattr(call, "__globals__"):
        found[call.__module__] = dict(call.__globals__)
    for kind in pickled:
        found.setdefault(kind.__module__, {})[kind.__name__] = kind
    return find


def _check_python(header: Dict[str, Any]) -> None:
    found = "{}.{}".format(*sys.version_info)
    if found != header["python"]:
        from k8s_venv.runner.errors import WrongPythonError

        raise WrongPythonError(
            f"it is declared with Python {header['python']}, but its `python` is {sys.version.split()[0]} "
            f"({sys.executable}). Use an image whose `python` has the declared version."
        )


def _receive() -> Dict[str, Any]:
    from k8s_venv.runner import lifeline

    return lifeline.receive()


def _delivered(folder: str) -> Dict[str, Any]:
    path = os.path.join(folder, protocol.SECRETS)
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as stream:
        secrets: Dict[str, Any] = json.load(stream)
    return secrets


class _AirflowImport:
    """Prepares the process when Airflow is first imported, as a finder on ``sys.meta_path``.

    Args:
        folder: the call's folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "airflow":
            return None
        sys.meta_path.remove(self)
        airflow_inside: Any = importlib.import_module("k8s_venv.runner.airflow_inside")
        return airflow_inside.prepare(self._folder).find_spec(name)


def _install_secrets(secrets: Dict[str, Any], reporter: report.Reporter) -> None:
    """Make connections and variables available, and keep them out of logs and reports."""
    from k8s_venv.runner.masking import masker

    reporter.mask = masker(secrets["masked"])
    streams.hide(reporter.mask)
    for conn_id, fields in secrets["connections"].items():
        os.environ["AIRFLOW_CONN_" + conn_id.upper()] = json.dumps(fields)
    for key, text in secrets["variables"].items():
        os.environ["AIRFLOW_VAR_" + key.upper()] = text
    runtime.install(secrets["connections"], secrets["variables"])


def _install_context(context: bytes) -> Dict[str, Any]:
    """Make Airflow's context available; return the arguments that it gives."""
    packed = values.loads(context)
    if packed is None:
        return {}
    objects = {name: runtime.ContextObject(name, facts) for name, facts in packed["objects"].items()}
    known = {**packed["values"], **objects}
    runtime.install_context(known)
    return {name: known[name] for name in packed["parameters"]}


def _prepare_process() -> None:
    """Mark what is printed and logged; end when told to."""
    signal(SIGTERM, _terminate)  # process 1, as in a pod, has no default handler
    streams.install()


def _terminate(number: int, frame: Optional[FrameType]) -> None:
    raise SystemExit(_TERMINATED)
