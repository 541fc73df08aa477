"""Run a call and report how it ended.

``python call.pyz --result DIR [--message FILE] [--secrets -]`` runs the call; with the
last, the secrets come on standard input, and the call ends when that is closed. ``python call.pyz
--hand-over DIR`` waits beside it in a pod, as the container from which the sender reads a result that is too large
for the pod's status. ``python call.pyz --read DIR [--from BYTE]`` writes that result to standard output, ``--release
DIR`` ends the wait.

Every call waits for what is imported before its function. So what only some need is imported where they need it, and
much of the standard library is done without: ``json``, ``logging``, ``re``, ``signal`` and ``typing`` take longer,
each, than the runner itself.
"""

from __future__ import annotations

import importlib
import os
import time
from _signal import SIGTERM, signal  # type: ignore[import-not-found]  # `signal` itself imports `enum` for names
from types import CoroutineType

from k8s_venv.runner import protocol, report, streams
from k8s_venv.runner.opening import beside, open_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, List, Optional

# The ways to run this program, each with the folder of a result.
_MODES = ("--result", "--hand-over", "--read", "--release")
_TERMINATED: int = 128 + SIGTERM


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
    folder = os.path.abspath(options[modes[0]])  # the function may change the directory
    if modes[0] == "--result":
        with report.Reporter(folder, options.get("--message")) as reporter:
            reporter.delivery = beside(archive, protocol.DELIVERY)
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
        call, args, kwargs, discard = open_call(path, reporter, attached=attached)
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


def _prepare_process() -> None:
    """Mark what is printed; end when told to."""
    signal(SIGTERM, _terminate)  # process 1, as in a pod, has no default handler
    streams.install()


def _terminate(number: int, frame: Optional[FrameType]) -> None:
    raise SystemExit(_TERMINATED)
