"""The variables that a call's process sees on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from k8s_venv.backends.process import VARIABLES

if TYPE_CHECKING:
    from pathlib import Path

# A pod would not see the worker's variables either, so that what works here works there.
_PASSED = {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "NO_PROXY", "HTTP_PROXY"}
_PASSED |= {
    "HTTPS_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
}


def variables(python: Path) -> dict[str, str]:
    """Return the variables of a process in an environment.

    Args:
        python: the environment's interpreter.
    """
    passed = {name: value for name, value in os.environ.items() if name.upper() in _PASSED or name.startswith("LC_")}
    # As in an image: `python` and the scripts of packages are the environment's.
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    return {**passed, "PATH": path, **VARIABLES}
