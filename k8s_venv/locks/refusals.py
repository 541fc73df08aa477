"""Why uv could not resolve requirements, in our words."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from k8s_venv.locks import uv
from k8s_venv.locks.debian import missing_packages
from k8s_venv.locks.requirements import in_python, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.requirements import Line
    from k8s_venv.locks.uvinput import UvInput

    # What uv read, by the name that it calls each file.
    Given = Mapping[str, UvInput]

_NOT_FOUND = re.compile(r"\b(\S+) was not found in the (?:package registry|provided package locations)")
_NO_FILES = re.compile(r"\bthere are no versions of (\S+) and")
_NO_WHEEL = re.compile(r"^hint: Wheels are required for `([^`]+)`.*$", re.MULTILINE)
_NO_MATCH = re.compile(r"\b([\w.-]+)(?:\[[^\]]*\])?(?:[=<>]=?[\w.*]+)? has no (?:usable )?wheels\b")
_NO_SOLUTION = "No solution found when resolving dependencies\n"
# uv also mentions missing wheels when versions without any were only some of those that it passed over.
_CONFLICT = re.compile(r"\bdepends? on\b")
_NOT_PARSED = re.compile(
    r"(?:Couldn't parse requirement|Invalid URL) in `([^`]+)` at position (\d+)(?:: .*)?\n\s*((?:.|\n)+?)\s*(?:\n\n|\Z)"
)
_NOT_READ = re.compile(r"^(.+): (\S+):(\d+):\d+$", re.MULTILINE)
_NO_FOLDER = re.compile(r"Invalid URL in `([^`]+)` at position (\d+): `?([^`\s]+)`?\n\s*relative URL")
_LOG_LINES = 20
_NOT_FETCHED = re.compile(r"Failed to fetch: `?([^`\s]+)`?\n(?:.*\n)*\s*(.+)")
_NOT_ALLOWED = re.compile(r"index URL \((\S+)\) could not be queried due to a lack of valid authentication")
_FORBIDDEN = re.compile(r"An index \((\S+)\) returned a 403 Forbidden error")
_NO_INDEX = re.compile(r"invalid value '([^']*)' for '--(?:default-|extra-)?index\S* .*': (.+)")
_NO_ANSWER = re.compile(r"Unsupported `Content-Type`|Missing `Content-Type`|Received some unexpected (?:JSON|HTML)")
_NOT_REMOTE = re.compile(r"Error while accessing remote requirements file: (\S+)((?:\n .*)*)")
_NO_FILE = re.compile(r"Distribution not found at: file://(\S+)")
_LONGEST_LINE = 1000  # characters
# Names that Debian gives and the package index hardly ever: headers, libraries with their ABI's number, and tools.
_DEBIAN_NAME = re.compile(
    r"lib[a-z0-9.+-]*\d|.*-dev|build-essential|(openjdk|default|postgresql|mysql)-.*|unixodbc|g\+\+|gcc|make"
)


def explain(environment: Environment, platform: str, given: Given, output: str) -> str:
    """Return why an environment's requirements cannot be resolved, and what to do.

    Args:
        environment: whose requirements.
        platform: for which platform.
        given: what uv read.
        output: what uv said.
    """
    unsolved, output = output.startswith(_NO_SOLUTION), _printable(output.removeprefix(_NO_SOLUTION))
    output = output.replace("`--python-version` value", "`python`")  # as the project file calls it
    said = _file_fault(environment, given, output) or _index_fault(output)
    if said:
        return said
    if failed := uv.failed_build(output):
        return _not_built(environment, *failed)
    if names := sorted(set(_NOT_FOUND.findall(output))):
        return f"{_not_found(environment, names)}\n{output}"
    if empty := _NO_FILES.search(output):
        return (
            f"the package index lists no file of {empty[1]!r}, which {place_of(environment, empty[1])} asks for. Is "
            "this an index's URL (they often end in /simple), and is its page no page to log in?"
        )
    target = f"Python {environment.python} on {platform}"
    names = packages_without_wheels(output)
    if names and not _CONFLICT.search(output):
        place = place_of(environment, names[0]) if len(names) == 1 else environment.requirements_place
        return (
            f"{', '.join(names)} in {place} has no wheel for {target}, and a lock takes nothing that would have to "
            "be compiled. Choose a version, or a Python, that has one; or, if it supports this Python, let the image's "
            f'build compile it, with builder = "buildkit" in [environments.{environment.name}] and the Debian packages '
            f"that it needs in `packages`.\n{_NO_WHEEL.sub('', output).strip()}"
        )
    verb = "met" if unsolved else "locked"
    said = f"{environment.requirements_place} cannot be {verb} for {target}:\n{_NO_WHEEL.sub('', output).rstrip()}"
    if unbuilt := sorted(set(_NO_MATCH.findall(output))):
        said += (
            f'\nIf {", ".join(unbuilt)} may be compiled: builder = "buildkit" in [environments.{environment.name}] '
            "lets the image's build do it."
        )
    return said


def packages_without_wheels(output: str) -> list[str]:
    """Return the packages of which uv says that they have no wheels for what was asked.

    Args:
        output: what uv said.
    """
    return sorted({*_NO_WHEEL.findall(output), *_NO_MATCH.findall(output)})


def _printable(text: str) -> str:
    """Return what uv said without what an index or a file could do to a terminal, and without endless lines."""
    lines = ["".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line) for line in text.split("\n")]
    return "\n".join(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…" for line in lines)


def _file_fault(environment: Environment, given: Given, output: str) -> str | None:
    """Return what is wrong in the files, or None where it is something else."""
    place = environment.requirements_place
    if found := _NO_FOLDER.search(output):
        line = given[found[1]].line_at_byte(int(found[2])) if found[1] in given else None
        return f"there is no folder {found[3]!r}, which {line.place if line else found[1]} names."
    if found := _NOT_PARSED.search(output):
        file, position, reason = found.groups()
        line = given[file].line_at_byte(int(position)) if file in given else None
        return _not_requirement(file, line, reason)
    if found := _NOT_READ.search(output):
        reason, file, number = found.groups()
        line = given[file].line_at(int(number)) if file in given else None
        return _not_requirement(file, line, reason)
    if found := _NOT_REMOTE.search(output):
        reason = found[2].strip().rpartition("\n")[2].strip() or "it answers with an error"
        return f"the file {found[1]} cannot be fetched: {reason}."
    if found := _NO_FILE.search(output):
        return f"there is no file {found[1]}, which {place} asks for."
    return None


def _index_fault(output: str) -> str | None:
    """Return what is wrong with an index, or None where it is something else."""
    if refused := _NOT_ALLOWED.search(output) or _FORBIDDEN.search(output):
        return _not_allowed(refused[1])
    if found := _NOT_FETCHED.search(output):
        url, reason = found[1], re.sub(r" for url \(.*?\)", "", found[2].strip())
        if "401" in reason or "403" in reason:
            return _not_allowed(url)
        if "invalid peer certificate" in reason:
            reason += "; the file with your authority's certificate goes into SSL_CERT_FILE or PIP_CERT"
        what = "there is no such file" if "(404" in reason else "the package index cannot be reached"
        return f"{what}: {url} ({reason})."
    if found := _NO_INDEX.search(output):
        return f"{found[1]!r}, from the variables of uv or pip, or from pip.conf, is no package index: {found[2]}."
    if _NO_ANSWER.search(output):
        return (
            f"the package index does not answer as one: {output.strip()}\nIs this its URL? They often end in /simple."
        )
    return None


def _not_built(environment: Environment, package: str, log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith("hint:")]
    debian = ", ".join(missing_packages(log))
    return (
        f"{package} has no wheel, and says what it requires only when its build is begun, which failed here. Choose a "
        f"version that has a wheel, or install what its build needs{debian and f' ({debian})'} on this machine as well "
        f"(the image gets it from `packages` of [environments.{environment.name}]). The end of its log:\n"
        + "\n".join(lines[-_LOG_LINES:])
    )


def _not_allowed(url: str) -> str:
    host = re.sub(r"^\w+://([^/]+).*", r"\1", url)
    return (
        f"the package index {url} refused the user and password, or got none. Give them where pip finds them as well: "
        f"in ~/.netrc (machine {host.partition(':')[0]}), in keyring, in UV_INDEX_URL or PIP_INDEX_URL, or as "
        "https://${USER}:${PASSWORD}@… among the requirements, with both variables set."
    )


def _not_found(environment: Environment, names: list[str]) -> str:
    debian = [name for name in names if _DEBIAN_NAME.fullmatch(name)]
    quoted = ", ".join(repr(name) for name in names)
    sentence = f"the package index has no distribution {quoted}, which {place_of(environment, names[0])} asks for."
    table = f"[environments.{environment.name}]"
    if debian:
        stanza = "packages = [" + ", ".join(f'"{name}"' for name in debian) + "]"
        return f"{sentence} Debian packages belong in `packages` of {table}: {stanza}."
    if names == ["python"]:
        return f"{sentence} The Python version belongs in `python` of {table}."
    if in_python(names[0], environment.python):
        return f"{sentence} It is a module of Python itself: leave the line out."
    return f"{sentence} Check the spelling; a module's package may have another name."


def _not_requirement(file: str, line: Line | None, reason: str) -> str:
    """Name a line that uv cannot read; of a file at a URL, the file."""
    reason = reason.partition("\n")[0].strip()
    reason = f"{reason[0].lower()}{reason[1:]}"
    if line is None:
        return f"a line of {file} is not a requirement: {reason}."
    shown = line.text if len(line.text) <= _LONGEST_LINE else f"{line.text[:_LONGEST_LINE]}…"
    named = [sign for sign in line.text if not sign.isascii() and (sign in reason or not sign.isprintable())]
    strange = [unicodedata.name(sign, "") or f"U+{ord(sign):04X}" for sign in named]
    hint = f" ({', '.join(dict.fromkeys(strange))})" if strange else ""
    return f"{shown!r} in {line.place} is not a requirement: {reason}{hint}."
