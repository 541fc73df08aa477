"""A module that travelled as slices, in a process that the function started: there it is made again.

What ``multiprocessing`` starts afresh (``spawn``, ``forkserver``), and process pools built on it, import the functions
that they are given by name. The archive is on their path, and has a module of each such name that calls ``make``.
"""

from __future__ import annotations

import os
import sys
from zipimport import zipimporter

from k8s_venv.wire import building, protocol, quickjson, values


def make(name: str, file: str) -> None:
    """Put what a call's slices define into ``sys.modules``.

    Args:
        name: the module that is being imported.
        file: where it stands in the archive.
    """
    archive = os.path.normpath(os.path.join(file, *[os.pardir] * len(name.split("."))))
    read = zipimporter(archive).get_data
    del sys.modules[name]
    recipe = quickjson.loads(read(protocol.SOURCE_FUNCTION).decode())
    building.build(recipe, lambda: values.loads(read(protocol.SOURCE_VALUES)))
