"""Run a call and report how it ended; ``README.md`` beside this file has the command line.

Every call waits for what is imported before its function. So what only some need is imported where they need it, and
much of the standard library is done without: ``json``, ``logging``, ``re``, ``signal`` and ``typing`` take longer,
each, than the runner itself.
"""

from __future__ import annotations

import builtins
import os
import sys
import time
from _signal import SIGKILL, SIGTERM, signal  # type: ignore[import-not-found]  # `signal` itself imports `enum`
from _thread import start_new_thread  # `threading` is for calls that have more threads than this one

from k8s_venv.runner import report, streams
from k8s_venv.runner.opening import beside, open_call
from k8s_venv.wire import protocol, quickjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Dict, List, NoReturn, Optional

# The ways to run this program, each with the folder of a result.
_MODES = ("--result", "--hand-over", "--read", "--release")
LINGER = 60.0  # seconds
# Seconds between asking this process to end and ending it, once its sender is gone.
GRACE = 10.0
_CHUNK = 65536
_TERMINATED: int = 128 + SIGTERM


def main(archive: str, arguments: List[str]) -> int:
    """Run the runner's command line and return the process's exit code.

    Args:
        archive: the path of the call's archive.
        arguments: the command line without the program's name: names and values in turn.
    """
    options = dict(zip(arguments[::2], arguments[1::2]))
    modes = [name for name in _MODES if name in options]
    if len(modes) != 1:
        raise SystemExit(f"usage: python {archive} {{{'|'.join(_MODES)}}} DIR [--message FILE]")
    folder = os.path.abspath(options[modes[0]])  # the function may change the directory
    if modes[0] == "--result":
        return _result(archive, folder, options)
    from k8s_venv.runner import transfer

    if modes[0] == "--read":
        transfer.send(folder, int(options.get("--from", 0)))
    elif modes[0] == "--release":
        transfer.release(folder)
    else:
        transfer.wait(folder)
    return 0


def _result(archive: str, folder: str, options: Dict[str, str]) -> int:
    """Run the call in an archive and leave its result in a folder; return the process's exit code."""
    connection: Any = None
    if "--connection" in options:
        from k8s_venv.runner.connection import Connection

        connection = Connection(int(options["--connection"]))
    since = float(options["--since"]) if "--since" in options else None
    if "--message" in options and since is None:  # else what waited for the call has begun the log
        os.write(1, f"{protocol.BEGIN}\n".encode())
    with report.Reporter(folder, options.get("--message")) as reporter:
        reporter.delivery = beside(archive, protocol.DELIVERY)
        code = run(archive, reporter, attached=options.get("--secrets") == "-", since=since)
        if connection is not None:
            connection.send(reporter.document, reporter.payload)
        start_new_thread(_end_what_lingers, (code,))
        return code


def run(path: str, reporter: report.Reporter, *, attached: bool = False, since: Optional[float] = None) -> int:
    """Run the call in an archive and report how it ended; return the process's exit code.

    Args:
        path: the archive.
        reporter: where the result goes.
        attached: whether the sender holds standard input and sends the secrets there.
        since: when the call reached this process, if that waited for it: in seconds since the system started.
    """
    _prepare_process()
    started = time.perf_counter()
    try:
        secrets = _receive_secrets() if attached else beside(path, protocol.SECRETS)
        call, args, kwargs, discard = open_call(path, reporter, secrets)
        reporter.timings["open"] = time.perf_counter() - started
        reporter.timings["imports"] = _age(since)
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
            return _TERMINATED  # the sender, which ended the call, reads no large value from the location
    try:
        return 0 if reporter.failure(error) == protocol.SKIP else 1
    except Exception as broken:  # noqa: BLE001 -- the function may have changed anything in its process
        ends, why = f"the call ended with {type(error).__name__}", f"{type(broken).__name__}: {broken}"
        why = reporter.mask(why) if reporter.mask else why
        os.write(1, f"{protocol.MARK}ERROR - {ends}, which cannot be reported: {why}\n".encode())
        os._exit(protocol.NOT_REPORTED)  # no exit handler or thread can help


