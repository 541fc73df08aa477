"""``skip_on_exit_code``: the exit codes of a function's process that skip its task."""

from __future__ import annotations

import contextlib
from collections.abc import Container
from typing import TYPE_CHECKING

from k8s_venv.airflow.compat import AirflowFailException, AirflowSkipException
from k8s_venv.calls.exceptions import RemoteTraceback
from k8s_venv.errors import BackendError, K8sVenvError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator


def exit_codes(given: int | Container[int] | None, task: str) -> Container[int]:
    """Return the exit codes that a task was given, one or several.

    Args:
        given: what it was given.
        task: the task, for messages.

    Raises:
        K8sVenvError: these are no exit codes.
    """
    if given is None:
        return ()
    if isinstance(given, int) and not isinstance(given, bool):
        return (given,)
    if not isinstance(given, Container) or isinstance(given, str | bytes):
        raise K8sVenvError(f"{task}: skip_on_exit_code is an exit code or a list of them, not {given!r}.")
    return given


@contextlib.contextmanager
def skipping_on(codes: Container[int]) -> Iterator[None]:
    """Skip the task where the function's process ends with one of these exit codes.

    Args:
        codes: the exit codes.

    Raises:
        AirflowSkipException: it did.
    """
    try:
        yield
    except (AirflowSkipException, AirflowFailException):  # the function said what it wants
        raise
    except Exception as error:
        code = _exit_code(error)
        if code is None or code not in codes:
            raise
        raise AirflowSkipException(f"The function's process ended with exit code {code}: skipping.") from None
    if 0 in codes:
        raise AirflowSkipException("The function's process ended with exit code 0: skipping.")


def _exit_code(error: Exception) -> int | None:
    """Return the exit code of the process that an exception ended, or None for what is not the function's."""
    if isinstance(error, BackendError):
        return error.exit_code
    if not isinstance(error.__cause__, RemoteTraceback):
        return None
    if isinstance(error, RemoteError) and error.kind == "SystemExit":
        code = (error.arguments or (1,))[0]
        return code & 0xFF if isinstance(code, int) else 1  # as Python itself: a text is printed, and the code is 1
    return 1
