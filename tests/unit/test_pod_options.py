"""Pod options on the backends that have no pods: each is honoured, or its reason is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.pod_options import HONOURED, NEEDED, WITHOUT_EFFECT, options_without_pod, plain_variables
from k8s_venv.config.environment import Environment
from k8s_venv.config.project import Project
from k8s_venv.errors import BackendError, K8sVenvError

ALL = sorted(HONOURED["local"] | HONOURED["docker"] | NEEDED.keys() | WITHOUT_EFFECT.keys())
PROJECT = Project(path=Path("k8s-venv.toml"))


def environment(**pod: Any) -> Environment:
    return Environment(name="etl", root=Path(), python="3.12", pod=pod)


@pytest.mark.parametrize("backend", HONOURED)
@pytest.mark.parametrize("option", ALL)
def test_each_option_is_honoured_or_without_effect_or_refused_with_the_reason(backend: str, option: str) -> None:
    if option in NEEDED:
        with pytest.raises(BackendError) as caught:
            options_without_pod(backend, environment(), {option: "x"}, PROJECT)
        reason, instead = NEEDED[option]
        sentence = f"the option `{option}` needs a pod; on the {backend} backend, {reason}. {instead}"
        assert str(caught.value) == f"Environment 'etl': {sentence}"
        return

    honoured, note = options_without_pod(backend, environment(), {option: "x"}, PROJECT)

    if option in HONOURED[backend]:
        assert (honoured, note) == ({option: "x"}, "")
    else:
        assert honoured == {}
        assert note == f"Without effect on the {backend} backend: {option} ({WITHOUT_EFFECT[option]})."


def test_what_the_project_says_for_all_pods_may_be_meant_for_kubernetes() -> None:
    volumes = [{"name": "shared", "emptyDir": {}}]
    project = Project(path=Path("k8s-venv.toml"), pod={"volumes": volumes})

    honoured, note = options_without_pod("local", environment(volumes=volumes), {}, project)

    assert honoured == {}
    assert note == "Without effect on the local backend: volumes (no volumes are mounted)."
    with pytest.raises(BackendError, match="the option `volumes` needs a pod"):
        options_without_pod("local", environment(volumes=[{"name": "own"}]), {}, project)


def test_options_that_say_nothing_are_no_word_worth() -> None:
    assert options_without_pod("local", environment(volumes=[]), {"affinity": None, "labels": {}}, None) == ({}, "")


def test_what_has_one_reason_is_named_together() -> None:
    options = {"namespace": "a", "service_account_name": "b", "tolerations": [{}]}

    _, note = options_without_pod("local", environment(), options, None)

    assert note == (
        "Without effect on the local backend: namespace, service_account_name (no cluster is asked); "
        "tolerations (nothing is scheduled or waited for)."
    )


class Variable:
    """As the Kubernetes client's ``V1EnvVar``."""

    def __init__(self, name: str, value: str | None = None, value_from: object = None) -> None:
        self.name, self.value, self.value_from = name, value, value_from


FORMS: list[tuple[Any, dict[str, str]]] = [
    ({"A": "b", "C": ""}, {"A": "b", "C": ""}),
    ({"N": 1, "Z": None}, {"N": "1", "Z": ""}),
    ([Variable("A", "b"), Variable("Z")], {"A": "b", "Z": ""}),
    ([{"name": "A", "value": "b"}], {"A": "b"}),
    ((Variable("A", "b"), {"name": "A", "value": "last"}), {"A": "last"}),
    (None, {}),
    ({}, {}),
]


@pytest.mark.parametrize(("given", "expected"), FORMS)
def test_variables_are_read_in_each_form(given: Any, expected: dict[str, str]) -> None:
    assert plain_variables(environment(), given, "local") == expected


@pytest.mark.parametrize("given", [{"A=B": "x"}, {"": "x"}, {"A": "Pl4nted\0"}, [{"name": "A\0", "value": "x"}]])
def test_what_cannot_be_a_variable_is_refused_without_its_value(given: Any) -> None:
    with pytest.raises(BackendError, match="which cannot be a variable of a process") as caught:
        plain_variables(environment(), given, "local")

    assert "Pl4nted" not in str(caught.value)


