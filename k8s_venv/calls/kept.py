"""Calls that are kept at the location for large values, so that ``k8s-venv replay`` can run them again.

A kept call is a zip archive: ``kept.json``, which says what it is, and the files of the call as they were sent,
arguments included. Connections and variables are never in it; it names them, and who replays the call gives their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from k8s_venv.calls.packed import PackedCall, Spool
from k8s_venv.calls.transfer import StoredValue, call_files, location_at
from k8s_venv.errors import CallError
from k8s_venv.wire import protocol
from k8s_venv.wire.values import map_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from k8s_venv.calls.packed import Transport
    from k8s_venv.calls.transfer import Location
    from k8s_venv.config.environment import Environment

FORMAT = 1
_FACTS = "kept.json"
_ARGUMENTS = "arguments"
_REFERENCE = "reference."
_LONGEST_NAME = 80  # characters of a task's name in that of its kept call
_LARGEST_FACTS = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a kept call beside its files.

    Args:
        task: what made the call, such as ``sales.clean``, with its run and try.
        environment: the environment's name.
        python: its minor version.
        lock: the digest of its lock, if it had one.
        function: the function's name.
        transport: how the function travelled.
        modules: the modules that it shipped.
        connections: the ids of the connections that it got.
        variables: the keys of the variables that it got.
        outcome: how it ended, as a sentence.
        kept: when, in RFC 3339.
    """

    task: str
    environment: str
    python: str
    lock: str
    function: str
    transport: Transport
    modules: tuple[str, ...]
    connections: tuple[str, ...]
    variables: tuple[str, ...]
    outcome: str
    kept: str


def keep(call: PackedCall, facts: Facts) -> str:
    """Store a call at its environment's location for large values, and return where.

    Args:
        call: the call.
        facts: what is known of it.

    Raises:
        CallError: it has no location, or that cannot be used.
    """
    place = place_of(call.environment, facts.task)
    location, name = _found(place)
    with tempfile.TemporaryDirectory(prefix="k8s-venv-kept-") as folder:
        path = Path(folder) / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_FACTS, json.dumps({"format": FORMAT, **dataclasses.asdict(facts)}))
            for file, data in call_files(call).items():
                if file != protocol.DELIVERY:  # it is written for each run
                    entry = _ARGUMENTS if call.arguments is not None and file.startswith("arguments.") else file
                    archive.writestr(entry, bytes(data))
        location.put(name, path)
    return place


def place_of(environment: Environment, task: str) -> str:
    """Return where the call of a task is kept.

    Args:
        environment: its environment.
        task: the task, with its run and try.

    Raises:
        CallError: the environment has no location for large values.
    """
    url = environment.values.location
    if url is None:
        raise CallError(f"Environment {environment.name!r} has no `location` under [values], where calls are kept.")
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", task).strip("-.")[:_LONGEST_NAME]
    return f"{url}/{readable}-{hashlib.sha256(task.encode()).hexdigest()[:12]}.call"


def _found(place: str) -> tuple[Location, str]:
    """Return the location of a kept call, and its name there."""
    url, _, name = place.rpartition("/")
    return location_at(url or "/"), name


def is_kept(place: str) -> bool:
    """Return whether there is something at the place of a kept call."""
    try:
        location, name = _found(place)
        return location.size(name) > 0
    except CallError:
        return False


def forget(place: str) -> None:
    """Remove a kept call.

    Args:
        place: what ``place_of`` returned.

    Raises:
        CallError: the location cannot be used.
    """
    location, name = _found(place)
    location.delete(name)


@dataclasses.dataclass(frozen=True)
class KeptCall:
    """A kept call that was fetched.

    Args:
        facts: what is known of it.
        archive: the archive that runs.
        folder: holds what it needs beside.
    """

    facts: Facts
    archive: bytes = dataclasses.field(repr=False)
    folder: Path

    def call(self, environment: Environment, given: Mapping[str, Any]) -> PackedCall:
        """Return the call, to be run again.

        Args:
            environment: where it runs.
            given: the connections and variables that it gets, and the texts that no log may show.
        """
        arguments = self.folder / _ARGUMENTS
        stored = location_at(str(self.folder))
        return PackedCall(
            environment=environment,
            function=self.facts.function,
            modules=frozenset(self.facts.modules),
            secrets=dict(given),
            transport=self.facts.transport,
            archive=self.archive,
            arguments=Spool([map_file(str(arguments))]) if arguments.exists() else None,
            references={
                path.name.removeprefix(_REFERENCE): (path.stat().st_size, StoredValue(stored, path.name))
                for path in sorted(self.folder.glob(f"{_REFERENCE}*"))
            },
        )


@contextlib.contextmanager
def opened(place: str) -> Iterator[KeptCall]:
    """Fetch a kept call.

    Args:
        place: what ``keep`` returned, or the path of a file with it.

    Raises:
        CallError: there is none, or it is not one that this version understands.
    """
    place = place if "://" in place else str(Path(place).absolute())
    location, name = _found(place)
    data = location.fetch(name, location.size(name))
    with tempfile.TemporaryDirectory(prefix="k8s-venv-kept-") as folder:
        yield _read(place, data, Path(folder))


def _read(place: str, data: Any, folder: Path) -> KeptCall:
    try:
        with zipfile.ZipFile(_stream(data, folder)) as archive:
            if archive.getinfo(_FACTS).file_size > _LARGEST_FACTS:
                raise ValueError("its description is too long")
            facts = json.loads(archive.read(_FACTS))
            if facts.pop("format") != FORMAT:
                raise CallError(f"{place} was kept by another version of k8s-venv: use the one that kept it.")
            for name in archive.namelist():
                if name == _ARGUMENTS or re.fullmatch(rf"{re.escape(_REFERENCE)}[0-9a-f]{{64}}", name):
                    archive.extract(name, folder)
            return KeptCall(_facts(facts), archive.read(protocol.ARCHIVE), folder)
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError, NotImplementedError) as error:
        raise CallError(f"{place} is not a kept call, or it is damaged ({type(error).__name__}).") from None


def _facts(found: dict[str, Any]) -> Facts:
    """Return what ``kept.json`` says, in its types."""
    listed = {"modules", "connections", "variables"}
    known: dict[str, Any] = {
        field.name: tuple(map(str, found[field.name])) if field.name in listed else str(found[field.name])
        for field in dataclasses.fields(Facts)
    }
    return Facts(**known)


def _stream(data: Any, folder: Path) -> IO[bytes]:
    path = folder / "kept"
    path.write_bytes(data)
    return cast("IO[bytes]", path.open("rb"))
