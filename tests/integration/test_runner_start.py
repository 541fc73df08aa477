"""What the runner does before the user's first line, since every call waits for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from k8s_venv.calls import Result, open_result, pack, parse_document
from k8s_venv.environment import Environment

HERE = "{}.{}".format(*sys.version_info)
# Each costs several milliseconds, and no call needs it before its function does.
HEAVY = {"argparse", "asyncio", "hashlib", "pathlib", "shutil", "subprocess", "urllib.parse", "zipfile"}


def loaded() -> tuple[list[str], list[str]]:
    """Return the names of all modules loaded so far, and the files of the runner's own."""
    import sys

    own = [str(module.__file__) for name, module in sys.modules.items() if name.startswith("k8s_venv.runner.")]
    return list(sys.modules), own


def test_a_call_of_the_same_minor_version_compiles_nothing_of_ours(tmp_path: Path) -> None:
    _, own = call(tmp_path)

    assert own
    assert [file for file in own if not file.endswith(".pyc")] == []


def test_a_call_starts_without_the_heavy_modules(tmp_path: Path) -> None:
    modules, _ = call(tmp_path)

    assert HEAVY & set(modules) == set()


def call(folder: Path) -> tuple[list[str], list[str]]:
    packed = pack(loaded, (), {}, environment=Environment(name="here", root=folder, python=HERE), transport="source")
    archive, result = folder / "call.pyz", folder / "result"
    archive.write_bytes(packed.archive)
    # Without `site`, whose .pth files import what they like.
    subprocess.run([sys.executable, "-S", str(archive), "--result", str(result)], check=True)
    document = parse_document((result / "result.json").read_text(), "here")
    modules, own = open_result(Result(document, (result / "result.bin").read_bytes()), packed)
    return modules, own
