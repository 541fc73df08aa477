"""Pack one function with its arguments and context as one archive that Python can run."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import importlib.util
import io
import json
import marshal
import platform
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv._version import __version__
from k8s_venv.calls.capturing import capture
from k8s_venv.calls.packed import PackedCall, SentCall, Spool, check_serializer, same_python
from k8s_venv.capture.functions import function_name, home_of, place_of, without_partial
from k8s_venv.capture.origins import dotted_name, is_installed, sent_name
from k8s_venv.errors import CallError
from k8s_venv.wire import protocol
from k8s_venv.wire.encoder import length
from k8s_venv.wire.errors import NoCodecError, Notes
from k8s_venv.wire.registry import registered
from k8s_venv.wire.values import buffers, dump_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from k8s_venv.calls.capturing import Captured
    from k8s_venv.calls.packed import Serializer, Transport
    from k8s_venv.config.environment import Environment

_MARSHAL_VERSION = 4  # which all Pythons read from 3.4 on
# Waits for an archive in a pod, so that none needs it.
_WAITING = "k8s_venv/runner/waiting.py"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip can hold; the same call gives the same bytes

# The objects of Airflow's context that travel, with the plain attributes that they have inside an environment.
CONTEXT_OBJECTS: Mapping[str, tuple[str, ...]] = {
    "dag": ("dag_id", "description", "tags"),
    "dag_run": (
        *("dag_id", "run_id", "run_type", "conf", "logical_date", "run_after", "start_date"),
        *("data_interval_start", "data_interval_end"),
    ),
    "task": ("task_id", "owner", "retries"),
    "ti": ("dag_id", "task_id", "run_id", "try_number", "map_index", "max_tries"),
}
CONTEXT_ALIASES = {"task_instance": "ti"}


def pack(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    environment: Environment,
    transport: Transport | None = None,
    context: Mapping[str, Any] | None = None,
    secrets: Mapping[str, Any] | None = None,
    discard_value: bool = False,
    serializer: Serializer | None = None,
) -> PackedCall:
    """Pack a call.

    Args:
        function: what to call.
        args: its positional arguments.
        kwargs: its keyword arguments.
        environment: where it will run.
        transport: overrides the rule of ``capturing``.
        context: Airflow's context, as ``values``, ``objects`` and ``parameters``, or None outside Airflow.
        secrets: the connections and variables to deliver, and the texts that no log may show.
        discard_value: whether the runner reports success without the value.
        serializer: ``cloudpickle`` pickles what no codec carries of the result, and this side unpickles it. Code of
            the environment's choice then runs here.

    Raises:
        CallError: the function or an argument cannot travel.
    """
    check_serializer(serializer, environment)
    if serializer is None and not discard_value:
        _refuse_lost_instances(function)
    captured = capture(function, environment, transport, args, kwargs)
    if captured.transport == "source" and not same_python(environment.python):
        check_syntax(captured.source, environment.python)
    namespaces = _namespaces(function)
    modules = frozenset(namespaces).union(dict(captured.arguments.names), map(dotted_name, captured.beside))
    entries, spool = _with_arguments(captured)
    entries[protocol.CONTEXT], notes = _encode_context(function, context)
    entries[protocol.HEADER] = json.dumps(_header(captured, modules, context, discard_value, serializer)).encode()
    pickled = captured.transport == "cloudpickle" or captured.arguments.pickled or serializer is not None
    runner = _runner_archive(same_minor=same_python(environment.python), with_cloudpickle=pickled)
    archive = _zip(entries, runner)
    return PackedCall(
        environment=environment,
        function=captured.function,
        modules=modules,
        transport=captured.transport,
        archive=archive,
        secrets=dict(secrets or {}),
        serializer=serializer,
        arguments=spool,
        references=captured.arguments.stored,
        own_size=len(archive) - len(runner),
        notes=(*captured.arguments.notes, *notes),
        namespaces=namespaces,
    )


def sent_call(
    function: Callable[..., Any],
    facts: Mapping[str, Any],
    *,
    environment: Environment,
    secrets: Mapping[str, Any],
    serializer: Serializer | None = None,
) -> SentCall:
    """Return a call that another process packed, without packing it again.

    Args:
        function: what is called.
        facts: what ``SentCall.facts`` returned there.
        environment: where it runs.
        secrets: as for ``pack``.
        serializer: as for ``pack``.
    """
    return SentCall(
        environment=environment,
        function=function_name(function),
        modules=frozenset(facts["modules"]),
        namespaces=_namespaces(function),
        secrets=secrets,
        serializer=serializer,
        arguments_apart=facts["arguments_apart"],
    )


def _namespaces(function: Callable[..., Any]) -> dict[str, Mapping[str, Any]]:
    """Return what the names of the function's own module stand for, by the module's name."""
    home = home_of(function)
    return {home[0]: home[1]} if home is not None and not is_installed(home[0]) else {}


def _refuse_lost_instances(function: Callable[..., Any]) -> None:
    """Refuse to call a class whose instances, which are the result, no codec can carry."""
    kind = without_partial(function)
    if isinstance(kind, type) and not is_installed(kind.__module__) and _loses_instances(kind):
        raise CallError(
            f"The result of {kind.__name__}() would be a {kind.__qualname__}, which cannot travel. Make it a dataclass "
            "or a named tuple at the top level of its module, say how it travels with "
            "k8s_venv.runtime.register_codec(), or call a function that returns plain data."
        )


def _loses_instances(kind: Any) -> bool:
    if any("__call__" in vars(base) for base in type(kind).__mro__ if base is not type):
        return False  # what its metaclass returns may be anything
    if hasattr(kind, "__dataclass_fields__") or hasattr(kind, "_fields"):
        return "<locals>" in kind.__qualname__
    is_plain = kind.__mro__[1:] == (object,) and kind.__new__ is object.__new__
    return bool(is_plain and kind not in registered("types"))


def _with_arguments(captured: Captured) -> tuple[dict[str, bytes], Spool | None]:
    """Return the archive's entries with the arguments among them, or else the file with the arguments."""
    entries, pieces = dict(captured.entries), captured.arguments.pieces
    if sum(map(length, pieces)) <= protocol.ARGUMENTS_INSIDE:
        return {**entries, protocol.ARGUMENTS: b"".join(buffers(pieces))}, None
    try:
        return entries, Spool(buffers(pieces))
    except OSError as error:
        raise CallError(f"The arguments cannot be kept in {tempfile.gettempdir()}: {error}.") from None


