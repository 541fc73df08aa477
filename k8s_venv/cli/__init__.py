"""The command ``k8s-venv``."""

from k8s_venv.cli.main import main

__all__ = ["main"]
