"""A call and its result as data: how it may travel, how it was packed, what came back."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import platform
import sys
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from k8s_venv.errors import CallError
from k8s_venv.wire.shipped_types import resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from k8s_venv.calls.transfer import StoredValue
    from k8s_venv.config.environment import Environment
    from k8s_venv.wire.protocol import Document
    from k8s_venv.wire.registry import Buffer, Types

Transport = Literal["cloudpickle", "source"]
Serializer = Literal["cloudpickle"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentCall:
    """What is needed to wait for a call and to open its result, also if another process packed it.

    Args:
        environment: where it runs.
        function: the function's name, for messages.
        modules: the names of the modules that the call itself shipped, whose exceptions may be raised here.
        namespaces: the names of the function's own module as the function sees them, by the module's name: its file
            may have been loaded again since.
        secrets: what is delivered beside the archive and never in it; empty without any.
        serializer: ``cloudpickle`` if this side unpickles what no codec carries of the result.
        arguments_apart: whether the arguments are too large for the archive, so that a location may hold them.
    """

    environment: Environment
    function: str
    modules: frozenset[str] = frozenset()
    namespaces: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict, repr=False)
    secrets: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    serializer: Serializer | None = None
    arguments_apart: bool = False

    @functools.cached_property
    def types(self) -> Types:
        """Return a function that finds the types that travelled with the call, if they are loaded here."""
        return resolver(self.modules, self.namespaces)

    @functools.cached_property
    def mask(self) -> Callable[[str], str]:
        """Return a function that hides the call's secrets in a text."""
        from k8s_venv.wire.masking import masker  # not for the parsing of DAG files

        return masker(self.secrets.get("masked", ()))

    def facts(self) -> dict[str, Any]:
        """Return, as plain data, what only packing found out about this call; ``sent_call`` takes it."""
        return {"modules": sorted(self.modules), "arguments_apart": self.arguments_apart}

    def close(self) -> None:
        """Remove what the call keeps on this machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedCall(SentCall):
    """A call that is ready to run.

    Args:
        transport: how the function travels.
        archive: the zip archive, to be run as ``python call.pyz``.
        arguments: the encoded arguments, if they are too large for the archive.
        references: the size and the place of arguments that are stored at a location, by their digests.
        own_size: the bytes of the archive that are not the runner's, which every call carries.
        notes: a sentence for each part of the arguments that will arrive as something plainer.
    """

    transport: Transport
    archive: bytes = dataclasses.field(repr=False)
    arguments: Spool | None = dataclasses.field(default=None, repr=False)
    references: Mapping[str, tuple[int, StoredValue]] = dataclasses.field(default_factory=dict, repr=False)
    own_size: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments_apart", self.arguments is not None)

    @property
    def secrets_document(self) -> bytes:
        """Return the secrets as the runner reads them."""
        return json.dumps(dict(self.secrets)).encode()

    def close(self) -> None:
        """Remove what the call keeps on this machine: Airflow's task processes end without cleaning up."""
        if self.arguments is not None:
            self.arguments.close()


@dataclasses.dataclass(frozen=True)
class Result:
    """How a call ended.

    Args:
        document: the outcome, and what the payload must look like.
        payload: the encoded value or failure; a large one is a mapped file.
        stored: where the payload is instead, if it is stored at a location.
        checked: whether the payload's checksum was compared while it was read.
    """

    document: Document
    payload: Buffer = dataclasses.field(repr=False)
    stored: StoredValue | None = None
    checked: bool = False


class Spool:
    """A temporary file with an encoded value, which takes no memory; it lives until it is closed, or as long as this.

    Args:
        pieces: the encoded value, in order.
    """

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        descriptor, name = tempfile.mkstemp(prefix="k8s-venv-value-")
        self.path = Path(name)
        self._remove = weakref.finalize(self, self.path.unlink, missing_ok=True)
        digest = hashlib.sha256()
        with os.fdopen(descriptor, "wb") as stream:
            for piece in pieces:
                digest.update(piece)
                stream.write(piece)
            self.size = stream.tell()
        self.sha256 = digest.hexdigest()

    def close(self) -> None:
        """Remove the file."""
        self._remove()


def check_transport(transport: str | None, environment: Environment) -> None:
    """Refuse a transport that a task asks for and that cannot be used.

    Args:
        transport: the task's option.
        environment: where it will run.

    Raises:
        CallError: there is no such transport, or the versions of Python differ.
    """
    if transport not in (None, "source", "cloudpickle"):
        raise CallError(f'transport is "source" or "cloudpickle", or left out, not {transport!r}.')
    if transport == "cloudpickle":
        _require_same_python(environment, "transport", "Leave it out, and functions travel as source.")


def check_serializer(serializer: str | None, environment: Environment) -> None:
    """Refuse to have results pickled where this side could not read them.

    Args:
        serializer: the task's option.
        environment: where it will run.

    Raises:
        CallError: there is no such serializer, or the versions of Python differ.
    """
    if serializer not in (None, "cloudpickle"):
        raise CallError(f'serializer is "cloudpickle" or left out, not {serializer!r}.')
    if serializer:
        _require_same_python(environment, "serializer", "Leave it out and return plain data.")


def _require_same_python(environment: Environment, option: str, instead: str) -> None:
    if not same_python(environment.python):
        raise CallError(
            f'{option}="cloudpickle" needs equal minor versions of Python: environment {environment.name!r} runs '
            f"{environment.python}, this is {platform.python_version()}. {instead}"
        )


def same_python(python: str) -> bool:
    """Return whether an environment's bytecode and pickles are those of this process.

    Args:
        python: the environment's minor version.
    """
    here = "{}.{}".format(*sys.version_info)
    return python == here and platform.python_implementation() == "CPython"
