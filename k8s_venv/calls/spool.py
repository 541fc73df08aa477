"""Encoded values in files of the sender's own, so that they take no memory while a call runs."""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s_venv.wire.registry import Buffer


class Spool:
    """A file with an encoded value; it lives until it is closed, or as long as this object.

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
