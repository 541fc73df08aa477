"""The source revision of an environment, where its project is in git."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def source_revision(path: Path) -> str | None:
    """Return the last commit that changed a file, or None where git knows no commit of it or it has changed since.

    That commit is the same in every clone, and later ones leave it alone: so it takes nothing from an image's digest
    being the same twice.

    Args:
        path: the file.
    """
    if _git(path, "status", "--porcelain", "--", path.name) != "":
        return None
    return _git(path, "log", "-1", "--format=%H", "--", path.name) or None


def _git(path: Path, *arguments: str) -> str | None:
    try:
        command = ["git", *arguments]
        ran = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None
