"""Where pods go whose options name no namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException

from k8s_venv.backends.kubernetes import diagnose
from k8s_venv.backends.kubernetes.options import Namespace, context_namespace
from k8s_venv.config.environment import Environment

CONFIG: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "https://example.com"}}],
    "users": [{"name": "u", "user": {}}],
    "contexts": [
        {"name": "mine", "context": {"cluster": "c", "user": "u", "namespace": "my-tasks"}},
        {"name": "bare", "context": {"cluster": "c", "user": "u"}},
    ],
    "current-context": "mine",
}


@pytest.fixture(params=["file", "content"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> str | dict[str, Any]:
    if request.param == "content":
        return CONFIG
    (tmp_path / "config").write_text(yaml.safe_dump(CONFIG))
    return str(tmp_path / "config")


@pytest.mark.parametrize(
    ("context", "found"),
    [
        (None, Namespace("my-tasks", "from the context 'mine' of the kubeconfig")),
        ("bare", Namespace("default", "the context 'bare' of the kubeconfig names none")),
    ],
)
def test_the_contexts_namespace_is_taken(config: Any, context: str | None, found: Namespace) -> None:
    assert context_namespace(config, context) == found


def test_a_kubeconfig_that_is_not_there_is_the_clients_own_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigException):
        context_namespace(str(tmp_path / "none"), None)


def test_a_refusal_says_where_the_namespace_comes_from(tmp_path: Path) -> None:
    environment = Environment(name="etl", root=tmp_path, python="3.12")

    refusal = diagnose.refused(ApiException(403, "Forbidden"), environment, "pod", "x", "from the pod template")

    assert "Kubernetes refused the pod in namespace 'x' (from the pod template): Forbidden." in str(refusal)
