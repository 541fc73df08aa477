"""What the chart makes of its values, and which values it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s_venv import __version__
from k8s_venv.backends.kubernetes import render
from tests.chart import CHART, ENVIRONMENTS, NAMESPACE, WARM, helm, refusal, rendered
from tests.chart_readme import README, generated, value_comments

ENVIRONMENT = {"image": "a:1", "python": "3.8"}
Objects = set[tuple[str, str]]

# What is made without any environment, by its switch.
LAUNCHER = {("Role", "k8s-venv-launcher"), ("RoleBinding", "k8s-venv-launcher")}
POLICIES = {("NetworkPolicy", "k8s-venv-tasks"), ("NetworkPolicy", "k8s-venv-chart")}
QUOTA = {("ResourceQuota", "k8s-venv")}
RANGE = {("LimitRange", "k8s-venv")}
BARE = LAUNCHER | POLICIES | QUOTA | RANGE
# What environments add.
ACCOUNTS = {("ServiceAccount", "k8s-venv-snowpark"), ("ServiceAccount", "trainer")}
SCRIPTS = {("ConfigMap", "k8s-venv-scripts")}
TESTS = {
    *(("Pod", f"k8s-venv-test-{name}") for name in ("snowpark", "training-gpu", "rights")),
    *((kind, "k8s-venv-test-rights") for kind in ("ServiceAccount", "Role", "RoleBinding")),
}
FULL = BARE | ACCOUNTS | SCRIPTS | TESTS
PULLER = {("DaemonSet", "k8s-venv-image-puller")}
JANITOR = {(kind, "k8s-venv-janitor") for kind in ("ServiceAccount", "Role", "RoleBinding", "CronJob")}
SETTINGS = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}}
TEXT = '{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Chart.Name }}-text"}}'
EXTRA = {("ConfigMap", "settings"), ("Secret", "k8s-venv-text")}
KEEPER = {
    ("ConfigMap", "k8s-venv-warm-snowpark"),
    *((kind, "k8s-venv-keeper") for kind in ("ServiceAccount", "Role", "RoleBinding", "Lease", "Deployment")),
}
WARM_ENVIRONMENTS = {**ENVIRONMENTS, "snowpark": {**ENVIRONMENTS["snowpark"], "warm": WARM}}
FOREIGN = {**ENVIRONMENT, "serviceAccount": {"create": False, "name": "somebody"}}

SCENARIOS: dict[str, tuple[dict[str, Any], Objects]] = {
    "nothing declared": ({"environments": {}}, BARE),
    "environments": ({}, FULL),
    "rights off": ({"rights": {"create": False}}, FULL - LAUNCHER),
    "network policy off": ({"networkPolicy": {"enabled": False}}, FULL - POLICIES),
    "quota off": ({"resourceQuota": {"enabled": False}}, FULL - QUOTA),
    "limit range off": ({"limitRange": {"enabled": False}}, FULL - RANGE),
    "tests off": ({"tests": {"enabled": False}}, FULL - TESTS - SCRIPTS),
    "image puller on": ({"imagePuller": {"enabled": True}}, FULL | PULLER),
    "janitor on": ({"janitor": {"enabled": True}}, FULL | JANITOR),
    "janitor on, tests off": (
        {"janitor": {"enabled": True}, "tests": {"enabled": False}},
        FULL - TESTS | JANITOR,
    ),
    "a warm environment": ({"environments": WARM_ENVIRONMENTS}, FULL | KEEPER),
    "a warm environment, tests off": (
        {"environments": WARM_ENVIRONMENTS, "tests": {"enabled": False}},
        FULL - TESTS | KEEPER,
    ),
    "a warm environment, keeper off": ({"environments": WARM_ENVIRONMENTS, "warm": {"enabled": False}}, FULL),
    "everything on": (
        {"environments": WARM_ENVIRONMENTS, "janitor": {"enabled": True}, "imagePuller": {"enabled": True}},
        FULL | JANITOR | PULLER | KEEPER,
    ),
    "extra objects": ({"extraObjects": [SETTINGS, TEXT]}, FULL | EXTRA),
    "an account of somebody else": (
        {"environments": {"snowpark": FOREIGN}},
        FULL - ACCOUNTS - {("Pod", "k8s-venv-test-training-gpu")},
    ),
}


@pytest.mark.parametrize(("values", "expected"), SCENARIOS.values(), ids=SCENARIOS)
def test_each_switch_makes_exactly_its_objects(values: dict[str, Any], expected: Objects) -> None:
    objects = rendered({"environments": ENVIRONMENTS, **values})

    assert set(objects) == expected
    ours = [each["metadata"] for key, each in objects.items() if key not in EXTRA]
    assert {metadata["namespace"] for metadata in ours} == {NAMESPACE}
    assert {metadata["labels"]["app.kubernetes.io/managed-by"] for metadata in ours} == {"Helm"}


def test_the_main_manifests_are_what_they_were_meant_to_be() -> None:
    spot = [{"key": "spot", "operator": "Exists"}]
    objects = rendered(
        {
            "environments": ENVIRONMENTS,
            "janitor": {"enabled": True, "tolerations": spot},
            "imagePuller": {"enabled": True, "nodeSelector": {"pool": "tasks"}},
        }
    )

    text = Path(__file__).with_name("chart_manifests.yaml").read_text("utf-8")
    for expected in yaml.safe_load_all(text):
        assert objects[expected["kind"], expected["metadata"]["name"]] == expected


def test_names_and_labels_can_be_chosen() -> None:
    objects = rendered({"fullnameOverride": "tasks", "commonLabels": {"team": "data"}, "environments": ENVIRONMENTS})

    assert {name for _, name in objects} >= {"tasks-launcher", "tasks-snowpark", "tasks-test-rights", "tasks"}
    assert {each["metadata"]["labels"]["team"] for each in objects.values()} == {"data"}


EVERYTHING = {"environments": WARM_ENVIRONMENTS, "janitor": {"enabled": True}, "imagePuller": {"enabled": True}}


def _pod_templates(objects: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """Return the chart's own pods by what they are for."""
    return {
        "puller": objects["DaemonSet", "k8s-venv-image-puller"]["spec"]["template"],
        "janitor": objects["CronJob", "k8s-venv-janitor"]["spec"]["jobTemplate"]["spec"]["template"],
        "keeper": objects["Deployment", "k8s-venv-keeper"]["spec"]["template"],
        "rights": objects["Pod", "k8s-venv-test-rights"],
        "self-check": objects["Pod", "k8s-venv-test-snowpark"],
    }


