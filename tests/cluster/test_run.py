"""`k8s_venv.run` on the cluster, without Airflow."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

import k8s_venv


def describe(prefix: str, *, size: int) -> dict[str, object]:
    print("said in the pod")
    return {"python": sys.version_info[:2], "text": prefix * size}


@pytest.fixture
def context(client: object, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test's namespace that of the kubeconfig's current context."""
    import os

    content = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    for each in content["contexts"]:
        each["context"]["namespace"] = namespace
    config = tmp_path / "kubeconfig"
    config.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("KUBECONFIG", str(config))


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(("environment", "python"), [("legacy", (3, 8)), ("current", (3, 12))])
@pytest.mark.parametrize("size", [1, 100_000])
def test_a_call_from_a_script(
    project: Path,
    registry: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: str,
    python: tuple[int, int],
    size: int,
) -> None:
    monkeypatch.setenv("K8S_VENV_PROJECT", str(project))
    monkeypatch.setenv("K8S_VENV_REGISTRY", registry)

    value = k8s_venv.run(environment, describe, "x", size=size)

    assert value == {"python": python, "text": "x" * size}
    assert "said in the pod" in capsys.readouterr().out
