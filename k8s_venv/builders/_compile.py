"""Compile modules with the Python that runs this: Python 3.8+, the standard library alone.

Standard input gives a line of JSON for each module: its source, its path in the image, and where the bytecode goes.
Bytecode that is never checked against its source (PEP 552) stays valid whatever happens to the files' times.
What no Python could compile, such as a template, is passed over as pip does.
"""

import contextlib
import json
import py_compile
import sys
import warnings

warnings.simplefilter("ignore")
for line in sys.stdin:
    source, name, target = json.loads(line)
    with contextlib.suppress(py_compile.PyCompileError, ValueError, RecursionError, MemoryError):
        py_compile.compile(
            source,
            cfile=target,
            dfile=name,
            doraise=True,
            optimize=0,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