def test_common_annotations_are_on_every_object_and_pod_beside_its_own() -> None:
    mesh = {"sidecar.istio.io/inject": "false"}

    objects = rendered({**EVERYTHING, "commonAnnotations": mesh})

    everything = [*objects.values(), *_pod_templates(objects).values()]
    assert all(each["metadata"]["annotations"].items() >= mesh.items() for each in everything)
    hook = objects["Pod", "k8s-venv-test-rights"]["metadata"]["annotations"]
    assert (hook["helm.sh/hook"], hook["helm.sh/hook-weight"]) == ("test", "-1")


def test_the_charts_own_pods_run_where_they_are_told() -> None:
    spot = [{"key": "spot", "operator": "Exists"}]
    place = {"nodeSelector": {"pool": "tasks"}, "tolerations": spot}
    spread: dict[str, Any] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}
    more: dict[str, Any] = {"affinity": spread, "priorityClassName": "low"}

    pods = _pod_templates(
        rendered(
            {
                "environments": {"snowpark": {**ENVIRONMENT, "imagePullPolicy": "Never", "warm": WARM, **place}},
                "warm": {**place, **more},
                "imagePuller": {"enabled": True, **place, **more},
                "janitor": {"enabled": True, **place, **more},
                "tests": place,
            }
        )
    )

    for pod in pods.values():
        assert pod["spec"].items() >= place.items()
    for name in ("puller", "janitor", "keeper"):
        assert pods[name]["spec"].items() >= more.items()
    assert pods["puller"]["spec"]["containers"][0]["imagePullPolicy"] == "Never"


def test_every_container_of_the_chart_says_what_it_needs() -> None:
    pods = _pod_templates(rendered(EVERYTHING))

    for name in ("puller", "janitor", "keeper", "rights"):
        for container in pods[name]["spec"]["containers"]:
            assert {"requests", "limits"} <= container["resources"].keys()


def test_two_releases_share_a_namespace() -> None:
    kinds = [
        {
            (each["kind"], each["metadata"]["name"])
            for each in yaml.safe_load_all(helm("template", name, str(CHART), "--kube-version", "1.34").stdout)
        }
        for name in ("blue", "green")
    ]

    assert not kinds[0] & kinds[1]


def test_a_release_of_another_name_makes_objects_of_another_name() -> None:
    text = helm("template", "blue", str(CHART), "--kube-version", "1.34").stdout

    names = {each["metadata"]["name"] for each in yaml.safe_load_all(text)}
    assert names == {f"blue-k8s-venv{suffix}" for suffix in ("", "-launcher", "-tasks", "-chart")}


def test_long_names_stay_within_a_cron_jobs_limit() -> None:
    values = {"fullnameOverride": "x" * 39, "environments": ENVIRONMENTS}

    objects = rendered({**values, "janitor": {"enabled": True}, "imagePuller": {"enabled": True}})

    assert max(len(name) for kind, name in objects if kind in ("CronJob", "DaemonSet")) <= 52


