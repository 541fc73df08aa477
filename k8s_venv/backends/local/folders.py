"""The folder of one call: ours alone, and gone when the call is over, however it ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "k8s-venv-call-"
# Seconds that a sender surely takes at most between making its folder and holding it.
_NEW = 60.0


@contextlib.contextmanager
def call_folder() -> Iterator[Path]:
    """Give a new folder that no other user may read (mode 0700), and remove those of senders that were killed."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):  # a file system without locks: nothing removes the folder there
                held.enter_context(_held(folder))
            _remove_abandoned(folder.parent)
            yield folder


def _remove_abandoned(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.lstat().st_mtime > _NEW:
                with _held(folder):
                    shutil.rmtree(folder)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which the system drops when its holder dies.

    Raises:
        OSError: somebody else holds it, or it is not a folder of ours.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
