"""How a function travels to a Python version."""

from __future__ import annotations

import platform
import sys
from typing import Literal

Transport = Literal["cloudpickle", "source"]


def choose_transport(python: str) -> tuple[Transport, str]:
    """Return how a function travels to a Python version, and why: never by bytecode of another one.

    Args:
        python: the environment's minor version.
    """
    if same_python(python):
        return "cloudpickle", f"both sides run Python {python}"
    return "source", f"the environment runs Python {python}, this is {platform.python_version()}"


def same_python(python: str) -> bool:
    """Tell whether an environment's bytecode and pickles are those of this process.

    Args:
        python: the environment's minor version.
    """
    here = "{}.{}".format(*sys.version_info)
    return python == here and platform.python_implementation() == "CPython"
