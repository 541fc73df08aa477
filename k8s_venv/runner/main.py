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

import os
import sys
import time
from _signal import SIGTERM, signal  # type: ignore[import-not-found]  # `signal` itself imports `enum` for names
from _thread import start_new_thread  # `threading` is for calls that have more threads than this one

from k8s_venv.runner import report, streams
from k8s_venv.runner.opening import beside, open_call
from k8s_venv.runner.preserving import Preserved
from k8s_venv.wire import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, List, NoReturn, Optional

# The ways to run this program, each with the folder of a result.
_MODES = ("--result", "--hand-over", "--read", "--release")
LINGER = 60.0  # seconds
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
        if "--message" in options:
            os.write(1, f"{protocol.BEGIN}\n".encode())
        with report.Reporter(folder, options.get("--message")) as reporter:
            reporter.delivery = beside(archive, protocol.DELIVERY)
            code = run(archive, reporter, attached=options.get("--secrets") == "-")
            start_new_thread(_end_what_lingers, (code,))
            return code
    from k8s_venv.runner import hand_over

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
        with Preserved():
            value = call(*args, **kwargs)
        if hasattr(type(value), "cr_await"):  # what an asynchronous function returns
            import asyncio

            with Preserved():
                value = asyncio.run(value)
        reporter.timings["run"] = time.perf_counter() - started
        reporter.timings["clock"] = time.time()
        if os.getpid() != reporter.process:
            raise SystemExit("A process that the function forked returned from it: end such a process by os._exit().")
        reporter.value(None if discard else value)
    except BaseException as error:
        if os.getpid() != reporter.process:
            raise  # a process that the function forked has nothing to report
        return _report(error, reporter)
    else:
        return 0
    finally:
        streams.finish()


def _report(error: BaseException, reporter: report.Reporter) -> int:
    """Report what ended a call; return the process's exit code."""
    if isinstance(error, SystemExit):
        if error.code in (None, 0):  # a task that calls sys.exit(0) did what it wanted
            reporter.value(None)
            return 0
        if error.code == _TERMINATED and "result" in reporter.delivery:
            return _TERMINATED  # whoever ended the call fetches nothing from the location for large values
    try:
        return 0 if reporter.failure(error) == protocol.SKIP else 1
    except Exception as broken:  # noqa: BLE001 -- whatever the function has made of its process
        ends, why = f"the call ended with {type(error).__name__}", f"{type(broken).__name__}: {broken}"
        why = reporter.mask(why) if reporter.mask else why
        os.write(1, f"{protocol.MARK}ERROR - {ends}, which cannot be reported: {why}\n".encode())
        os._exit(protocol.NOT_REPORTED)  # no exit handler or thread can help


def _age() -> float:
    """Return for how many seconds this process has lived, where the system says so (proc(5))."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            started = int(stat.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def _end_what_lingers(code: int) -> None:
    """End this process, whose call is over, when threads or exit handlers that the function left keep it."""
    time.sleep(LINGER)
    text = f"the call is over, but threads or exit handlers that it left are still at work after {LINGER:.0f} s"
    os.write(1, f"{protocol.MARK}WARNING - {text}: they are ended.\n".encode())
    os._exit(code)


def _prepare_process() -> None:
    """Mark what is printed; end when told to; refuse to wait for somebody at a terminal."""
    signal(SIGTERM, _terminate)  # process 1, as in a pod, has no default handler
    streams.install()
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = _refuse_breakpoint


def _refuse_breakpoint(*args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError(
        "breakpoint() waits for somebody at a terminal, and an isolated environment has none: remove it."
    )


def _terminate(number: int, frame: Optional[FrameType]) -> None:
    raise SystemExit(_TERMINATED)
