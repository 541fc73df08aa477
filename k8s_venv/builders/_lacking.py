"""Fail with the names of packages that an environment does not see; runs in the image's build, in the environment.

Usage: ``python _lacking.py FOLDERS_OF_PIP NAME==VERSION...``
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

seen = [(one.metadata["Name"], one.version) for one in metadata.distributions()]

# pip contains `packaging`, which in older versions imports itself from `pip._vendor`.
sys.path.extend(str(each) for folder in Path("/").glob(sys.argv[1]) for each in (folder, folder / "pip/_vendor"))
from installed import Installed, installed, lacking  # type: ignore[import-not-found]  # noqa: E402

found: dict[str, Installed] = {}
for name, version in seen:
    if package := installed(name, version, (), ()):
        found.setdefault(package.name, package)
if missing := lacking(sys.argv[2:], found):
    sys.exit(f"The base image lacks {missing}.")
