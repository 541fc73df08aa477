"""Compile modules with the Python that runs this: Python 3.8+, the standard library alone.

Standard input has a line of JSON for each module: its source, its path in the image, and where to write the bytecode.
Bytecode that is never checked against its source (PEP 552) stays valid if the files' times change. A file that cannot
be compiled, such as a template, is left out, as pip does.

A module's bytecode must follow from its source alone. But `marshal` marks each object that something else refers to,
even another module that was compiled before in the same process. So strings of one character, which all modules share,
are interned from the start. Before Python 3.11, which marks every interned string, each object of a module is kept in a
list, so that all of them are marked.
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
_ONE_CHARACTER = [sys.intern(chr(number)) for number in range(256)]


def compiled(source: bytes, name: str) -> bytes:
    """Return the content of a bytecode file."""
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    referred: list[object] = []
    if sys.version_info < (3, 11):
        _refer(code, referred)
    header = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source)
    return header + marshal.dumps(code)


def _refer(value: object, referred: "list[object]") -> None:
    referred.append(value)
    if isinstance(value, types.CodeType):
        for name in dir(value):
            if name.startswith("co_") and not callable(getattr(value, name)):
                _refer(getattr(value, name), referred)
    elif isinstance(value, (tuple, frozenset)):
        for part in value:
            _refer(part, referred)


def main() -> None:
    """Compile the modules that standard input names."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        path, name, target = json.loads(line)
        source = pathlib.Path(path).read_bytes()
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            pathlib.Path(target).write_bytes(compiled(source, name))


if __name__ == "__main__":
    main()
