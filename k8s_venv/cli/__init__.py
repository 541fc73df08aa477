"""The command ``k8s-venv``."""

try:
    from k8s_venv.cli.main import main
except KeyboardInterrupt:
    raise SystemExit(130) from None

__all__ = ["main"]
