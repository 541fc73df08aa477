"""The pods that every supported version of Airflow's Kubernetes provider makes of a call."""

from __future__ import annotations

import asyncio
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s_venv.calls import pack
from k8s_venv.config.environment import Environment
from k8s_venv.errors import K8sVenvError
from tests.airflow_home import airflow_home

# No cluster is there: nothing may ask for one.
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "nowhere",
    "clusters": [{"name": "nowhere", "cluster": {"server": "http://127.0.0.1:9"}}],
    "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere", "user": "me", "namespace": "tasks"}}],
    "users": [{"name": "me", "user": {}}],
}

Operator = Callable[..., Any]


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """Return a function that makes the operator of a call's pod."""
    airflow_home()
    from k8s_venv.airflow.pod_operator import IsolatedPodOperator

    config = tmp_path / "kubeconfig"
    config.write_text(yaml.safe_dump(KUBECONFIG))

    def make(**options: Any) -> Any:
        environment = Environment(name="plain", root=tmp_path, python="{}.{}".format(*sys.version_info))
        call = pack(lambda: None, (), {}, environment=environment)
        settings = {"image": "example.com/plain:1", "config_file": str(config), "namespace": "tasks", **options}
        return IsolatedPodOperator(call=call, name="work", task_id="work", **settings)

    return make


def test_a_pod_is_restricted_and_hands_its_result_over(operator: Operator) -> None:
    pod = operator().build_pod_request_obj(None)

    base, sidecar = pod.spec.containers
    assert [base.name, sidecar.name] == ["base", "result"]
    assert base.image == sidecar.image == "example.com/plain:1"
    assert pod.spec.automount_service_account_token is False
    assert base.security_context.read_only_root_filesystem is True
    assert pod.metadata.labels["app.kubernetes.io/managed-by"] == "k8s-venv"


def test_the_runtime_class_is_the_option_s_or_the_template_s(operator: Operator) -> None:
    template = {"spec": {"runtimeClassName": "kata", "containers": [{"name": "base"}]}}

    chosen = operator(runtime_class_name="gvisor", pod_template_dict=template)
    left = operator(pod_template_dict=template)

    assert chosen.build_pod_request_obj(None).spec.runtime_class_name == "gvisor"
    assert left.build_pod_request_obj(None).spec.runtime_class_name == "kata"


def test_a_killed_task_s_pod_is_kept_where_the_task_says_so(operator: Operator) -> None:
    task = operator(on_kill_action="keep_pod")
    task.pod = task.build_pod_request_obj(None)

    task.on_kill()  # a request would fail, since there is no cluster

    assert task._killed


def test_an_unknown_action_on_kill_is_refused(operator: Operator) -> None:
    with pytest.raises(K8sVenvError, match="on_kill_action is 'delete_pod' or 'keep_pod', not 'leave_pod'"):
        operator(on_kill_action="leave_pod")


@pytest.mark.parametrize(("action", "deleted"), [("delete_pod", True), ("keep_pod", False)])
@pytest.mark.parametrize("state", ["deferred", "failed"])
def test_a_trigger_removes_the_pod_of_a_task_that_was_ended(
    action: str, deleted: bool, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_home()
    from airflow.triggers.base import BaseTrigger

    from k8s_venv.airflow import pod_wait

    calls: list[str] = []

    async def delete(self: object) -> None:
        calls.append("deleted")

    async def task_state(ti: object) -> str:
        return state

    monkeypatch.setattr(pod_wait.PodWait, "_delete", delete)
    monkeypatch.setattr(pod_wait, "task_state", task_state)
    waiting = pod_wait.PodWait(
        uid="ours",
        seen={},
        on_kill_action=action,
        pod_name="task",
        pod_namespace="work",
        trigger_start_time=datetime.datetime.now(datetime.UTC),
        base_container_name="base",
    )

    async def end() -> None:
        if hasattr(BaseTrigger, "on_kill") and state != "deferred":
            await waiting.on_kill()  # newer versions of Airflow tell a trigger that its task was ended
        await waiting.cleanup()

    asyncio.run(end())

    assert calls == (["deleted"] if deleted and state == "failed" else [])


def test_a_trigger_hides_the_secrets_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_home()
    from k8s_venv.airflow import pod_wait
    from k8s_venv.airflow.context import SecretNames

    found: list[object] = []

    def resolve(names: object, task: str) -> dict[str, list[str]]:
        found.append(names)
        return {"masked": ["Pl4nted-secret"]}

    monkeypatch.setattr(pod_wait, "resolve_secrets", resolve)  # the database of this test has none
    waiting = pod_wait.PodWait(
        uid="ours",
        seen={},
        secrets={"connections": ["db"], "variables": ["token"]},
        pod_name="task",
        pod_namespace="work",
        trigger_start_time=datetime.datetime.now(datetime.UTC),
        base_container_name="base",
    )

    mask = asyncio.run(waiting._mask())

    assert mask("it is Pl4nted-secret") == "it is ***"
    assert found == [SecretNames(connections=("db",), variables=("token",))]


def test_a_call_that_starts_again_is_deferred_again_also_where_exit_code_0_skips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_home()
    from k8s_venv.airflow.operators import IsolatedOperator

    class AgainError(Exception): ...

    class RemovedPod:
        """The pod of an earlier try, whose result is of another call."""

        def resume(self, event: dict[str, Any]) -> None: ...

    (tmp_path / "k8s-venv.toml").write_text('[environments.plain]\npython = "{}.{}"\n'.format(*sys.version_info))
    monkeypatch.setenv("K8S_VENV_PROJECT", str(tmp_path))
    task = IsolatedOperator(task_id="work", environment="plain", python_callable=lambda: 1, skip_on_exit_code=[0, 10])
    monkeypatch.setattr(task, "_pod_operator", lambda *_: RemovedPod())
    monkeypatch.setattr(task, "_defer", lambda *_: (_ for _ in ()).throw(AgainError))

    with pytest.raises(AgainError):
        task.trigger_reentry({}, {})