def _header(
    captured: Captured,
    modules: frozenset[str],
    context: Mapping[str, Any] | None,
    discard_value: bool,
    serializer: Serializer | None,
) -> dict[str, Any]:
    return {
        "protocol": protocol.PROTOCOL,
        "sender": {"python": platform.python_version(), "k8s-venv": __version__},
        "root": str(captured.environment.root),
        "environment": captured.environment.name,
        "python": captured.environment.python,
        "transport": captured.transport,
        "recipe": protocol.SOURCE_FUNCTION in captured.entries,
        "function": captured.function,
        "context": None if context is None else context["parameters"],
        "modules": sorted(sent_name(name) for name in modules),
        "discard_value": discard_value,
        "serializer": serializer,
    }


def _encode_context(function: Callable[..., Any], context: Mapping[str, Any] | None) -> tuple[bytes, list[str]]:
    """Return Airflow's context encoded, with a sentence for each part that will arrive as something plainer."""
    notes = Notes()
    try:
        encoded = b"".join(buffers(dump_parts(context, notes=notes)))
    except NoCodecError as error:
        raise CallError(
            f"Airflow's context for {function_name(function)}() cannot travel: {error.path} is {error.kind}.",
            *place_of(function),
        ) from None
    return encoded, notes.sentences(lambda path: f"Airflow's context: {path}")


@functools.cache
def _runner_archive(*, same_minor: bool, with_cloudpickle: bool) -> bytes:
    """Return an archive with what every call carries, made once.

    Args:
        same_minor: whether the environment can read this Python's bytecode.
        with_cloudpickle: whether anything in the call is pickled.
    """
    package = importlib.resources.files("k8s_venv")
    files = [("k8s_venv/runtime.py", package.joinpath("runtime.py"))]
    for part in ("runner", "wire"):
        files += [(f"k8s_venv/{part}/{file.name}", file) for file in package.joinpath(part).iterdir()]
    files = [(name, file) for name, file in files if name != _WAITING]
    if with_cloudpickle:
        vendored = importlib.resources.files("cloudpickle").iterdir()
        files += [(f"{protocol.VENDOR}/cloudpickle/{file.name}", file) for file in vendored]
    entries = {name: file.read_bytes() for name, file in files if name.endswith(".py")}
    entries["k8s_venv/__init__.py"] = b""
    entries[protocol.RUNNER] = _bundle(entries, same_minor=same_minor)
    entries["__main__.py"] = entries["k8s_venv/runner/start.py"]
    return _zip(entries, b"")


