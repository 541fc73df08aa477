"""The chart's Role: just what isolated tasks ask the API server for, each right needed."""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from rights import Right, expand

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes
import kubernetes_asyncio

from k8s_venv.backends.kubernetes import render
from k8s_venv.backends.kubernetes.pod_runner import PodRunner
from k8s_venv.backends.kubernetes.pod_state import Timeouts
from k8s_venv.calls import open_result, pack
from k8s_venv.config.project import load_project
from k8s_venv.errors import BackendError
from k8s_venv.locks.locking import read_lock
from tests.chart import CHART, NAME, helm, kubeconfig
from tests.cluster import direct
from tests.cluster.conftest import run_dag_file
from tests.cluster.namespaces import client_of, may, own_namespace
from tests.waiting import PATIENCE, eventually

# Only one of these is asked for, which one depends on the API server's version.
EXEC = {Right("", "pods/exec", "get"), Right("", "pods/exec", "create")}


@dataclasses.dataclass
class Account:
    """Airflow's account, in a namespace of its own, with rights in another.

    Args:
        config: its kubeconfig.
        client: what it reaches the cluster with.
        admin: what changes its rights.
        namespace: where isolated tasks run.
        rules: the rules of its Role there.
        project: the folder of a project whose images are built.
        image: that of the project's environment `current`.
    """

    config: Path
    client: Any
    admin: Any
    namespace: str
    rules: list[Any]
    project: Path
    image: str
    said: list[str] = dataclasses.field(default_factory=list)

    def start(self, function: Callable[..., Any], *args: Any, **options: Any) -> PodRunner:
        """Return a call that is ready to be made."""
        environment = load_project(self.project / "k8s-venv.toml").environment("current")
        name = options.pop("name", f"rights-{uuid.uuid4().hex[:8]}")
        pod = render.pod(name, "current", {"image": self.image}, secret=name, namespace=self.namespace)
        if options.get("missing"):  # a volume, without which the pod waits
            pod.spec.volumes.append({"name": "missing", "configMap": {"name": "missing"}})
            pod.spec.containers[0].volume_mounts.append({"name": "missing", "mountPath": "/missing"})
        call = pack(function, args, {}, environment=environment)
        self.said.clear()
        # The node complains of the volume only after it has looked.
        timeouts = Timeouts(schedule=PATIENCE, startup=10) if options.get("missing") else direct.PATIENCE
        return PodRunner(self.client, pod, call, self.said.append, self.said.append, timeouts)

    def run(self, function: Callable[..., Any], *args: Any, action: Any = "delete_pod", **options: Any) -> Any:
        """Make a call as the operator does."""
        run = self.start(function, *args, **options)
        try:
            run.create()
            return open_result(run.wait(), run._call)
        finally:
            run.finish(action)

    def defer(self) -> str:
        """Run deferrable tasks; return how the run ended."""
        registry = self.image.rpartition("/")[0]
        state, _ = run_dag_file(
            self.project / "waiting.py", "deferring", self.config, self.namespace, K8S_VENV_REGISTRY=registry
        )
        return state


