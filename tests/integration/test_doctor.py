"""`k8s-venv doctor`: what tasks need of this machine, the registry and the cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import Command

pytestmark = pytest.mark.usefixtures("no_settings")
HERE = "{}.{}".format(*sys.version_info)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    declare(tmp_path, "idna==3.10")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    return tmp_path


def declare(folder: Path, requirement: str, registry: str = "") -> None:
    text = f'registry = "{registry}"\n' if registry else ""
    text += f'[environments.etl]\npython = "{HERE}"\nrequirements = ["{requirement}"]\n'
    (folder / "k8s-venv.toml").write_text(text, "utf-8")


def lines_of(output: str) -> dict[str, str]:
    """Return what stands after each sign and subject."""
    return {line[2:25].strip(): line[0] + line[25:] for line in output.splitlines() if not line.startswith("  ")}


def test_a_laptop_needs_locks_uv_and_interpreters(cli: Command) -> None:
    cli("lock")

    ran = cli("doctor", "--backend", "local")

    found = lines_of(ran.stdout)
    assert (ran.returncode, found["lock etl"]) == (0, "✓fresh, 1 packages"), ran.stdout
    assert found[f"Python {HERE}"].startswith("✓/")
    assert found["uv"].startswith("✓uv ")
    assert found["provider"] == "✓Airflow knows @task.isolated"
    assert "registry pull" not in found


def test_a_lock_that_is_missing_or_stale_is_named_with_the_command(project: Path, cli: Command) -> None:
    missing = cli("doctor", "--backend", "local")
    cli("lock")
    declare(project, "idna==3.7")
    stale = cli("doctor", "--backend", "local")

    assert (missing.returncode, stale.returncode) == (1, 1)
    assert lines_of(missing.stdout)["lock etl"].startswith("✗it was never locked")
    assert "its lock is stale" in lines_of(stale.stdout)["lock etl"]
    assert "Run `k8s-venv lock etl`" in lines_of(stale.stdout)["lock etl"]


def test_a_registry_that_does_not_answer_and_a_missing_cluster(project: Path, cli: Command) -> None:
    declare(project, "idna==3.10", registry="127.0.0.1:1/airflow")
    cli("lock")

    ran = cli("doctor")

    found = lines_of(ran.stdout)
    assert ran.returncode == 1
    assert found["registry pull"].startswith("✗The registry 127.0.0.1:1 cannot be reached")
    assert "no cluster is configured" in found["cluster"]
    assert "K8S_VENV_BACKEND=local" in found["cluster"]


def test_an_environment_with_an_image_of_its_own_needs_no_registry(project: Path, cli: Command) -> None:
    text = f'[environments.own]\npython = "{HERE}"\nimage = "registry.example.com/own:1"\n'
    (project / "k8s-venv.toml").write_text(text, "utf-8")

    found = lines_of(cli("doctor").stdout)

    assert found["lock own"] == "-it runs in registry.example.com/own:1"
    assert found["registry"].startswith("-not needed")


def test_the_same_as_json(cli: Command) -> None:
    ran = cli("doctor", "--json")

    listed = json.loads(ran.stdout)
    assert {key for each in listed for key in each} == {"subject", "state", "text", "remedy"}
    assert [each["subject"] for each in listed if each["state"] == "failed"] == ["lock etl", "registry pull", "cluster"]


def test_a_terminal_without_these_signs_gets_words(
    project: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")

    ran = cli("doctor", "--backend", "local")

    assert ran.stdout.startswith("ok   project ")
    assert "\nFAIL lock etl " in ran.stdout


def test_a_project_file_with_a_fault_is_the_first_thing_to_mend(project: Path, cli: Command) -> None:
    (project / "k8s-venv.toml").write_text("[environments.etl]\n", "utf-8")

    ran = cli("doctor")

    assert ran.returncode == 1
    assert "Error: " in ran.stderr
    assert "k8s-venv.toml" in ran.stderr
