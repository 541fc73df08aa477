"""The packages that an interpreter has by itself, for environments that see them."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from k8s_venv.errors import LockError
from k8s_venv.locks import uv
from k8s_venv.locks.installed import Installed, installed

if TYPE_CHECKING:
    from k8s_venv.config.environment import Environment

# The first of a name is the one that is imported.
_LIST = """
import json
from importlib import metadata
print(json.dumps([
    [one.metadata["Name"], one.version, one.requires or [], one.metadata.get_all("Provides-Extra") or []]
    for one in metadata.distributions()
]))
"""


def system_packages(environment: Environment) -> dict[str, Installed]:
    """Return what the interpreter of an environment's Python version has installed, by name.

    Raises:
        LockError: there is no such interpreter here, or it cannot be asked.
    """
    interpreter = uv.find_interpreter(environment.python)
    if interpreter is None:
        raise LockError(
            environment.name,
            f"with `system-site-packages` it sees the packages of Python {environment.python}, which is not installed "
            "here. Install it, or leave `system-site-packages` out.",
        )
    # Isolated: neither this folder's nor this user's packages are the environment's.
    asked = subprocess.run([interpreter, "-I", "-c", _LIST], capture_output=True, text=True, check=False)
    if asked.returncode:
        said = asked.stderr.strip()
        raise LockError(environment.name, f"the packages of {interpreter} cannot be listed.\n{said}")
    found: dict[str, Installed] = {}
    for each in json.loads(asked.stdout):
        if package := installed(*each):
            found.setdefault(package.name, package)
    return found
