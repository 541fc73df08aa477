"""Tell which of some packages an environment does not see; runs in the image's build, in the environment itself.

Usage: ``python _lacking.py FOLDERS_OF_PIP NAME==VERSION...``
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

found: dict[str, str] = {}
for one in metadata.distributions():
    found.setdefault(re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower(), one.version)

sys.path.extend(str(folder) for folder in Path("/").glob(sys.argv[1]))
from pip._vendor.packaging.version import InvalidVersion, Version  # noqa: E402


def normalized(version: str) -> str:
    """Return a version as locks write it."""
    try:
        return str(Version(version))
    except InvalidVersion:
        return version


lacking = []
for each in sys.argv[2:]:
    name, _, version = each.partition("==")
    own = normalized(found[name]) if name in found else "none"
    if own != version:
        lacking.append(f"{each} (it has {own})")
if lacking:
    sys.exit("The base image lacks " + ", ".join(lacking) + ".")
