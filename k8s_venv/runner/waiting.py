"""Wait in a pod, its imports done, for one call, and become the runner of that call's archive.

The program of a waiting pod: its text is given to ``python -c``, so it imports nothing of k8s-venv, and an archive of
any version may come. A relay, which the sender starts beside it, connects to a socket that only the same user may open,
and hands over its own standard input and output. What comes in are the call's files::

    k8s-venv 1
    call.pyz 23456
    secrets.json 120

    …their bytes, in that order…

The files appear under their names when all of them are there, the archive last. One call arrives here; a delivery that
breaks off leaves nothing, and the next one is waited for.
"""

from __future__ import annotations

import os
import sys
import time
from _signal import SIGTERM, signal  # type: ignore[import-not-found]
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    SCM_RIGHTS,
    SO_PEERCRED,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from fcntl import LOCK_EX, flock
from select import select

TYPE_CHECKING = False  # `typing` takes more memory than all of this
if TYPE_CHECKING:
    from typing import Any, Dict, List, NoReturn, Tuple

SOCKET, LOCK, ARCHIVE = "waiting.sock", "waiting.lock", "call.pyz"
_GREETING = "k8s-venv 1"
_BEGIN = b"\x1ebegin\n"  # the first line of a pod's log: `protocol.BEGIN`
_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_REST = _FIRST | frozenset("._-")
# What the runner changes while they are imported, or brings in its own version.
_NEVER_BEFORE = ("airflow", "k8s_venv")
_LONGEST_HEADER = 65536
_SILENCE = 60.0  # seconds without a byte after which a delivery counts as broken off
_BLOCK = 1 << 20
_MESSAGE = 3500  # bytes that Kubernetes shows of why a container ended
_TERMINATED = 128 + SIGTERM


class DeliveryError(Exception):
    """A delivery that broke off, or that is none."""


def main(arguments: List[str]) -> None:
    """Wait for a call and run it; see the module.

    Args:
        arguments: ``--call FOLDER --result FOLDER --message FILE`` and perhaps ``--preload MODULE,…``.
    """
    options = dict(zip(arguments[::2], arguments[1::2]))
    folder = options["--call"]
    signal(SIGTERM, _leave)  # process 1 has no default handler
    os.write(1, _BEGIN)  # here, so that the log has its beginning before all that the modules print
    lock = _locked(os.path.join(folder, LOCK))
    command = [os.path.join(folder, ARCHIVE), "--result", options["--result"], "--message", options["--message"]]
    sys.path[:] = filter(None, sys.path)  # without the working folder, which `-c` adds
    sys.argv[:] = command  # as the modules find it that are imported by a call
    _preload([name for name in options.get("--preload", "").split(",") if name], options["--message"])
    signal(SIGTERM, _leave)  # a module may have taken it for its own
    output = _receive(folder)
    since = repr(time.clock_gettime(time.CLOCK_BOOTTIME))
    os.close(lock)
    try:  # noqa: SIM105 -- `contextlib` would have to be imported
        os.write(output, b"delivered\n")
    except OSError:  # the sender is gone; the call is here
        pass
    _become([*command, "--since", since, "--connection", str(output)])


def _leave(*ignored: Any) -> NoReturn:
    os._exit(_TERMINATED)


