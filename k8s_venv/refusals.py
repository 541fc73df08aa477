"""Say in our words why uv could not resolve requirements."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k8s_venv.environment import Environment

_NOT_FOUND = re.compile(r"\b(\S+) was not found in the (?:package registry|provided package locations)")
_NO_WHEEL = re.compile(r"^hint: Wheels are required for `([^`]+)`.*$", re.MULTILINE)
_NO_MATCH = re.compile(r"\b([\w.-]+)(?:[=<>]=?[\w.*]+)? has no (?:usable )?wheels\b")
_NO_SOLUTION = "No solution found when resolving dependencies\n"
# uv also mentions missing wheels when versions without any were only some of those that it passed over.
_CONFLICT = re.compile(r"\bdepends? on\b")
_NOT_PARSED = re.compile(r"(?:Couldn't parse requirement|Invalid URL) in `([^`]+)` at position (\d+)(?:: .*)?\n\s*(.+)")
_NO_FOLDER = re.compile(r"Invalid URL in `([^`]+)` at position \d+: `?([^`\s]+)`?\n\s*relative URL")
_NOT_BUILT = re.compile(r"Failed to (?:build|download and build) `([^`]+)`\n")
_LOG_LINES = 20
_NOT_FETCHED = re.compile(r"Failed to fetch: `?([^`\s]+)`?\n(?:.*\n)*\s*(.+)")
_NOT_ALLOWED = re.compile(r"index URL \((\S+)\) could not be queried due to a lack of valid authentication")
# Names that Debian gives and the package index hardly ever: headers, libraries with their ABI's number, and tools.
_DEBIAN_NAME = re.compile(
    r"lib[a-z0-9.+-]*\d|.*-dev|build-essential|(openjdk|default|postgresql|mysql)-.*|unixodbc|g\+\+|gcc|make"
)


def explain(environment: Environment, platform: str, stdin: str, output: str) -> str:
    """Return why an environment's requirements cannot be resolved, and what to do.

    Args:
        environment: whose requirements.
        platform: for which platform.
        stdin: the requirements that uv read as standard input.
        output: what uv said.
    """
    place, output = environment.requirements_place, output.removeprefix(_NO_SOLUTION)
    if found := _NO_FOLDER.search(output):
        beside = "the project file" if found[1] == "-" else found[1]
        return f"there is no folder {found[2]!r} beside {beside}, which names it in --find-links."
    if found := _NOT_PARSED.search(output):
        return _not_parsed(environment, stdin, *found.groups())
    if refused := _NOT_ALLOWED.search(output):
        return _not_allowed(refused[1])
    if found := _NOT_BUILT.search(output):
        return _not_built(environment, found[1], output[found.end() :])
    if found := _NOT_FETCHED.search(output):
        if "401" in found[2] or "403" in found[2]:
            return _not_allowed(found[1])
        return f"the package index cannot be reached: {found[1]} ({found[2].strip()})."
    if names := sorted(set(_NOT_FOUND.findall(output))):
        return f"{_not_found(environment, names)}\n{output}"
    target = f"Python {environment.python} on {platform}"
    names = sorted({*_NO_WHEEL.findall(output), *_NO_MATCH.findall(output)})
    if names and not _CONFLICT.search(output):
        return (
            f"{', '.join(names)} in {place} has no wheel for {target}, and a lock takes nothing that would have to be "
            "compiled. Choose a version, or a Python, that has one; or let the image's build compile it, with "
            f'builder = "buildkit" in [environments.{environment.name}] and the Debian packages that it needs in '
            f"`packages`.\n{_NO_WHEEL.sub('', output).strip()}"
        )
    return f"{place} cannot be met for {target}:\n{_NO_WHEEL.sub('', output).rstrip()}"


def _not_built(environment: Environment, package: str, log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith("hint:")]
    return (
        f"{package} has no wheel, and says what it requires only when its build is begun, which failed here. Choose a "
        "version that has a wheel, or install what its build needs on this machine as well (the image gets it from "
        f"`packages` of [environments.{environment.name}]). The end of its log:\n" + "\n".join(lines[-_LOG_LINES:])
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
    sentence = f"the package index has no distribution {quoted}, which {environment.requirements_place} asks for."
    if not debian:
        return f"{sentence} Check the spelling."
    stanza = "packages = [" + ", ".join(f'"{name}"' for name in debian) + "]"
    return f"{sentence} Debian packages belong in `packages` of [environments.{environment.name}]: {stanza}."


def _not_parsed(environment: Environment, stdin: str, file: str, position: str, reason: str) -> str:
    """Name the line for the offset in bytes that uv gives."""
    data = stdin.encode() if file == "-" else (environment.root / file).read_bytes()
    number = data[: int(position)].count(b"\n")
    line = data.splitlines()[number].decode("utf-8", "replace").strip()
    where = environment.requirements_place if file == "-" else f"{file}:{number + 1}"
    return f"{line!r} in {where} is not a requirement: {reason[0].lower()}{reason[1:].strip()}."
