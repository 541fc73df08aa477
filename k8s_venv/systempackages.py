"""The packages that an interpreter has by itself, for environments that see them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from k8s_venv import uv
from k8s_venv.errors import LockError

if TYPE_CHECKING:
    from k8s_venv.environment import Environment


def system_packages(environment: Environment) -> dict[str, str]:
    """Return the versions of what the interpreter of an environment's Python version has installed, by name.

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
    try:
        listed = json.loads(uv.run(["pip", "list", "--python", interpreter, "--format", "json"]))
    except uv.UvError as error:
        raise LockError(environment.name, f"the packages of {interpreter} cannot be listed.\n{error.output}") from None
    return {package["name"]: package["version"] for package in listed}
