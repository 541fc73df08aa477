"""Load DAG files, and run packed calls in an interpreter without a backend around it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

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


DAG_NAME = f"unusual_prefix_{'0' * 40}_shop"


def load_dag_file(path: Path) -> ModuleType:
    """Load a DAG file as Airflow does: under a name of its own, over what was loaded before.

    Args:
        path: the file.
    """
    spec = importlib.util.spec_from_file_location(DAG_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[DAG_NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
