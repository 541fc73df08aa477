"""How a process ended that left no result."""

from __future__ import annotations

import signal

from k8s_venv.wire.protocol import NOT_REPORTED

_HINTS = {"SIGSEGV": " (a crash in compiled code)", "SIGKILL": " (killed from outside, or out of memory)"}


def exit_reason(code: int) -> str:
    """Return a clause for an exit code.

    Args:
        code: negative, or above 128, where a signal ended the process.
    """
    if code == NOT_REPORTED:
        return "what it did to its process keeps its result from being written; the end of its log says why"
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"its process left with exit code {code} (os._exit?)"
    return f"its process was ended by {name}{_HINTS.get(name, '')}"
