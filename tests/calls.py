"""Run a packed call in an interpreter, without a backend around it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from k8s_venv.calls import PackedCall, Result, parse_document
from tests.interpreters import interpreter


def run_packed(call: PackedCall, folder: Path) -> Result:
    """Return the result of a call that was run in the interpreter of its environment's version.

    Args:
        call: the call.
        folder: receives the archive and the result.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archive, out = folder / "call.pyz", folder / "result"
    archive.write_bytes(call.archive)
    command = [interpreter(call.environment.python), str(archive), "--result", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (out / "result.json").exists(), ran.stderr
    document = parse_document((out / "result.json").read_text(), call.environment.name)
    return Result(document, (out / "result.bin").read_bytes())
