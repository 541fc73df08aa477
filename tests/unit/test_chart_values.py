"""`k8s-venv helm-values`: what it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s_venv.config.environment import Environment
from k8s_venv.locks.locking import read_lock, write_lock
from tests.chart import CHART, helm
from tests.conftest import Command
from tests.wheels import make_wheel

BUILT = '[environments.built]\npython = "3.12"\n'
POD = """
[environments.ready]
python = "3.8"
image = "registry.example.com/ours/ready:7"
[environments.ready.pod]
service_account_name = "reader"
image_pull_policy = "Always"
image_pull_secrets = ["one", "two"]
node_selector = { disk = "fast" }
container_resources = { requests = { cpu = 2 }, limits = { memory = "2Gi" } }
tolerations = [{ key = "spot", operator = "Exists", toleration_seconds = 60 }]
"""
WARM = """[environments.etl]
python = "3.12"
image = "registry.example.com/etl:7"
warm = { min = 1 }
[environments.etl.pod]
"""


def values_of(in_process: Command, folder: Path, text: str, *arguments: str, **environ: str) -> dict[str, Any]:
    (folder / "k8s-venv.toml").write_text(text)
    ran = in_process("helm-values", *arguments, **environ)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = yaml.safe_load(ran.stdout)["environments"]
    return found


def locked(folder: Path, *requirements: str) -> Environment:
    environment = Environment(name="built", root=folder, python="3.12", requirements=requirements or None)
    write_lock(environment)
    return environment


def test_a_built_environment_has_the_reference_that_workers_compute(in_process: Command, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels", "ours", "1.5")
    environment = locked(tmp_path, f"ours @ {wheel.as_uri()}")
    text = f'registry = "registry.example.com/x"\n{BUILT}requirements = ["ours @ {wheel.as_uri()}"]\n'

    values = values_of(in_process, tmp_path, text)

    reference = environment.image_reference("registry.example.com/x", read_lock(environment).digest)
    assert values == {"built": {"image": reference, "python": "3.12", "packages": {"ours": "1.5"}}}


def test_what_an_image_has_by_its_python_is_compared_and_what_it_lacks_is_not(
    in_process: Command, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    make_wheel(wheels, "newer")
    make_wheel(wheels, "elsewhere")
    conditions = ["newer; python_version >= '3.12'", "elsewhere; platform_machine == 'aarch64'"]
    ours = make_wheel(wheels, "ours", requires=conditions).as_uri()
    requirements = ["--no-index", "--find-links wheels", f"ours @ {ours}"]
    (tmp_path / "requirements.txt").write_text("\n".join(requirements))
    text = f'registry = "registry.example.com/x"\n{BUILT}requirements = "requirements.txt"\n'
    both = f'{text}platforms = ["linux/amd64", "linux/arm64"]\n'
    (tmp_path / "k8s-venv.toml").write_text(both)
    assert in_process("lock").returncode == 0

    values = values_of(in_process, tmp_path, both)

    assert values["built"]["packages"] == {"newer": "1.0", "ours": "1.0"}


def test_pod_options_become_the_charts_values(in_process: Command, tmp_path: Path) -> None:
    values = values_of(in_process, tmp_path, POD)

    assert values["ready"] == {
        "image": "registry.example.com/ours/ready:7",
        "python": "3.8",
        "resources": {"requests": {"cpu": 2}, "limits": {"memory": "2Gi"}},
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "one"}, {"name": "two"}],
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "spot", "operator": "Exists", "tolerationSeconds": 60}],
        "serviceAccount": {"name": "reader"},
    }


def test_the_chart_takes_what_is_printed(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "k8s-venv.toml").write_text(BUILT + POD + WARM)
    locked(tmp_path)

    ran = in_process("helm-values", "--output", "environments.yaml", K8S_VENV_REGISTRY="localhost:5000/x")

    assert (ran.returncode, ran.stdout) == (0, "")
    helm("lint", "--strict", str(CHART), "--kube-version", "1.34", "--values", str(tmp_path / "environments.yaml"))


def test_names_choose_environments(in_process: Command, tmp_path: Path) -> None:
    assert list(values_of(in_process, tmp_path, BUILT + POD, "ready")) == ["ready"]


def test_the_pod_options_image_wins_as_it_does_for_tasks(in_process: Command, tmp_path: Path) -> None:
    values = values_of(in_process, tmp_path, BUILT + 'pod = { image = "mirror.example.com/x:1" }\n')

    assert values == {"built": {"image": "mirror.example.com/x:1", "python": "3.12"}}


def test_the_namespaces_own_account_is_not_made(in_process: Command, tmp_path: Path) -> None:
    values = values_of(in_process, tmp_path, POD.replace('"reader"', '"default"'))

    assert values["ready"]["serviceAccount"] == {"create": False, "name": "default"}


def test_the_pod_that_waits_for_an_environments_calls_is_written_whole(in_process: Command, tmp_path: Path) -> None:
    pod = """
    [environments.etl.pod]
    image_pull_secrets = ["ours"]
    service_account_name = "reader"
    tolerations = [{ key = "spot", operator = "Exists" }]
    container_resources = { limits = { memory = "2Gi" } }
    on_finish_action = "keep_pod"
    labels = { run = "{{ run_id }}", team = "sales" }
    annotations = { "sidecar.istio.io/inject" = "false" }
    """
    warm = 'warm = { min = 2, max = 8, idle = "10m", preload = ["pandas"] }'
    text = f'[environments.etl]\npython = "3.12"\nimage = "registry.example.com/etl:7"\n{warm}\n{pod}'

    warm_values = values_of(in_process, tmp_path, text)["etl"]["warm"]

    assert {name: warm_values[name] for name in ("min", "max", "idleSeconds")} == {
        "min": 2,
        "max": 8,
        "idleSeconds": 600,
    }
    waiting = warm_values["pod"]
    assert (waiting["apiVersion"], waiting["kind"]) == ("v1", "Pod")
    assert "namespace" not in waiting["metadata"]
    assert waiting["metadata"]["generateName"] == "warm-etl-"
    assert waiting["metadata"]["annotations"] == {
        "k8s-venv/environment": "etl",
        "k8s-venv/pool": warm_values["key"],
        "sidecar.istio.io/inject": "false",
    }
    labels = waiting["metadata"]["labels"]
    assert (labels["k8s-venv/slot"], labels["team"]) == (warm_values["key"], "sales")
    assert "run" not in labels
    assert waiting["spec"]["serviceAccountName"] == "reader"
    assert waiting["spec"]["imagePullSecrets"] == [{"name": "ours"}]
    assert waiting["spec"]["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    base = waiting["spec"]["containers"][0]
    assert (base["image"], base["resources"]) == ("registry.example.com/etl:7", {"limits": {"memory": "2Gi"}})
    assert base["command"][-2:] == ["--preload", "pandas"]


def test_another_image_or_pod_option_makes_another_pool_and_another_size_does_not(
    in_process: Command, tmp_path: Path
) -> None:
    text = '[environments.etl]\npython = "3.12"\nimage = "registry.example.com/etl:7"\nwarm = { min = 1 }\n'

    def key(text: str) -> str:
        found: str = values_of(in_process, tmp_path, text)["etl"]["warm"]["key"]
        return found

    assert key(text) == key(text.replace("min = 1", "max = 3")) == key(text + 'pod = { labels = { team = "sales" } }\n')
    others = [text.replace("etl:7", "etl:8"), text.replace("min = 1", 'preload = ["json"]')]
    others.append(text + 'pod = { node_selector = { disk = "fast" } }\n')
    assert len({key(text), *map(key, others)}) == 4


def refusal(in_process: Command, folder: Path, text: str) -> str:
    (folder / "k8s-venv.toml").write_text(text)
    ran = in_process("helm-values", "--output", "values.yaml")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert not (folder / "values.yaml").exists()
    return ran.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BUILT, "No registry is configured."),
        (f'registry = "r.example.com"\n{BUILT}', "it was never locked: "),
        (POD.replace('"reader"', '"{{ params.account }}"'), "`serviceAccount` is a template, '{{ params.account }}'"),
        (POD.replace('{ disk = "fast" }', '"fast"'), "its pod option 'node_selector' must be a table"),
        (
            f"{WARM}priority_class_name = 'high'",
            "k8s-venv.toml:6: Environment 'etl' has `warm`, but the option 'priority_",
        ),
        (f"{WARM}env_vars = {{ DAY = '{{{{ ds }}}}' }}", "`pod` is a template, which only a running task can fill in"),
        (
            f"{WARM}tolerations = [{{ effects = 'x' }}]",
            "Environment 'etl': `tolerations`: Kubernetes' V1Toleration has no",
        ),
    ],
)
def test_what_cannot_be_known_gets_a_sentence(in_process: Command, tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refusal(in_process, tmp_path, text)


def test_a_stale_lock_is_refused(in_process: Command, tmp_path: Path) -> None:
    locked(tmp_path)

    said = refusal(in_process, tmp_path, f'registry = "r.example.com"\n{BUILT.replace("3.12", "3.11")}')

    assert "its lock is stale: its Python was 3.12 when it was locked, and now 3.11" in said


def test_a_file_that_cannot_be_written_gets_a_sentence(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "k8s-venv.toml").write_text(POD)

    ran = in_process("helm-values", "--output", "nowhere/values.yaml")

    assert ran.returncode == 1
    assert "Error: nowhere/values.yaml cannot be written: No such file or directory." in ran.stderr
