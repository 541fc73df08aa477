"""What Airflow asks a provider for; the module imports nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, through the entry point ``apache_airflow_provider``."""
    return {
        "package-name": "k8s-venv",
        "name": "k8s-venv",
        "description": "Run tasks in their own Python environments, as pods on Kubernetes or locally.",
        "task-decorators": [
            {"name": "isolated", "class-name": "k8s_venv.airflow.decorator.isolated_task"},
            {"name": "isolated_cmd", "class-name": "k8s_venv.airflow.command.isolated_cmd_task"},
            {"name": "branch_isolated", "class-name": "k8s_venv.airflow.decorator.branch_isolated_task"},
            {"name": "short_circuit_isolated", "class-name": "k8s_venv.airflow.decorator.short_circuit_isolated_task"},
        ],
        "config": {
            "k8s_venv": {
                "description": "Isolated tasks.",
                "options": {
                    "backend": _option(
                        "Where isolated tasks run unless they say otherwise: ``kubernetes``, ``docker`` or ``local``.",
                        "local",
                    ),
                    "project": _option(
                        "The project file, when it is not beside the DAG files or above them.",
                        "/opt/k8s-venv.toml",
                    ),
                },
            },
        },
    }


def knows_decorator() -> bool:
    """Return whether the Airflow that is installed here knows ``@task.isolated``."""
    from k8s_venv.airflow.compat import AIRFLOW_3

    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.sdk import task
    else:
        from airflow.decorators import task
    return callable(getattr(task, "isolated", None))


def _option(description: str, example: str) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": None,
        "type": "string",
        "example": example,
        "default": "",
    }
