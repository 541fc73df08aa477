"""Print which of some packages an environment does not see; runs in the image's build, in the environment itself.

Usage: ``python _lacking.py FOLDERS_OF_PIP NAME==VERSION...``
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

own = [(one.metadata["Name"], one.version) for one in metadata.distributions()]

# pip brings `packaging` along, whose older versions look for it within pip.
sys.path.extend(str(each) for folder in Path("/").glob(sys.argv[1]) for each in (folder, folder / "pip/_vendor"))
from installed import Installed, installed, lacking  # type: ignore[import-not-found]  # noqa: E402

found: dict[str, Installed] = {}
for name, version in own:
    if package := installed(name, version, (), ()):
        found.setdefault(package.name, package)
if without := lacking(sys.argv[2:], found):
    sys.exit(f"The base image lacks {without}.")
