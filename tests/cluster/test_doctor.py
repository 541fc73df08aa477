"""`k8s-venv doctor` with a real registry and cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.test_rights import account_without

__all__ = ["account_without"]
PROGRAM = [sys.executable, "-c", "from k8s_venv.cli import main; main(prog_name='k8s-venv')"]


def doctor(folder: Path, *options: str, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the exit code, and what was found of each subject."""
    ran = subprocess.run(
        [*PROGRAM, "doctor", "--backend", "kubernetes", "--json", *options],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, {each["subject"]: each for each in json.loads(ran.stdout or ran.stderr)}


def test_each_part_is_examined_and_a_pod_of_each_image_runs(folder: Path, namespace: str) -> None:
    code, found = doctor(folder, "--pod")

    # The image that one environment names does not exist, which only a pod of it shows.
    assert [subject for subject, each in found.items() if each["state"] == "failed"] == ["pod never-built"]
    assert code == 1
    assert "cannot be pulled" in found["pod never-built"]["text"]
    assert "may do all 10 things" in found["rights"]["text"]
    assert found[f"namespace {namespace}"]["text"].endswith("Pod Security restricted")
    assert found["pod legacy"]["text"].startswith("its image was pulled and ran a call in Python 3.")


def test_an_image_that_was_not_built_and_a_namespace_that_does_not_exist(folder: Path, namespace: str) -> None:
    config = folder / "k8s-venv.toml"
    config.write_text(config.read_text().replace(namespace, "no-such-namespace"), "utf-8")
    registry = os.environ["K8S_VENV_REGISTRY"] + "/never-built"

    code, found = doctor(folder, K8S_VENV_REGISTRY=registry)

    assert code == 1
    assert found["namespace no-such-namespace"]["state"] == "failed"
    assert found["image legacy"]["remedy"] == "k8s-venv build-images legacy"
    assert found["registry push"]["state"] == "ok"


def test_a_right_that_the_account_lacks(
    folder: Path, account_without: Callable[[str, str], Any], namespace: str
) -> None:
    config = account_without("create", "secrets")

    code, found = doctor(folder, KUBECONFIG=str(config))

    assert code == 1
    assert found["right create secrets"]["state"] == "failed"
    assert found["right create secrets"]["text"] == f"this account lacks it in {namespace}: no task gets its code"
    assert "right create pods" not in found


def test_a_right_that_only_waiting_pods_need_is_a_warning(
    folder: Path, account_without: Callable[[str, str], Any], namespace: str
) -> None:
    with (folder / "k8s-venv.toml").open("a") as config:
        config.write("\n[environments.current.warm]\nmin = 1\n")

    _, found = doctor(folder, KUBECONFIG=str(account_without("list", "events")))

    assert found["right list events"]["state"] == "failed"
    assert found["right create leases.coordination.k8s.io"]["state"] == "warning"
    assert found["right create leases.coordination.k8s.io"]["text"] == (
        f"this account lacks it in {namespace}: calls of environments with `warm` get pods of their own"
    )
