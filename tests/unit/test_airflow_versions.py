"""The versions of Airflow that are supported: written down alike wherever somebody looks, and refused otherwise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TABLE = dict(re.findall(r"^\| (\d\.\d+) \| (\d+\.\d+) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
NEWEST = "3.3"


def test_the_extra_allows_the_versions_of_the_table() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    airflow, provider = (Requirement(text).specifier for text in extras["airflow"][:2])

    assert all(airflow.contains(f"{version}.1") for version in TABLE)
    assert not any(airflow.contains(version) for version in ("2.9.3", "3.4.0"))
    assert all(provider.contains(f"{tested}.0") for tested in TABLE.values())


def test_each_older_version_is_tested_as_the_table_says() -> None:
    script = (ROOT / ".ci/airflow").read_text("utf-8")
    jobs = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")

    tested = dict(re.findall(r"\[(\d\.\d+)\]=(\d+\.\d+)", script.partition("declare -A provider=")[2]))
    matrix = re.findall(r'"(\d\.\d+)"', re.findall(r"airflow: \[(.*)\]", jobs)[0])

    assert tested | {NEWEST: TABLE[NEWEST]} == TABLE
    assert matrix == list(tested)


def test_an_older_airflow_is_refused_with_the_versions_that_work(tmp_path: Path) -> None:
    (tmp_path / "airflow.py").write_text('__version__ = "2.9.3"')

    run = subprocess.run(
        [sys.executable, "-c", "import k8s_venv.airflow.compat"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.stderr.endswith("K8sVenvError: k8s-venv needs Airflow 2.10 or newer; this is 2.9.3.\n")
