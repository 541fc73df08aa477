"""Compile modules with the Python that runs this: Python 3.8+, the standard library alone.

Standard input gives a line of JSON for each module: its source, its path in the image, and where the bytecode goes.
Bytecode that is never checked against its source (PEP 552) stays valid when the files' times change.
What no Python could compile, such as a template, is passed over as pip does.

A module's bytecode follows from its source alone. `marshal` marks what anything else refers to at that moment, even
another module that was compiled before in the same process. So strings of one character, which all modules share, are
interned from the start; and before Python 3.11, which marks every interned string, all of a module is referred to.
"""

import contextlib
import importlib.util
import json
import marshal
import pathlib
import sys
import types
import warnings

_UNCHECKED = b"\1\0\0\0"
_SHARED = [sys.intern(chr(number)) for number in range(256)]


def compiled(source: bytes, name: str) -> bytes:
    """Return the content of a bytecode file."""
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    kept: list[object] = []
    if sys.version_info < (3, 11):
        _keep(code, kept)
    header = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source)
    return header + marshal.dumps(code)


def _keep(value: object, kept: "list[object]") -> None:
    kept.append(value)
    if isinstance(value, types.CodeType):
        for name in dir(value):
            if name.startswith("co_") and not callable(getattr(value, name)):
                _keep(getattr(value, name), kept)
    elif isinstance(value, (tuple, frozenset)):
        for part in value:
            _keep(part, kept)


def main() -> None:
    """Compile what standard input asks for."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        path, name, target = json.loads(line)
        source = pathlib.Path(path).read_bytes()
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            pathlib.Path(target).write_bytes(compiled(source, name))


if __name__ == "__main__":
    main()
