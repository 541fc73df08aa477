"""The function of a call: unpickled, or built from slices of the DAG file's source."""

from __future__ import annotations

from k8s_venv.runner import protocol, quickjson, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Tuple

    Function = Callable[..., Any]


def load(read: Callable[[str], bytes], header: Dict[str, Any]) -> Tuple[Function, List[type]]:
    """Return the function that an archive carries.

    Args:
        read: reads an entry of the archive.
        header: the call's header.

    Returns:
        The function, and the types that were pickled with it and belong to no module here.
    """
    built: Any = None
    if header["recipe"]:  # with cloudpickle it holds the module's settings alone
        recipe = quickjson.loads(read(protocol.SOURCE_FUNCTION).decode())
        from k8s_venv.runner import building

        built = building.build(recipe, lambda: values.loads(read(protocol.SOURCE_VALUES)))
    if header["transport"] == protocol.CLOUDPICKLE:
        return unpickle(read(protocol.PICKLED_FUNCTION))  # type: ignore[no-any-return]
    return built, []


def unpickle(data: Any) -> Any:
    """Return what the sender pickled: an environment trusts its sender, never the other way round."""
    import cloudpickle

    return restored(lambda: cloudpickle.loads(bytes(data)))


def pickled(value: Any) -> bytes:
    """Return a result's part as a pickle, which the sender reads where its task says so."""
    import cloudpickle

    return bytes(cloudpickle.dumps(value))


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
        from k8s_venv.runner.errors import RestoringError

        raise RestoringError(f"{type(error).__name__}: {error}") from error
