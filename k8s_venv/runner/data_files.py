"""The data files that came with a call, and where modules find them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List

# Names the folder that stands for that of the project file, also for the processes that a call starts.
FOLDER = "K8S_VENV_FILES"


def placed(file: str, root: str) -> str:
    """Return where a file of the project would stand here: among the data files, by the same relative path.

    Args:
        file: the file's path where the call was packed.
        root: the folder of the project file there; empty if the call does not name it.
    """
    folder = os.environ.get(FOLDER)  # a process that the function starts may have been given other variables
    return folder + file[len(root) :] if folder and root and file.startswith(root + "/") else file


def write(files: List[List[Any]]) -> None:
    """Write the data files of a call.

    Args:
        files: of each its path, whether it can be run, and its content.
    """
    for name, executable, data in files:
        path = os.path.join(os.environ[FOLDER], name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(data)
        os.chmod(path, 0o755 if executable else 0o644)