def test_the_network_policy_selects_the_pods_that_the_engine_makes() -> None:
    policy = rendered()["NetworkPolicy", "k8s-venv-tasks"]

    assert policy["spec"]["podSelector"] == {"matchLabels": render.LABELS}


def _except_of(cidr: str, **policy: Any) -> list[str] | None:
    egress = [{"to": [{"ipBlock": {"cidr": cidr}}]}]
    rules = rendered({"networkPolicy": {"egress": egress, **policy}})["NetworkPolicy", "k8s-venv-tasks"]
    found: list[str] | None = rules["spec"]["egress"][1]["to"][0]["ipBlock"].get("except")
    return found


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "128.0.0.0/1", "168.0.0.0/5", "169.254.0.0/16", "169.254.169.252/30"])
def test_the_metadata_address_is_taken_out_of_every_block_with_it(cidr: str) -> None:
    assert _except_of(cidr) == ["169.254.169.254/32"]


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "0.0.0.0/1", "169.254.169.248/30", "170.0.0.0/8"])
def test_other_blocks_stay_as_they_are(cidr: str) -> None:
    assert _except_of(cidr) is None


def test_the_metadata_address_of_ipv6_is_taken_out_too() -> None:
    assert _except_of("::/0") == ["fd00:ec2::254/128"]


def test_the_metadata_address_can_be_allowed() -> None:
    assert _except_of("0.0.0.0/0", allowCloudMetadata=True) is None


def test_the_keeper_reads_each_pool_as_it_is_declared() -> None:
    objects = rendered({"environments": WARM_ENVIRONMENTS})

    (data,) = objects["ConfigMap", "k8s-venv-warm-snowpark"]["data"].items()
    assert (data[0], json.loads(data[1])) == ("snowpark.json", {"environment": "snowpark", **WARM})


@pytest.mark.parametrize("change", [{"key": "fedcba"}, {"max": 5}])
def test_a_changed_pool_starts_the_keeper_again(change: dict[str, Any]) -> None:
    changed = {"snowpark": {**ENVIRONMENTS["snowpark"], "warm": {**WARM, **change}}}

    before, same, after = (
        _pod_templates(
            rendered({"environments": environments, "janitor": {"enabled": True}, "imagePuller": {"enabled": True}})
        )
        for environments in (WARM_ENVIRONMENTS, WARM_ENVIRONMENTS, {**ENVIRONMENTS, **changed})
    )

    assert before["keeper"] == same["keeper"] != after["keeper"]


def test_calls_of_warm_environments_need_rights_on_leases() -> None:
    rules = {
        name: rendered({"environments": environments})["Role", "k8s-venv-launcher"]["rules"]
        for name, environments in (("cold", ENVIRONMENTS), ("warm", WARM_ENVIRONMENTS))
    }

    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "delete"]}
    assert rules["warm"] == [*rules["cold"], leases]
    checked = rendered({"environments": WARM_ENVIRONMENTS})["Pod", "k8s-venv-test-rights"]["spec"]["containers"][0]
    assert leases in json.loads(checked["env"][1]["value"])


