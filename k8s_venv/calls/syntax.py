"""Find syntax that an older Python cannot parse, before anything starts.

Ruff knows in which version each construct came (``target-version``, from Python 3.7 on); the standard library's own
``ast.parse(…, feature_version=…)`` misses some. It runs once for a call, and only when the versions differ. A worker
without ruff leaves it to ``k8s-venv check``, and to the environment's Python, which refuses the same line.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Finding:
    """Syntax that a version lacks.

    Args:
        file: where it stands.
        line: its line, counted from 1.
        problem: what it is, as a sentence.
    """

    file: str
    line: int
    problem: str


def newer_syntax(slices: Iterable[tuple[str, int, str]], python: str) -> list[Finding]:
    """Return the syntax in pieces of source that a Python version cannot parse.

    Args:
        slices: each piece's file, first line and text; indentation may be kept.
        python: the minor version, such as ``3.8``.
    """
    if _version(python) >= sys.version_info[:2]:
        return []  # the sender's own parser has read it; newer ones read what older ones did
    lines: list[str] = []
    places: list[tuple[str, int]] = []
    for file, first, text in slices:
        prefix = ["if 1:\n"] if text[:1] in (" ", "\t") else []
        body = prefix + io.StringIO(text if text.endswith("\n") else text + "\n").readlines()
        lines += body
        places += [(file, first - len(prefix) + number) for number in range(len(body))]
    if not lines:
        return []
    findings = []
    for message in _ruff("".join(lines), python):
        line = message["location"]["row"]
        file, place = places[min(line, len(places)) - 1]
        findings.append(Finding(file, place, message["message"].rstrip(".")))
    return findings


def is_newer(python: str) -> bool:
    """Return whether a minor version is newer than this Python, which then may not know all of its syntax."""
    return _version(python) > sys.version_info[:2]


def _version(python: str) -> tuple[int, ...]:
    return tuple(int(part) for part in python.split("."))


def check_syntax(slices: Iterable[tuple[str, int, str]], python: str) -> None:
    """Refuse source that a Python version cannot parse.

    Args:
        slices: each piece's file, first line and text.
        python: the minor version, such as ``3.8``.

    Raises:
        CallError: there is some.
    """
    found = newer_syntax(slices, python)
    if found:
        first = found[0]
        raise CallError(
            f"{first.problem}; the environment runs Python {python}. Write it in the older way, or raise `python`.",
            first.file,
            first.line,
        )


@functools.lru_cache(maxsize=64)
def _ruff(source: str, python: str) -> list[dict[str, Any]]:
    try:
        from ruff.__main__ import find_ruff_bin
    except ModuleNotFoundError:
        return []
    command = [find_ruff_bin(), "check", "--isolated", "--no-cache", "--select", "E9", "--output-format", "json"]
    command += ["--target-version", f"py{python.replace('.', '')}", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode not in (0, 1):
        raise CallError(f"The syntax check failed: {done.stderr.strip()}")
    # A slice by itself can look wrong in other ways; this is what a version lacks.
    return [message for message in json.loads(done.stdout) if "(syntax was" in message["message"]]
