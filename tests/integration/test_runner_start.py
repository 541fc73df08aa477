"""What the runner does before the user's first line, since every call waits for it."""

from __future__ import annotations

import importlib.util
import io
import marshal
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.process import runner_command
from k8s_venv.calls import PackedCall, Result, open_result, pack, parse_document
from k8s_venv.config.environment import Environment
from k8s_venv.locks.uv import find_interpreter

HERE = "{}.{}".format(*sys.version_info)
# Each costs milliseconds, and no call needs it before its function does.
HEAVY = {
    *("argparse", "ast", "asyncio", "base64", "collections", "contextlib", "enum", "functools", "hashlib"),
    *("importlib", "json", "linecache", "logging", "pathlib", "pickle", "re", "runpy", "shutil", "signal"),
    *("subprocess", "types", "typing", "urllib.parse", "warnings", "zipfile"),
}


def loaded(ds: str = "") -> tuple[list[str], list[str]]:
    """Return the names of all modules loaded so far, and the kinds of loaders of the runner's own."""
    import sys

    own = [type(module.__loader__).__name__ for name, module in sys.modules.items() if name.startswith("k8s_venv.")]
    return list(sys.modules), own


def test_a_call_loads_the_runner_from_one_piece(tmp_path: Path) -> None:
    _, own = call(tmp_path)

    assert set(own) == {"Bundle"}


@pytest.mark.parametrize("python", ["3.8", HERE])
def test_the_piece_is_bytecode_where_the_environment_can_read_it(tmp_path: Path, python: str) -> None:
    packed = pack(loaded, (), {}, environment=Environment(name="x", root=tmp_path, python=python), transport="source")
    with zipfile.ZipFile(io.BytesIO(packed.archive)) as archive:
        magic, modules = marshal.loads(archive.read("runner.bin"))

    assert magic == (importlib.util.MAGIC_NUMBER if python == HERE else b"")
    contents = [zlib.decompress(content) for _, content in modules.values()]
    assert {content.startswith(b'"""') for content in contents if content} == {python != HERE}


def test_a_python_of_another_magic_number_reads_the_sources(tmp_path: Path) -> None:
    packed = pack(loaded, (), {}, environment=Environment(name="x", root=tmp_path, python=HERE), transport="source")
    source, target = zipfile.ZipFile(io.BytesIO(packed.archive)), tmp_path / "call.pyz"
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            piece = marshal.dumps((b"other", {})) if name == "runner.bin" else source.read(name)
            archive.writestr(name, piece)

    subprocess.run([sys.executable, str(target), "--result", str(tmp_path / "result")], check=True)

    _, own = opened(packed, tmp_path / "result")
    assert set(own) == {"zipimporter"}


@pytest.mark.parametrize("python", ["3.8", HERE])
@pytest.mark.parametrize("context", [None, {"values": {"ds": "2026-01-01"}, "objects": {}, "parameters": ["ds"]}])
def test_a_call_starts_without_the_heavy_modules(tmp_path: Path, python: str, context: dict[str, Any] | None) -> None:
    modules, _ = call(tmp_path, python, context)

    assert HEAVY & set(modules) == set()


def call(folder: Path, python: str = HERE, context: dict[str, Any] | None = None) -> Any:
    interpreter = find_interpreter(python)
    if interpreter is None:
        pytest.skip(f"Python {python} is not installed")
    environment = Environment(name="here", root=folder, python=python)
    packed = pack(loaded, (), {}, environment=environment, transport="source", context=context)
    archive, result = folder / "call.pyz", folder / "result"
    archive.write_bytes(packed.archive)
    command = runner_command(str(interpreter), str(archive), "--result", str(result))
    # Without `site`, whose .pth files import what they like.
    subprocess.run([command[0], "-S", *command[1:]], check=True)
    return opened(packed, result)


def opened(packed: PackedCall, result: Path) -> Any:
    document = parse_document((result / "result.json").read_text(), "here")
    return open_result(Result(document, (result / "result.bin").read_bytes()), packed)