def _locked(path: str) -> int:
    """Return a file that is locked while this program waits, by which the container beside it knows its end."""
    lock = os.open(path + ".part", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    flock(lock, LOCK_EX)
    os.rename(path + ".part", path)  # others see it only when it is locked
    return lock


# --- modules that are imported before a call --------------------------------------------------------------


def _preload(names: List[str], message: str) -> None:
    """Import modules; end this process if one of them cannot be, or imports what only a call may import."""
    for name in names:
        try:
            __import__(name)
        except BaseException as error:  # noqa: BLE001 -- SystemExit as well
            import traceback

            problem = "".join(traceback.format_exception_only(type(error), error)).strip().split("\n")[-1]
            _fail(message, traceback.format_exc(), f"the preload {name!r} cannot be imported: {problem}")
        for refused in _NEVER_BEFORE:
            if refused in sys.modules:
                why = f"it imports {refused!r}, which only a call may import. Take {name!r} out of `preload`."
                _fail(message, "", f"the preload {name!r} cannot be imported before a call: {why}")


def _fail(message: str, trace: str, sentence: str) -> NoReturn:
    os.write(2, f"{trace}{sentence}\n".encode("utf-8", "backslashreplace"))
    told = f"{trace}{sentence}".encode("utf-8", "backslashreplace")[-_MESSAGE:]
    with open(message, "wb") as file:
        file.write(told)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # also if the modules have started threads


# --- the delivery ------------------------------------------------------------------------------------------


def _receive(folder: str) -> int:
    """Wait for a call, leave its files in a folder, and return the standard output of its relay."""
    path = os.path.join(folder, SOCKET)
    listening = socket(AF_UNIX, SOCK_STREAM)
    mask = os.umask(0o177)  # of the socket and of the files
    listening.bind(path)
    listening.listen(16)
    while True:
        connection = socket(fileno=listening._accept()[0])  # type: ignore[attr-defined]
        descriptors: List[int] = []
        try:
            _refuse_others(connection)
            descriptors = _descriptors(connection)
            _take(folder, descriptors[0])
        except (DeliveryError, OSError) as error:
            _refuse(descriptors, error)
            connection.close()
            continue
        os.close(descriptors[0])
        try:  # noqa: SIM105
            connection.send(b"+")  # before the socket closes: to its relay, this one is told apart from all others
        except OSError:  # the relay is gone; the call is here
            pass
        os.unlink(path)
        listening.close()
        os.umask(mask)
        connection.detach()  # it closes with this process, until then the relay stays
        return descriptors[1]


def _refuse_others(connection: Any) -> None:
    pid_uid_gid = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    if int.from_bytes(pid_uid_gid[4:8], sys.byteorder) != os.geteuid():
        raise DeliveryError("another user's")


def _descriptors(connection: Any) -> List[int]:
    """Return the relay's standard input and output."""
    connection.settimeout(_SILENCE)
    found: List[int] = []
    for level, kind, data in connection.recvmsg(1, CMSG_SPACE(8))[1]:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            found += [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, len(data) // 4 * 4, 4)]
    for descriptor in found:
        os.set_inheritable(descriptor, False)
    if len(found) != 2:
        for descriptor in found:
            os.close(descriptor)
        raise DeliveryError("it brings no standard input and output")
    return found


def _refuse(descriptors: List[int], error: BaseException) -> None:
    """Close a relay's standard input and output, with the reason."""
    for number, descriptor in enumerate(descriptors):
        try:
            if number == 1 and select([], [descriptor], [], 0)[1]:
                os.write(descriptor, f"refused: {error}\n".encode("utf-8", "backslashreplace"))
        except OSError:  # no one reads it
            pass
        os.close(descriptor)


def _take(folder: str, source: int) -> None:
    """Leave the files that come from a descriptor in a folder: all of them, or none."""
    begun: List[str] = []
    try:
        header, data = _header(source)
        for name, size in header.items():
            # No name begins with a point, so this one meets no other.
            begun.append(os.path.join(folder, f".{name}"))
            data = _copy(source, data, begun[-1], size)
        for name in sorted(header, key=lambda name: name == ARCHIVE):  # who sees the archive has all of them
            os.rename(os.path.join(folder, f".{name}"), os.path.join(folder, name))
    except BaseException:
        for path in begun:
            if os.path.exists(path):
                os.unlink(path)
        raise


def _header(source: int) -> Tuple[Dict[str, int], bytes]:
    """Return the sizes of the files by their names, and what was read beyond."""
    data = b""
    while b"\n\n" not in data:
        if len(data) > _LONGEST_HEADER:
            raise DeliveryError("its header has no end")
        data += _read(source, 4096)
    head, _, rest = data.partition(b"\n\n")
    greeting, *lines = head.decode("ascii", "backslashreplace").split("\n")
    if greeting != _GREETING:
        raise DeliveryError(f"it begins with {greeting[:40]!r} and not with {_GREETING!r}")
    sizes: Dict[str, int] = {}
    for line in lines:
        name, _, size = line.partition(" ")
        good = bool(name) and name[0] in _FIRST and _REST.issuperset(name) and len(name) < 200
        if not good or name in sizes or name in (SOCKET, LOCK) or not (size.isdigit() and len(size) < 13):
            raise DeliveryError(f"{line[:80]!r} names no file and its size")
        sizes[name] = int(size)
    if ARCHIVE not in sizes:
        raise DeliveryError(f"it has no {ARCHIVE}")
    return sizes, rest


def _copy(source: int, data: bytes, path: str, size: int) -> bytes:
    """Write so many bytes to a file, of which some have been read already; return what was read beyond."""
    with open(path, "wb", buffering=0) as file:
        while size:
            data = data or _read(source, min(size, _BLOCK))
            written = file.write(data[:size])
            size, data = size - written, data[written:]
    return data


def _read(source: int, most: int) -> bytes:
    if not select([source], [], [], _SILENCE)[0]:
        raise DeliveryError(f"it brought nothing for {_SILENCE:.0f} s")
    data = os.read(source, most)
    if not data:
        raise DeliveryError("it broke off")
    return data


# --- the call ---------------------------------------------------------------------------------------------


def _become(command: List[str]) -> None:
    """Run an archive as Python does with the file of a program."""
    from zipimport import zipimporter

    for name in [name for name in sys.modules if name.partition(".")[0] == "cloudpickle"]:
        del sys.modules[name]  # the archive brings the one that it needs
    sys.argv[:] = command
    module = sys.modules["__main__"] = type(sys)("__main__")
    exec(zipimporter(command[0]).get_code("__main__"), module.__dict__)  # noqa: S102


if __name__ == "__main__":
    main(sys.argv[1:])
