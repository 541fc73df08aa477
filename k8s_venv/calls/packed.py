"""A call: as it was packed, and what its sender must know of it until its result is open."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any

from k8s_venv.wire.shipped_types import resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from k8s_venv.calls.locations import Kept
    from k8s_venv.calls.spool import Spool
    from k8s_venv.calls.transport import Serializer, Transport
    from k8s_venv.config.environment import Environment
    from k8s_venv.wire.registry import Types


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentCall:
    """What is needed to wait for a call and to open its result, also after another process packed it.

    Args:
        environment: where it runs.
        function: the function's name, for messages.
        modules: the names of the modules that the call itself shipped, whose exceptions may be raised here.
        namespaces: the names of the function's own module as the function sees them, by the module's name: its file
            may have been loaded again since.
        secrets: what is delivered beside the archive and never in it, as ``secrets.json``; empty without any.
        serializer: ``cloudpickle`` where this side shall unpickle what no codec carries of the result.
        arguments_apart: whether the arguments are too large for the archive, so that a location may hold them.
    """

    environment: Environment
    function: str
    modules: frozenset[str] = frozenset()
    namespaces: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict, repr=False)
    secrets: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    serializer: Serializer | None = None
    arguments_apart: bool = False

    @property
    def secrets_document(self) -> bytes:
        """Return the secrets as the runner reads them."""
        return json.dumps(dict(self.secrets)).encode()

    @functools.cached_property
    def types(self) -> Types:
        """Return what finds the types that travelled with the call, among what is loaded here."""
        return resolver(self.modules, self.namespaces)

    @functools.cached_property
    def mask(self) -> Callable[[str], str]:
        """Return what hides the call's secrets in a text."""
        from k8s_venv.wire.masking import masker  # not for the parsing of DAG files

        return masker(self.secrets.get("masked", ()))

    def facts(self) -> dict[str, Any]:
        """Return, as plain data, what only the packing of this call found out; ``sent_call`` takes it."""
        return {"modules": sorted(self.modules), "arguments_apart": self.arguments_apart}

    def close(self) -> None:
        """Remove what the call keeps on this machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedCall(SentCall):
    """A call that is ready to run.

    Args:
        transport: how the function travels.
        archive: the zip archive, to be run as ``python call.pyz``.
        arguments: the encoded arguments, where they are too large for the archive.
        references: the size and the place of arguments that are kept somewhere, by their digests.
        own_size: the bytes of the archive that are not the runner's, which every call carries.
        notes: a sentence for each part of the arguments that will arrive as something plainer.
    """

    transport: Transport
    archive: bytes = dataclasses.field(repr=False)
    arguments: Spool | None = dataclasses.field(default=None, repr=False)
    references: Mapping[str, tuple[int, Kept]] = dataclasses.field(default_factory=dict, repr=False)
    own_size: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments_apart", self.arguments is not None)

    def close(self) -> None:
        """Remove what the call keeps on this machine: Airflow's task processes end without cleaning up."""
        if self.arguments is not None:
            self.arguments.close()
