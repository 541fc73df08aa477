"""Bytecode for an image's modules, made by a Python of the image's minor version."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.builders.install import File, bytecode_name
from k8s_venv.errors import K8sVenvError
from k8s_venv.locks import uv

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORKER = Path(__file__).with_name("_compile.py")


def compile_files(files: Iterable[File], python: str, interpreter: str, folder: Path) -> dict[str, File]:
    """Compile the modules among some files.

    Args:
        files: any files of an image.
        python: the minor version.
        interpreter: a Python of that version.
        folder: where the bytecode is kept.

    Returns:
        The files with the bytecode, by the name of their module in the image.
    """
    modules = [(file, cached) for file in files if (cached := bytecode_name(file.name, python))]
    folder.mkdir(parents=True, exist_ok=True)
    lines, made = [], {}
    for number, (file, cached) in enumerate(modules):
        target = folder / f"{number}.pyc"
        lines.append(json.dumps([str(file.source), f"/{file.name}", str(target)]))
        made[file.name] = File(cached, target)
    workers = max(1, min(os.cpu_count() or 1, len(lines) // 50))
    _run([interpreter, "-S", "-s", "-B", str(_WORKER)], [lines[worker::workers] for worker in range(workers)])
    return {name: file for name, file in made.items() if isinstance(file.source, Path) and file.source.exists()}


def _run(command: list[str], shares: list[list[str]]) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # Sets of constants are written in the order of their hashes: the same source gives the same bytes only with this.
    environ["PYTHONHASHSEED"] = "0"
    running = []
    for share in shares:
        with tempfile.TemporaryFile() as given:
            given.write("\n".join(share).encode())
            given.seek(0)
            running.append(subprocess.Popen(command, stdin=given, stderr=subprocess.PIPE, env=environ))
    try:
        for process in running:
            _, errors = process.communicate()
            if process.returncode:
                said = errors.decode("utf-8", "replace").strip()
                if fault := uv.disk_fault(said):
                    raise OSError(fault, os.strerror(fault))
                raise K8sVenvError(f"{command[0]} could not compile: {said}")
    except BaseException:
        for process in running:
            process.kill()
            process.wait()
        raise
