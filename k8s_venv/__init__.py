"""Run Airflow tasks in their own Python environments: as pods on Kubernetes, or locally."""

import importlib

from k8s_venv._version import __version__

__all__ = [
    "IsolatedBranchOperator",
    "IsolatedOperator",
    "IsolatedShortCircuitOperator",
    "__version__",
    "load",
    "run",
]

# Lazy (PEP 562): importing this package imports neither Airflow nor anything else.
_MODULES = {
    "IsolatedBranchOperator": "k8s_venv.airflow.operators",
    "IsolatedOperator": "k8s_venv.airflow.operators",
    "IsolatedShortCircuitOperator": "k8s_venv.airflow.operators",
    "load": "k8s_venv.calls.references",
    "run": "k8s_venv.running",
}

TYPE_CHECKING = False  # what type checkers take as true; importing `typing` would take longer than all the rest
if TYPE_CHECKING:
    from typing import Any

    from k8s_venv.airflow.operators import IsolatedBranchOperator, IsolatedOperator, IsolatedShortCircuitOperator
    from k8s_venv.calls.references import load
    from k8s_venv.running import run


def __getattr__(name: str) -> "Any":
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
