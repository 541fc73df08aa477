"""The README's commands for Kubernetes, as they stand there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.readme import ROOT, commands


def test_on_kubernetes(registry: str, namespace: str, tmp_path: Path) -> None:
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("pylock.*", "__pycache__"))
    connection = json.dumps({"conn_type": "kubernetes", "extra": {"namespace": namespace}})
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environ |= {"K8S_VENV_REGISTRY": f"{registry}/readme", "AIRFLOW_CONN_KUBERNETES_DEFAULT": connection}

    chosen = [*commands(ROOT / "README.md", "On Kubernetes"), *commands(ROOT / "README.md", "Before you deploy")]
    for command in chosen:
        run = subprocess.run(
            ["bash", "-euc", command], cwd=folder, env=environ, capture_output=True, text=True, check=False
        )

        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