@pytest.fixture(scope="module")
def account(client: Any, project: Path, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with own_namespace(client) as tasks, own_namespace(client) as airflow:
        yield _account(client, tasks, airflow, project, registry, tmp_path_factory.mktemp("account"))


def _account(client: Any, tasks: str, airflow: str, project: Path, registry: str, folder: Path) -> Account:
    client.create_namespaced_service_account(airflow, {"metadata": {"name": "airflow-worker"}})
    given = {"name": "airflow-worker", "namespace": airflow}
    helm("install", NAME, str(CHART), "--namespace", tasks, f"--set-json=airflow.serviceAccounts={json.dumps([given])}")
    config = kubeconfig(client, given, folder)
    environment = load_project(project / "k8s-venv.toml").environment("current")
    # Made now: Airflow changes what the client library takes as its default.
    admin = kubernetes.client.RbacAuthorizationV1Api(client.api_client)
    return Account(
        config,
        client_of(config),
        admin,
        tasks,
        admin.read_namespaced_role(f"{NAME}-launcher", tasks).rules,
        project,
        environment.image_reference(registry, read_lock(environment).digest),
    )


def rights(account: Account) -> set[Right]:
    rules = [{"apiGroups": r.api_groups, "resources": r.resources, "verbs": r.verbs} for r in account.rules]
    return set(expand(rules))


# --- what the operator asks for -------------------------------------------------------------------------------


def small() -> str:
    print("said by the task")
    return "small"


def large() -> str:
    return os.urandom(100_000).hex()


def keep(account: Account) -> None:
    account.run(small, action="keep_pod")


def take_over(account: Account) -> None:
    """Do what a worker does that finds the pod of one that died."""
    first = account.start(small, name="taken-over")
    first.create()
    try:
        account.start(small, name="taken-over").create()
    finally:
        first.finish("delete_pod")


def wait_in_vain(account: Account) -> str:
    """Wait for a pod that cannot start; return what is said of it."""
    with pytest.raises(BackendError) as caught:
        account.run(small, missing=True)
    return str(caught.value)


def requested(path: str, method: str, query: Any) -> Right:
    """Return the right that a request needs, as the API server derives it."""
    _, _, rest = path.partition("/namespaces/{namespace}/")
    resource, named, subresource = (*rest.split("/"), "", "")[:3]
    watching = ("watch", True) in (query or [])
    verb = "watch" if watching else "list" if method == "GET" and not named else method.lower()
    return Right("", "/".join(filter(None, (resource, subresource))), {"post": "create"}.get(verb, verb))


def test_the_role_grants_what_isolated_tasks_ask_for_and_nothing_else(account: Account) -> None:
    asked: set[Right] = set()

    def recording(api: Any) -> Any:
        real = api.call_api

        def call(self: Any, path: str, method: str, *args: Any, **kwargs: Any) -> Any:
            query = args[1] if len(args) > 1 else kwargs.get("query_params")
            asked.add(requested(path, method, query))
            return real(self, path, method, *args, **kwargs)

        return patch.object(api, "call_api", call)

    with recording(kubernetes.client.ApiClient), recording(kubernetes_asyncio.client.ApiClient):
        assert account.run(small) == "small"
        assert len(account.run(large)) == 200_000
        assert account.defer() == "success"
        keep(account)
        take_over(account)
        assert "FailedMount" in wait_in_vain(account)

    assert asked & EXEC
    assert asked | EXEC == rights(account)


# --- what breaks without each right ---------------------------------------------------------------------------


def complaint(account: Account, *call: Any, **options: Any) -> str:
    """Return what a call says, whether it fails or not."""
    try:
        account.run(*call, **options)
    except BackendError as error:
        return f"{error} {account.said}"
    return str(account.said)


def deferred(account: Account) -> str:
    return account.defer()


def taken_over(account: Account) -> str:
    with pytest.raises(BackendError) as caught:
        take_over(account)
    return str(caught.value)


def unexplained(account: Account) -> str:
    said = wait_in_vain(account)
    return said if "FailedMount" in said else "no reason"


NEEDED: dict[Right, tuple[Callable[[Account], str], str]] = {
    Right("", "pods", "create"): (lambda a: complaint(a, small), "Kubernetes refused the pod"),
    Right("", "pods", "get"): (taken_over, "Kubernetes refused the look at the pod"),
    Right("", "pods", "list"): (deferred, "failed"),
    Right("", "pods", "watch"): (lambda a: complaint(a, small), "Kubernetes refused the watch on the pod"),
    Right("", "pods", "patch"): (lambda a: complaint(a, small, action="keep_pod"), "could not be marked as read"),
    Right("", "pods", "delete"): (lambda a: complaint(a, small), "could not be deleted"),
    Right("", "pods/log", "get"): (lambda a: complaint(a, small), "could not be read to its end"),
    Right("", "secrets", "create"): (lambda a: complaint(a, small), "Kubernetes refused the secret"),
    Right("", "events", "list"): (unexplained, "no reason"),
}


def allowed(account: Account, right: Right) -> bool:
    return may(account.client, account.namespace, right.verb, right.resource)


@pytest.fixture
def without(account: Account) -> Iterator[Callable[..., None]]:
    """Return a function that takes rights away; they are given back after the test."""
    name = f"{NAME}-launcher"

    def grant(kept: set[Right]) -> None:
        current = account.admin.read_namespaced_role(name, account.namespace)
        current.rules = [{"apiGroups": [r.group], "resources": [r.resource], "verbs": [r.verb]} for r in kept]
        account.admin.replace_namespaced_role(name, account.namespace, current)
        eventually(lambda: all(allowed(account, right) == (right in kept) for right in rights(account)))

    yield lambda *taken: grant(rights(account) - set(taken))
    grant(rights(account))


@pytest.mark.parametrize("right", NEEDED, ids=lambda right: f"{right.verb} {right.resource}")
def test_each_right_is_needed(account: Account, without: Callable[..., None], right: Right) -> None:
    act, expected = NEEDED[right]
    without(right)

    assert expected in act(account)


def test_large_results_need_exec(account: Account, without: Callable[..., None]) -> None:
    without(*EXEC)

    assert "pods/exec" in complaint(account, large)


def test_every_right_of_the_role_is_among_the_tested(account: Account) -> None:
    assert rights(account) == NEEDED.keys() | EXEC


def test_no_secret_can_be_read(account: Account) -> None:
    for verb in ("get", "list", "watch", "update", "patch", "delete"):
        assert not allowed(account, Right("", "secrets", verb))
