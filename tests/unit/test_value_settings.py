"""[values] in the project file, and a task's own settings over it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.config.environment import Environment
from k8s_venv.config.project import load_project
from k8s_venv.config.value_settings import ValueSettings
from k8s_venv.errors import K8sVenvError, ProjectError


def read(folder: Path, text: str) -> Environment:
    path = folder / "k8s-venv.toml"
    path.write_text(text)
    return load_project(path).environment("x")


def test_an_environment_says_what_it_wants_otherwise(tmp_path: Path) -> None:
    environment = read(
        tmp_path,
        """
        [values]
        location = "s3://bucket/airflow/"
        above = "64 MiB"

        [environments.x]
        python = "3.12"
        values = { exec = false, above = 1000 }
        """,
    )

    assert environment.values == ValueSettings(location="s3://bucket/airflow", above=1000, exec=False)
    assert environment.with_values({"location": "/mnt/values"}).values.location == "/mnt/values"
    assert environment.with_values({"location": None, "exec": True}).values == ValueSettings(above=1000)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ('location = "values"', r":2: `location` of \[values\]: 'values' is not a location: name a folder"),
        ('location = "gs://b"', "is not a location"),
        ('location = "/mnt/../etc"', "is not a location"),
        ('above = "much"', r":2: `above` of \[values\]: "),
        ("above = true", "must be a size"),
        ("exce = false", r":2: Unknown key 'exce' in \[values\]. Did you mean 'exec'\?"),
        ("exec = false\nstatus = false", r"`values` of \[environments.x\]: with exec = false and status = false"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, settings: str, sentence: str) -> None:
    with pytest.raises(ProjectError, match=sentence):
        read(tmp_path, f'[values]\n{settings}\n[environments.x]\npython = "3.12"\n')


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"exce": False}, "values has no setting 'exce'. Did you mean 'exec'? Known: above, exec, location, status"),
        ({"exec": False, "status": False}, "with exec = false and status = false no result can come back"),
        ({"location": "here"}, "values['location']: 'here' is not a location"),
    ],
)
def test_a_tasks_settings_are_checked(settings: dict[str, Any], sentence: str) -> None:
    environment = Environment(name="x", root=Path(), python="3.12")

    with pytest.raises(K8sVenvError, match=re.escape(sentence)):
        environment.with_values(settings)