@pytest.mark.parametrize("variable", [Variable("A", value_from=object()), {"name": "A", "valueFrom": {}}])
def test_a_value_from_kubernetes_is_refused_elsewhere(variable: Any) -> None:
    with pytest.raises(
        BackendError, match="'A' in `env_vars` takes its value from Kubernetes, which the local backend"
    ):
        plain_variables(environment(), [variable], "local")


WRITTEN: list[tuple[str, Any, Any]] = [
    ("affinity", {"nodeAffinity": {}}, {"nodeAffinity": {}}),
    ("container_resources", {"limits": {"cpu": "1"}}, {"limits": {"cpu": "1"}}),
    ("dns_config", {"nameservers": ["10.0.0.1"]}, {"nameservers": ["10.0.0.1"]}),
    ("env_from", [{"secretRef": {"name": "a"}}], [{"secretRef": {"name": "a"}}]),
    ("env_vars", [{"name": "A", "value": "b"}], [{"name": "A", "value": "b"}]),
    ("host_aliases", [{"ip": "1.2.3.4", "hostnames": ["a"]}], [{"ip": "1.2.3.4", "hostnames": ["a"]}]),
    ("image_pull_secrets", ["a", "b"], [{"name": "a"}, {"name": "b"}]),
    ("image_pull_secrets", "a, b", [{"name": "a"}, {"name": "b"}]),
    ("image_pull_secrets", [{"name": "a"}], [{"name": "a"}]),
    ("init_containers", [{"name": "a", "image": "x"}], [{"name": "a", "image": "x"}]),
    ("ports", [{"containerPort": 80}], [{"containerPort": 80}]),
    ("tolerations", [{"key": "spot", "operator": "Exists"}], [{"key": "spot", "operator": "Exists"}]),
    ("volumes", [{"name": "a", "hostPath": {"path": "/a"}}], [{"name": "a", "hostPath": {"path": "/a"}}]),
    ("volume_mounts", [{"name": "a", "mountPath": "/a"}], [{"name": "a", "mountPath": "/a"}]),
]


@pytest.mark.parametrize(("option", "written", "expected"), WRITTEN)
def test_what_is_written_as_in_a_manifest_has_the_clients_types(option: str, written: Any, expected: Any) -> None:
    client = pytest.importorskip("kubernetes.client", reason="the kubernetes client is not installed")
    from k8s_venv.backends.kubernetes.options import typed

    made = typed({option: written})[option]

    assert client.ApiClient().sanitize_for_serialization(made) == expected
    assert not any(isinstance(each, dict) for each in (made if isinstance(made, list) else [made]))
    assert typed({option: made})[option] == made


LOST = [
    ("volumes", [{"name": "a", "host_path": {"path": "/a"}}], "V1Volume has no key 'host_path'"),
    ("volumes", [{"name": "a", "hostPath": {"pth": "/a"}}], "has no key 'hostPath.pth'|cannot be read"),
    ("tolerations", [{"keey": "spot"}], "V1Toleration has no key 'keey'"),
    ("container_resources", {"limit": {"cpu": "1"}}, "V1ResourceRequirements has no key 'limit'"),
    ("affinity", {"node_affinity": {}}, "V1Affinity has no key 'node_affinity'"),
    ("volume_mounts", [{"name": "a"}], "cannot be read as Kubernetes' V1VolumeMount"),
]


@pytest.mark.parametrize(("option", "written", "sentence"), LOST)
def test_a_key_that_kubernetes_does_not_know_is_named(option: str, written: Any, sentence: str) -> None:
    pytest.importorskip("kubernetes.client", reason="the kubernetes client is not installed")
    from k8s_venv.backends.kubernetes.options import typed

    with pytest.raises(K8sVenvError, match=sentence):
        typed({option: written})
