"""Run Airflow tasks in their own Python environments: as pods on Kubernetes, or locally."""

from typing import TYPE_CHECKING, Any

from k8s_venv._version import __version__

__all__ = ["IsolatedOperator", "__version__", "run"]

if TYPE_CHECKING:
    from k8s_venv.airflow.operators import IsolatedOperator
    from k8s_venv.running import run


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): importing this package imports neither Airflow nor anything else.
    if name == "IsolatedOperator":
        from k8s_venv.airflow.operators import IsolatedOperator

        return IsolatedOperator
    if name == "run":
        from k8s_venv.running import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