def test_environments_that_share_an_account_share_its_settings() -> None:
    environments = {
        name: {**ENVIRONMENT, "imagePullSecrets": [{"name": name}], "serviceAccount": {"name": "both"}} for name in "ab"
    }

    objects = rendered({"environments": environments, "imagePullSecrets": [{"name": "all"}]})

    account = objects["ServiceAccount", "both"]
    assert account["imagePullSecrets"] == [{"name": "all"}, {"name": "a"}, {"name": "b"}]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown switch": ({"janitr": {}}, "additional properties 'janitr' not allowed"),
    "unknown key of an environment": ({"environments": {"a": {**ENVIRONMENT, "imge": 1}}}, "at '/environments/a'"),
    "no image": ({"environments": {"a": {"python": "3.8"}}}, "at '/environments/a': missing property 'image'"),
    "a URL": ({"environments": {"a": {**ENVIRONMENT, "image": "https://x/y"}}}, "at '/environments/a/image'"),
    "no reference": ({"environments": {"a": {**ENVIRONMENT, "image": "x:y:z"}}}, "at '/environments/a/image'"),
    "a number": ({"environments": {"a": {**ENVIRONMENT, "python": 3.1}}}, "at '/environments/a/python'"),
    "a bad name": ({"environments": {"A.b": ENVIRONMENT}}, "'A.b' does not match pattern"),
    "no account": ({"airflow": {"serviceAccounts": []}}, "at '/airflow/serviceAccounts'"),
    "a label of the chart's own": (
        {"commonLabels": {"helm.sh/chart": "x"}},
        "commonLabels: helm.sh/chart is set by the chart",
    ),
    "a label that is none": ({"commonLabels": {"team": "a b"}}, "at '/commonLabels/team'"),
    "no namespace": ({"airflow": {"serviceAccounts": [{"name": "x"}]}}, "missing property 'namespace'"),
    "a bad schedule": ({"janitor": {"schedule": "hourly"}}, "at '/janitor/schedule'"),
    "two of one name": (
        {"environments": {"a-b": ENVIRONMENT, "a_b": ENVIRONMENT}},
        "environments.a_b: its objects would have the names of those of environments.a-b",
    ),
    "an account with two identities": (
        {
            "environments": {
                name: {**ENVIRONMENT, "serviceAccount": {"name": "s", "annotations": {"role": name}}} for name in "ab"
            }
        },
        'environments.b.serviceAccount.annotations: another environment gives the account "s" another "role"',
    ),
    "egress to everywhere": (
        {"networkPolicy": {"egress": [{"ports": [{"port": 443}]}]}},
        "networkPolicy.egress[0]: without `to` it would open the cloud's metadata address",
    ),
    "a pool without a pod": (
        {"environments": {"a": {**ENVIRONMENT, "warm": {"min": 1}}}},
        "at '/environments/a/warm': missing properties 'max', 'idleSeconds', 'key', 'pod'",
    ),
    "a pool that would never have a pod": (
        {"environments": {"a": {**ENVIRONMENT, "warm": {**WARM, "min": 0}}}},
        "at '/environments/a/warm/min': minimum: got 0, want 1",
    ),
    "a pool with its bounds exchanged": (
        {"environments": {"a": {**ENVIRONMENT, "warm": {**WARM, "min": 9}}}},
        "environments.a.warm: min, 9, is above max, 4.",
    ),
    "a pool that no call may reach": (
        {"environments": {"a": {**ENVIRONMENT, "warm": WARM}}, "rights": {"exec": False}},
        "environments.a.warm: a call reaches a warm pod through pods/exec, which rights.exec=false takes away",
    ),
    "a janitor without an image": ({"janitor": {"enabled": True}}, "janitor.image: name an image with Python"),
}


@pytest.mark.parametrize(("values", "sentence"), REFUSED.values(), ids=REFUSED)
def test_wrong_values_get_a_sentence_with_their_path(values: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(values)


# --- the chart's own files ------------------------------------------------------------------------------------


def test_helm_has_nothing_to_complain_about() -> None:
    helm("lint", "--strict", str(CHART), "--kube-version", "1.34")


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))

    assert chart["appVersion"] == chart["version"] == __version__


SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))


def _subschemas(schema: Any, place: str = "") -> list[tuple[str, dict[str, Any]]]:
    if isinstance(schema, list):
        return [each for part in schema for each in _subschemas(part, place)]
    if not isinstance(schema, dict):
        return []
    below = [each for key, part in schema.items() if key != "examples" for each in _subschemas(part, f"{place}/{key}")]
    return [(place, schema), *below]


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        pytest.param(schema, example, id=f"{place}-{number}")
        for place, schema in _subschemas(SCHEMA)
        for number, example in enumerate(schema.get("examples", ()))
    ],
)
def test_the_schemas_examples_are_valid(schema: dict[str, Any], example: object) -> None:
    jsonschema = pytest.importorskip("jsonschema")

    jsonschema.validate(example, {**schema, "definitions": SCHEMA["definitions"]}, jsonschema.Draft7Validator)


def test_the_schema_closes_every_table() -> None:
    open_ones = {
        place
        for place, schema in _subschemas(SCHEMA)
        if schema.get("type") == "object" and "additionalProperties" not in schema
    }

    # What Kubernetes itself describes, and what Helm passes to every chart.
    assert {place.rpartition("/properties/")[2] for place in open_ones} == {
        "ports/items",
        "podSelector",
        "namespaceSelector",
        "nodeAffinity",
        "podAffinity",
        "podAntiAffinity",
        "pod",
        "global",
    }


def _declared(schema: dict[str, Any], place: str = "") -> set[str]:
    if "properties" not in schema:
        return {place}
    return {each for key, part in schema["properties"].items() for each in _declared(part, f"{place}.{key}".strip("."))}


def test_every_value_has_a_comment_and_a_schema() -> None:
    comments = value_comments((CHART / "values.yaml").read_text("utf-8"))

    assert set(comments) == _declared(SCHEMA) - {"global"}
    assert all(comment.endswith((".", ";")) for comment in comments.values())


def test_the_readme_shows_the_values_as_they_are() -> None:
    assert README.read_text("utf-8") == generated(), "run `python -m tests.chart_readme`"