def _age(since: Optional[float]) -> float:
    """Return for how many seconds this process has had its call, if the system knows when it began (proc(5))."""
    if since is not None:
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - since, 0.0)
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
    """Mark what is printed; end at SIGTERM; refuse to wait for input at a terminal."""
    signal(SIGTERM, _terminate)  # process 1, as in a pod, has no default handler
    streams.install()
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = _refuse_breakpoint


def _refuse_breakpoint(*args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError("breakpoint() waits for input at a terminal, and an isolated environment has none: remove it.")


def _terminate(number: int, frame: Optional[FrameType]) -> None:
    raise SystemExit(_TERMINATED)


# --- the process after the function -----------------------------------------------------------------------

_FINDING = ("meta_path", "path", "path_hooks")
_LIMITS = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE")


class Preserved:
    """Gives back, after a ``with`` block, the modules, how more are found, the built-in names, and limits.

    What the block added stays, behind what was there before.
    """

    def __enter__(self) -> None:
        self._names, self._modules, self._sys = vars(builtins), sys.modules, vars(sys)
        self._kept_names, self._kept_modules = dict(self._names), dict(self._modules)
        self._finding = {name: list(self._sys[name]) for name in _FINDING}
        self._importers = dict(sys.path_importer_cache)
        self._recursion_limit = sys.getrecursionlimit()
        self._umask = os.umask(0)
        os.umask(self._umask)

    def __exit__(self, *error: object) -> None:
        self._names.update(self._kept_names)  # first: what follows uses some of them
        sys.setrecursionlimit(max(self._recursion_limit, sys.getrecursionlimit()))
        self._modules.update(self._sys.get("modules", {}))
        self._modules.update(self._kept_modules)
        sys.modules = self._modules
        for name, kept in self._finding.items():
            found = self._sys.get(name)
            added = [entry for entry in found if entry not in kept] if isinstance(found, list) else []
            self._sys[name] = kept + added
        sys.path_importer_cache = self._importers
        os.umask(self._umask)
        _lift_soft_limits()


def _lift_soft_limits() -> None:
    """Let the runner have the memory, files and time that the function denied itself."""
    resource: Any = sys.modules.get("resource")
    if resource is None:  # then no limit was set
        return
    for limit in (getattr(resource, name) for name in _LIMITS):
        most = resource.getrlimit(limit)[1]
        try:
            resource.setrlimit(limit, (most, most))
        except (OSError, ValueError):  # the system denies it
            continue


# --- standard input, which brings the secrets and is open while the sender lives ---------------------------


def _receive_secrets() -> Dict[str, Any]:
    """Return the secrets, one line of JSON on standard input, and end this process when that is closed.

    The function that is called finds an empty standard input.

    Raises:
        SystemExit: the sender ended before it had sent them.
    """
    line = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    text = b""
    while not text.endswith(b"\n"):
        read = os.read(line, _CHUNK)
        if not read:
            raise SystemExit("the sender is gone")
        text += read
    start_new_thread(_watch, (line,))
    secrets: Dict[str, Any] = quickjson.loads(text.decode())
    return secrets


def _watch(line: int) -> None:
    # No file object: one that a thread reads from cannot be closed when the interpreter ends.
    while os.read(line, _CHUNK):
        pass
    try:
        _end_what_remains()
    finally:  # also if the function has broken what that needs
        os.kill(os.getpid(), SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + SIGKILL)


def _end_what_remains() -> None:
    """Leave a process behind that ends this one's group when this one has ended, or does not."""
    import warnings  # which no call waits for

    parent, deadline = os.getpid(), time.monotonic() + GRACE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads: what follows needs none of them
        child = os.fork()
    if child == 0:
        while os.getppid() == parent and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(0, SIGKILL)
