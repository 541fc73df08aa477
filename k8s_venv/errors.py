"""What k8s-venv raises: each error says what is wrong, where, and what to do.

Every class keeps the facts it was made from, so that code can act on them without reading the text.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# User and password of a URL (RFC 3986, 3.2.1), also where the password holds a forgotten @.
CREDENTIALS = re.compile(r"(?<=://)[^\s/]*@")
_VARIABLES = re.compile(r"\$\{\w+\}(:\$\{\w+\})?@")
# Characters that are no text: controls, other ends of lines, those that change its direction (Unicode's Bidi_Control),
# and surrogates, which no file can hold.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]"
)
_COLOUR = re.compile(r"\x1b\[[\d;:]*m")  # ECMA-48's SGR
_NO_COLOUR = "\x1b[0m"
_GROUPS = re.compile(r"(?:::|##\[)(?=(?:end)?group(?:::|\]))")  # Airflow's pages fold what stands between these


class K8sVenvError(Exception):
    """Base of everything that k8s-venv raises on purpose."""


class ProjectError(K8sVenvError):
    """The project file, or a file that it names, is not usable.

    Args:
        problem: what is wrong and what to do, as sentences.
        path: the file at fault.
        line: the line in it, counted from 1, where it is known.
    """

    def __init__(self, problem: str, path: Path | None = None, line: int | None = None) -> None:
        self.problem = problem
        self.path = path
        self.line = line
        place = "" if path is None else f"{path}:{line}: " if line else f"{path}: "
        super().__init__(place + problem)


class UnknownEnvironmentError(ProjectError):
    """A name that the project does not declare.

    Args:
        name: the unknown name.
        known: the declared names.
        path: the project file.
    """

    def __init__(self, name: str, known: Iterable[str], path: Path) -> None:
        self.name = name
        self.known = sorted(known)
        declared = f"Declared: {', '.join(self.known)}." if self.known else "It declares none yet."
        hint = did_you_mean(name, self.known)
        super().__init__(f"There is no environment {name!r}.{hint} {declared}", path)


class LockError(K8sVenvError):
    """An environment could not be locked, or its lock does not fit.

    Args:
        environment: the environment's name.
        problem: what is wrong and what to do, as sentences; passwords in URLs are not shown.
    """

    def __init__(self, environment: str, problem: str) -> None:
        self.environment = environment
        self.problem = masked(problem)
        super().__init__(f"Environment {environment!r}: {self.problem}")


class StaleLockError(LockError):
    """An environment's requirements have changed since it was locked."""


class BuildError(K8sVenvError):
    """An environment could not be built.

    Args:
        environment: the environment's name.
        problem: what is wrong and what to do, as sentences.
        log: the last lines of what the builder printed, if that helps.
    """

    def __init__(self, environment: str, problem: str, log: str = "") -> None:
        self.environment = environment
        self.log = log
        super().__init__(f"Environment {environment!r}: {problem}" + (f"\n\n{log}" if log else ""))


class CallError(K8sVenvError):
    """A function, an argument or a result cannot travel.

    Args:
        problem: what is wrong and what to do, as sentences.
        path: the file of the function.
        line: the line in it, where it is known.
    """

    def __init__(self, problem: str, path: str | None = None, line: int | None = None) -> None:
        self.problem = visible(readable(problem))
        self.path = path
        self.line = line
        place = "" if path is None else f"{path}:{line}: " if line else f"{path}: "
        super().__init__(place + self.problem)


class SourceError(CallError):
    """A function that cannot travel as source, though it may by cloudpickle to the same version of Python."""


class BackendError(K8sVenvError):
    """A call could not be run, or ended without a result.

    Args:
        environment: the environment's name.
        problem: what is wrong and what to do, as sentences.
        exit_code: with which the call's process ended, where that is known.
    """

    def __init__(self, environment: str, problem: str, exit_code: int | None = None) -> None:
        self.environment = environment
        self.exit_code = exit_code
        super().__init__(f"Environment {environment!r}: {visible(problem)}")


class RemoteError(K8sVenvError):
    """A task's own exception whose type cannot be raised here.

    Args:
        kind: the exception type's full name.
        message: its text.
        arguments: what it was made from, or None where that could not travel.
        attributes: what else it held, by name, as far as that could travel.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        arguments: tuple[object, ...] | None = None,
        attributes: Mapping[str, object] | None = None,
    ) -> None:
        self.kind = visible(readable(kind))
        self.message = visible(message)
        self.arguments = arguments
        self.attributes = dict(attributes or {})
        super().__init__(f"{self.kind}: {self.message}" if message else self.kind)


def readable(text: str) -> str:
    """Return a text with the modules of DAG files named as their files, not as Airflow loads them.

    Args:
        text: a message.
    """
    return re.sub(r"\bunusual_prefix_[0-9a-f]+_(?=\w)", "", text)


def visible(text: str) -> str:
    """Return a text in which nothing hides, moves or imitates other text: such characters are escaped.

    Line feeds and tabs stay. For lines that a task prints there is ``visible_line``.

    Args:
        text: a message that a pod, or another machine, may have written.
    """
    shown = _HIDDEN.sub(_escaped, text.replace("\r\n", "\n"))
    return _GROUPS.sub(lambda found: f"\\x{ord(found[0][0]):x}{found[0][1:]}", shown)


def visible_line(text: str) -> str:
    """Return a line that a task printed as ``visible`` does, but with its colours and Airflow's ``::group::``.

    Args:
        text: the line.
    """
    shown = _HIDDEN.sub(lambda found: found[0] if _COLOUR.match(text, found.start()) else _escaped(found), text)
    return shown + _NO_COLOUR if _COLOUR.search(text) and not text.endswith(_NO_COLOUR) else shown


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def not_installed(package: str, extra: str) -> str:
    """Return that a package of an extra is missing, and how to install it."""
    return f"The package `{package}` is not installed here. Run: pip install 'k8s-venv[{extra}]'."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` where the name is a misspelling of a known one, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)  # below, it is another word
    return f" Did you mean {near[0]!r}?" if near else ""


def masked(text: str) -> str:
    """Return a text whose URLs show no user and no password; the names of variables in their place stay."""
    return CREDENTIALS.sub(lambda found: found[0] if _VARIABLES.fullmatch(found[0]) else "***@", text)


def without_credentials(text: str) -> str:
    """Return a text whose URLs have no user and no password."""
    return CREDENTIALS.sub("", text)
