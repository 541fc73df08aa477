"""The names, versions and limits that sender and runner agree on.

The format is described in ``README.md`` beside this file. A change that an older runner or sender could
misread raises ``PROTOCOL``.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` itself takes longer to import than the runner to start
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

PROTOCOL = 1

# Entries of the archive.
RUNNER = "runner.bin"  # the runner's modules once more, in one piece
HEADER = "call.json"
ARGUMENTS = "arguments.bin"
CONTEXT = "context.bin"
PICKLED_FUNCTION = "function.pickle"
SOURCE_FUNCTION = "function.json"
SOURCE_VALUES = "function.bin"
SOURCES = "sources.json"
BESIDE = "beside"  # folder of the modules that lie beside the DAG file
VENDOR = "vendor"  # folder of the sender's cloudpickle

# The name of the sender's `__main__` in the environment, where the runner is that.
MAIN = "__k8s_venv_main__"

# Files next to the archive.
ARCHIVE = "call.pyz"
SECRETS = "secrets.json"
DELIVERY = "delivery.json"  # how large values come in and go out, if not in the usual way

# Files of a result.
DOCUMENT = "result.json"
PAYLOAD = "result.bin"
RUNNING = "running"  # locked by the runner for as long as it lives

# Begins a printed line whose next word names its kind; a control character, so that no text is mistaken for it.
MARK = "\x1e"
# The first line in a pod's log: where it is missing, what was printed first is lost.
BEGIN = MARK + "begin"
# Begins the last one, where the sender reads from the runner itself: a token follows, which the document brings.
END = MARK + "end"

# The transport of functions as bytecode; the other one, `source`, needs no telling apart here.
CLOUDPICKLE = "cloudpickle"

# Outcomes.
VALUE = "value"
FAILURE = "failure"
SKIP = "skip"
FAIL = "fail"

# The exit code of a runner that can leave no result (EX_CANTCREAT of sysexits.h).
NOT_REPORTED = 73

INLINE_ENCODING = "zlib+base85"
# What Kubernetes keeps of a container's termination message, and of all those of a pod, in bytes.
MESSAGE_LIMIT = 4096
POD_MESSAGE_LIMIT = 12 * 1024
# Arguments up to this size travel in the archive, in bytes.
ARGUMENTS_INSIDE = 64 * 1024
# Bounds on what a sender reads, so that a hostile or broken environment cannot exhaust it, in bytes.
DOCUMENT_LIMIT = 64 * 1024
RESULT_LIMIT = 2 * 1024**3
# What a sender reads through the API server, in bytes.
HAND_OVER_LIMIT = 512 * 1024**2


class Document:
    """A result without its payload: how a call ended, and what the payload must look like.

    Args:
        outcome: ``value``, ``failure``, ``skip`` or ``fail``.
        size: the payload's length in bytes.
        sha256: the payload's digest, in hexadecimal.
        python: the environment's Python version, such as ``3.8.18``.
        timings: seconds spent in each phase, by its name.
        inline: the payload itself, compressed and encoded by ``INLINE_ENCODING``, if it is small.
        stored: whether the payload was put where the sender asked for it.
    """

    def __init__(
        self,
        outcome: str,
        size: int,
        sha256: str,
        python: str,
        timings: Dict[str, float],
        inline: Optional[str] = None,
        *,
        stored: bool = False,
    ) -> None:
        self.outcome = outcome
        self.size = size
        self.sha256 = sha256
        self.python = python
        self.timings = timings
        self.inline = inline
        self.stored = stored

    def to_json(self) -> Dict[str, Any]:
        """Return the JSON object that stands for this document."""
        entries: Dict[str, Any] = {"protocol": PROTOCOL, **vars(self)}
        if self.inline is None:
            del entries["inline"]
        else:
            entries["encoding"] = INLINE_ENCODING
        if not self.stored:
            del entries["stored"]
        return entries


# Where one of these variables is set, Airflow inside an environment reads its own connections and variables.
AIRFLOW_SOURCES = (
    "AIRFLOW__CORE__SQL_ALCHEMY_CONN",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_SECRET",
    "AIRFLOW__SECRETS__BACKEND",
)
