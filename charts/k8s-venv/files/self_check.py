"""Check from inside that an image is the environment that its lock describes (Python 3.8+, standard library)."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Dict, Iterator

_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
# Where a call leaves its result: a small one in the pod's status, any other in the scratch volume.
_RESULTS = (Path("/dev/termination-log"), Path("/tmp/.k8s-venv-self-check"))  # noqa: S108 -- the pod's own volume


def main() -> int:
    """Check the image and the pod.

    Returns:
        The process's exit code: 0 when calls can run here.
    """
    expected = json.loads(os.environ["K8S_VENV_EXPECTED"])
    problems = [*python_problems(expected["python"]), *package_problems(expected["packages"]), *_pod_problems()]
    for problem in problems:
        print(problem)
    if not problems:
        print(f"Python {sys.version.split()[0]}, {len(expected['packages'])} packages as locked, a result written.")
    return 1 if problems else 0


def python_problems(expected: str) -> Iterator[str]:
    """Yield what is wrong with the Python.

    Args:
        expected: its minor version.
    """
    found = "{}.{}".format(*sys.version_info)
    if found != expected:
        yield f"The image's `python` is {found} ({sys.executable}); the environment is declared with {expected}."


def package_problems(expected: Dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the packages.

    Args:
        expected: the locked versions by the packages' normalized names.
    """
    found = {_normal(dist.metadata["Name"]): dist.version for dist in distributions() if dist.metadata["Name"]}
    for name, version in expected.items():
        installed = found.get(_normal(name))
        if installed is None:
            yield f"The package {name} is locked at {version}, but is not in the image."
        elif _release(installed) != _release(version):
            yield f"The package {name} is locked at {version}, but the image has {installed}."


def _pod_problems() -> Iterator[str]:
    if _TOKEN.exists():
        yield "The pod has a service account's token mounted, which tasks must not have."
    if os.getuid() == 0:
        yield "The container runs as root."
    for path in _RESULTS:
        try:
            path.write_text('{"outcome": "value"}', "utf-8")
        except OSError as error:
            yield f"A result cannot be written to {path}: {error.strerror}."


def _normal(name: str) -> str:
    """Return a package's normalized name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> str:
    """Return a version without the leading zeros that old packages write (PEP 440 drops them)."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", version.lower())


if __name__ == "__main__":
    sys.exit(main())
