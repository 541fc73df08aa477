"""What cloudpickle carries: an environment trusts its sender, never the other way round."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


def unpickle(data: Any) -> Any:
    """Return what the sender pickled.

    Raises:
        ImportError: a module that it needs is missing here.
        RestoringError: it cannot be restored here.
    """
    return restored(lambda: _cloudpickle().loads(bytes(data)))


def pickled(value: Any) -> bytes:
    """Return a result's part as a pickle, which the sender reads where its task says so."""
    return bytes(_cloudpickle().dumps(value))


def restored(load: Callable[[], Any]) -> Any:
    """Return what the sender's objects were restored to; a missing module speaks for itself.

    Args:
        load: restores them.

    Raises:
        ImportError: a module that they need is missing here.
        RestoringError: they cannot be restored here.
    """
    try:
        return load()
    except ImportError:
        raise
    except Exception as error:
        from k8s_venv.wire.errors import RestoringError

        raise RestoringError(f"{type(error).__name__}: {error}") from error


def _cloudpickle() -> Any:
    """Return the sender's cloudpickle, which travels with the calls that need it."""
    import importlib

    return importlib.import_module("cloudpickle")