def _bundle(sources: Mapping[str, bytes], *, same_minor: bool) -> bytes:
    """Return the runner's modules in one piece, as ``runner.start`` reads it.

    Args:
        sources: each module's source by its path in the archive.
        same_minor: whether the environment can read this Python's bytecode.
    """
    modules = {}
    for path, source in sorted(sources.items()):
        name = path.removeprefix(f"{protocol.VENDOR}/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if same_minor:
            code = compile(source, f"{protocol.ARCHIVE}/{path}", "exec", dont_inherit=True, optimize=2)
            source = marshal.dumps(code)
        modules[name] = path, zlib.compress(source, 9)
    # An environment whose Python has another magic number after all takes the sources, which travel as well.
    magic = importlib.util.MAGIC_NUMBER if same_minor else b""
    return marshal.dumps((magic, modules), _MARSHAL_VERSION)


def _zip(entries: Mapping[str, bytes], archive: bytes) -> bytes:
    """Return an archive with further entries."""
    stream = io.BytesIO(archive)
    folders = {str(parent) for name in entries for parent in Path(name).parents if str(parent) != "."}
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as target:
        # Importing a package without __init__.py from an archive needs its folder's own entry.
        for folder in sorted(folders):
            target.writestr(zipfile.ZipInfo(f"{folder}/", _EPOCH), b"")
        for name, data in sorted(entries.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            if name != protocol.RUNNER:  # which is compressed module by module
                info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, data)
    return stream.getvalue()


# --- syntax that an older Python cannot parse -----------------------------------------------------------------

# Ruff knows in which version each construct came (`target-version`, from Python 3.7 on); `ast.parse` with
# `feature_version` misses some. A worker without ruff leaves it to `k8s-venv check`, and to the environment's Python,
# which refuses the same line.


@dataclasses.dataclass(frozen=True)
class Finding:
    """Syntax that a version lacks.

    Args:
        file: where it stands.
        line: its line, counted from 1.
        problem: what it is, as a sentence.
    """

    file: str
    line: int
    problem: str


def check_syntax(slices: Iterable[tuple[str, int, str]], python: str) -> None:
    """Refuse source that a Python version cannot parse.

    Args:
        slices: each piece's file, first line and text.
        python: the minor version, such as ``3.8``.

    Raises:
        CallError: there is some.
    """
    for first in newer_syntax(slices, python)[:1]:
        raise CallError(
            f"{first.problem}; the environment runs Python {python}. Write it in the older way, or raise `python`.",
            first.file,
            first.line,
        )


def newer_syntax(slices: Iterable[tuple[str, int, str]], python: str) -> list[Finding]:
    """Return the syntax in pieces of source that a Python version cannot parse.

    Args:
        slices: each piece's file, first line and text; indentation may be kept.
        python: the minor version, such as ``3.8``.
    """
    if _version(python) >= sys.version_info[:2]:
        return []  # the sender's own parser has read it; newer ones read what older ones did
    lines: list[str] = []
    places: list[tuple[str, int]] = []
    for file, first, text in slices:
        prefix = ["if 1:\n"] if text[:1] in (" ", "\t") else []
        body = prefix + io.StringIO(text if text.endswith("\n") else text + "\n").readlines()
        lines += body
        places += [(file, first - len(prefix) + number) for number in range(len(body))]
    findings = []
    for message in _ruff("".join(lines), python) if lines else ():
        file, line = places[min(message["location"]["row"], len(places)) - 1]
        findings.append(Finding(file, line, message["message"].rstrip(".")))
    return findings


def is_newer(python: str) -> bool:
    """Return whether a minor version is newer than this Python, which then may not know all of its syntax."""
    return _version(python) > sys.version_info[:2]


def _version(python: str) -> tuple[int, ...]:
    return tuple(int(part) for part in python.split("."))


@functools.lru_cache(maxsize=64)
def _ruff(source: str, python: str) -> list[dict[str, Any]]:
    try:
        from ruff.__main__ import find_ruff_bin
    except ModuleNotFoundError:
        return []
    command = [find_ruff_bin(), "check", "--isolated", "--no-cache", "--select", "E9", "--output-format", "json"]
    command += ["--target-version", f"py{python.replace('.', '')}", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode not in (0, 1):
        raise CallError(f"The syntax check failed: {done.stderr.strip()}")
    # A slice by itself can look wrong in other ways; this is what a version lacks.
    return [message for message in json.loads(done.stdout) if "(syntax was" in message["message"]]
