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

from k8s_venv.calls import PackedCall, Result, open_result, pack, parse_document
from k8s_venv.environment import Environment

HERE = "{}.{}".format(*sys.version_info)
# Each costs milliseconds, and no call needs it before its function does.
HEAVY = {
    *("argparse", "ast", "asyncio", "base64", "collections", "enum", "functools", "hashlib", "json", "linecache"),
    *("logging", "pathlib", "pickle", "re", "shutil", "signal", "subprocess", "typing", "urllib.parse", "zipfile"),
}


def loaded() -> tuple[list[str], list[str]]:
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


def test_a_call_starts_without_the_heavy_modules(tmp_path: Path) -> None:
    modules, _ = call(tmp_path)

    assert HEAVY & set(modules) == set()


def test_a_call_that_airflow_makes_does_so_too(tmp_path: Path) -> None:
    modules, _ = call(tmp_path, {"values": {"ds": "2026-01-01"}, "objects": {}, "parameters": []})

    assert HEAVY & set(modules) == set()


def call(folder: Path, context: dict[str, Any] | None = None) -> Any:
    environment = Environment(name="here", root=folder, python=HERE)
    packed = pack(loaded, (), {}, environment=environment, transport="source", context=context)
    archive, result = folder / "call.pyz", folder / "result"
    archive.write_bytes(packed.archive)
    # Without `site`, whose .pth files import what they like.
    subprocess.run([sys.executable, "-S", str(archive), "--result", str(result)], check=True)
    return opened(packed, result)


def opened(packed: PackedCall, result: Path) -> Any:
    document = parse_document((result / "result.json").read_text(), "here")
    return open_result(Result(document, (result / "result.bin").read_bytes()), packed)
