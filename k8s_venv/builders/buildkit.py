"""Build an environment's image with BuildKit (``docker buildx``): the command, its secrets, and its log."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.resources
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections import defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

from k8s_venv.builders.base import base_reference, missing_base, missing_packages_of_base, wrong_python
from k8s_venv.builders.engine import connect, emulation, find_buildx
from k8s_venv.builders.layer_builder import image_labels
from k8s_venv.builders.oci import read_layout, read_saved
from k8s_venv.errors import BuildError, did_you_mean, masked, without_credentials
from k8s_venv.locks import uv
from k8s_venv.locks.uv_errors import missing_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from docker.models.images import Image as EngineImage

    from k8s_venv.builders.oci import Image
    from k8s_venv.builders.plan import Step
    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.lockfile import Lock

# Where the template takes an environment's own lines.
_LINES = "# (the environment's own lines)"
_GRACE = 10.0  # seconds that a build gets to end by itself


class BuildKit:
    """Builds images, several at once from several threads, until it is stopped."""

    def __init__(self) -> None:
        self._stopped = False
        self._running: set[subprocess.Popen[str]] = set()

    def build(self, step: Step, destination: Literal["push", "load"], progress: Callable[[str], None]) -> None:
        """Build an image and bring it to its destination, or leave that as it was.

        Args:
            step: what to build.
            destination: the registry, or Docker Engine, which gets its own of several platforms.
            progress: is called with the name of each step of the build.

        Raises:
            BuildError: BuildKit failed; its last lines are in the error.
        """
        platforms = step.environment.image_platforms
        if destination == "load" and len(platforms) > 1:
            own = find_buildx().engine
            platforms = (own,) if own in platforms else platforms
        self._build(step, platforms, [f"--{destination}", "--tag", step.reference], progress)

    def export(self, step: Step, folder: Path, progress: Callable[[str], None]) -> list[Image]:
        """Build an image, and return it for each platform, with its layers in a folder.

        Args:
            step: what to build.
            folder: an empty folder.
            progress: is called with the name of each step of the build.

        Raises:
            BuildError: BuildKit failed; its last lines are in the error.
        """
        platforms = step.environment.image_platforms
        if find_buildx().exports:
            self._build(step, platforms, [f"--output=type=oci,tar=false,dest={folder / 'image'}"], progress)
            return read_layout(folder / "image")
        # The engine's own builder writes no archive, but the engine does.
        tag = f"k8s-venv-output:{uuid.uuid4().hex}"
        self._build(step, platforms, ["--load", "--tag", tag], progress)
        progress("reading the image")
        with contextlib.closing(connect()) as client:
            try:
                self._save(client.images.get(tag), step.environment, folder / "saved.tar")
            finally:
                client.images.remove(tag)
        return read_saved(folder / "saved.tar", folder / "image")

    def stop(self) -> None:
        """End the builds that run, and start no others."""
        self._stopped = True
        running = tuple(self._running)
        for process in running:
            _signal(process, signal.SIGTERM)
        for process in running:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:  # the engine does not answer; it ends a build that no client waits for
                _signal(process, signal.SIGKILL)

    def _save(self, image: EngineImage, environment: Environment, path: Path) -> None:
        with path.open("wb") as stream:
            for chunk in image.save():
                if self._stopped:
                    raise BuildError(environment.name, "its build was interrupted.")
                stream.write(chunk)

    def _build(self, step: Step, platforms: Sequence[str], output: list[str], progress: Callable[[str], None]) -> None:
        log, secrets = BuildLog(), Secrets(step.environment, step.lock.indexes)
        with tempfile.TemporaryDirectory(prefix="k8s-venv-build-") as name:
            folder = Path(name)
            _write_context(step.environment, step.lock, folder / "context")
            command = [
                *("docker", "buildx", "build", "--progress", "plain", "--provenance", "false"),
                *("--platform", ",".join(platforms), *output),
                *_arguments(step.environment, step.lock),
                *secrets.options(folder),
                str(folder / "context"),
            ]
            succeeded = self._run(command, log, progress)
        if not succeeded:
            raise log.error(step, secrets.own_addresses)

    def _run(self, command: list[str], log: BuildLog, progress: Callable[[str], None]) -> bool:
        """Run buildx, and return whether it succeeded."""
        if self._stopped:
            return False
        now = ""
        # A session of its own, so that Ctrl-C reaches it through `stop` alone.
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process:
            self._running.add(process)
            if self._stopped:  # between the first look and now
                _signal(process, signal.SIGTERM)
            assert process.stdout is not None  # noqa: S101 -- it is a pipe
            for line in process.stdout:
                step = log.read(line) or now
                if step != now:
                    progress(step)
                now = step
        self._running.discard(process)
        return process.returncode == 0


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to `docker` and to its plugin, which does the work."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _write_context(environment: Environment, lock: Lock, context: Path) -> None:
    """Write what BuildKit gets: the Dockerfile, the lock, and the local wheels in it."""
    context.mkdir()
    shutil.copy(lock.path, context / "pylock.toml")
    for file in lock.local_files:
        (context / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(environment.root / file, context / file)
    builders, locks = (importlib.resources.files(f"k8s_venv.{package}") for package in ("builders", "locks"))
    for script in (builders / "_lacking.py", locks / "installed.py"):
        (context / script.name).write_text(script.read_text("utf-8"), "utf-8")
    template = (builders / "Dockerfile").read_text("utf-8")
    (context / "Dockerfile").write_text(template.replace(_LINES, "\n".join(environment.dockerfile)), "utf-8")


def _arguments(environment: Environment, lock: Lock) -> list[str]:
    base = base_reference(environment, lock.base_digest)
    official = environment.model_copy(update={"base": None})
    arguments = {
        "BASE": base,
        "PYTHON": environment.python,
        # A base without the wanted Python gets this image's; BuildKit pulls it only then.
        "PYTHON_IMAGE": base_reference(official) if environment.base else base,
        "PACKAGES": " ".join(sorted(environment.packages)),
        "BUILD_PACKAGES": "build-essential" if any(package.sdist for package in lock.packages) else "",
        "UV_VERSION": importlib.metadata.version("uv"),
        "VENV_OPTIONS": "--system-site-packages" if environment.system_site_packages else "",
        "SYSTEM_PACKAGES": " ".join(lock.system or ()),
    }
    return [
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *(f"--label={name}={value}" for name, value in image_labels(environment, lock).items()),
    ]


# What a build needs to reach package indexes. BuildKit keeps secret mounts in no layer, no cache, no history and no
# provenance; they are there for single lines of the Dockerfile (https://docs.docker.com/build/building/secrets/).

_LARGEST = 500_000  # bytes; BuildKit takes no larger secret
_PROXIES = re.compile(r"(HTTP|HTTPS|ALL|NO)_PROXY", re.IGNORECASE)
_LOCAL_HOST = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1|0\.0\.0\.0")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# A URL with a user and without a password, which a keyring may know.
_USER_ALONE = re.compile(r"(https?://)([^\s/:@,]+)@([^\s,]+)")
_KEYRING_TIMEOUT = 60  # seconds; a keyring may ask its user


class Secrets:
    """The indexes, passwords, certificates and proxies of one environment's build.

    Args:
        environment: what is built.
        indexes: uv's variables for the indexes that its requirements name.
    """

    def __init__(self, environment: Environment, indexes: Mapping[str, str]) -> None:
        self._environment = environment
        self._settings = uv.environ(indexes)
        self._indexes = uv.index_variables(self._settings)
        self._proxies = {name: value for name, value in self._settings.items() if _PROXIES.fullmatch(name) and value}

    @property
    def own_addresses(self) -> list[str]:
        """Return the indexes and proxies that only this machine reaches, without passwords."""
        proxies = [value for name, value in self._proxies.items() if name.upper() != "NO_PROXY"]
        indexes = [url for value in self._indexes.values() for url in re.findall(r"https?://[^\s,]+", value)]
        return sorted({without_credentials(url) for url in [*indexes, *proxies] if _is_local(url)})

    def options(self, folder: Path) -> list[str]:
        """Write the secrets that are not files yet, readable for this user alone, and return buildx's options.

        Args:
            folder: a folder of this user's own.

        Raises:
            BuildError: one is too large for BuildKit.
        """
        keyring = shutil.which("keyring")
        indexes = {name: _with_passwords(value, keyring) if keyring else value for name, value in self._indexes.items()}
        # A container has a `localhost` of its own. Apt reads lower case, others upper case.
        proxies = {name: value for name, value in self._proxies.items() if not _is_local(value)}
        proxies = {each: value for name, value in proxies.items() for each in (name.upper(), name.lower())}
        files = {
            "indexes": _written(folder / "indexes", _exports({**indexes, **_for_pip(indexes)})),
            "proxies": _written(folder / "proxies", _exports(proxies)),
            "netrc": Path(os.environ.get("NETRC") or Path.home() / ".netrc"),
            "certificates": _written(folder / "certificates", _certificates(self._settings)),
            "client-certificate": Path(self._settings.get("SSL_CLIENT_CERT", "")),
        }
        files = {name: path for name, path in files.items() if path.is_file() and path.stat().st_size}
        for name, path in files.items():
            if path.stat().st_size > _LARGEST:
                raise BuildError(
                    self._environment.name,
                    f"its {name} ({path}) is larger than the {_LARGEST // 1000} kB that BuildKit hands to a build.",
                )
        return [f"--secret=id={name},src={path}" for name, path in files.items()]


def _is_local(url: str) -> bool:
    host = urlsplit(url if "://" in url else f"http://{url}").hostname or ""
    return _LOCAL_HOST.fullmatch(host) is not None


def _with_passwords(urls: str, keyring: str) -> str:
    """Return URLs with the passwords of a keyring, which is not in a build's container; uv asks it in the same way."""

    def complete(url: re.Match[str]) -> str:
        scheme, user, rest = url.groups()
        for service in (f"{scheme}{rest}", rest.partition("/")[0]):
            answer = subprocess.run(
                [keyring, "get", service, user],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_KEYRING_TIMEOUT,
            )
            if password := answer.stdout.strip("\r\n"):
                return f"{scheme}{user}:{quote(password, safe='')}@{rest}"
        return url[0]

    return _USER_ALONE.sub(complete, urls)


def _for_pip(indexes: Mapping[str, str]) -> dict[str, str]:
    """Return the indexes for pip, which installs uv; pip knows no names for them (``name=https://…``)."""
    default = indexes.get("UV_DEFAULT_INDEX") or indexes.get("UV_INDEX_URL") or ""
    extra = indexes.get("UV_INDEX") or indexes.get("UV_EXTRA_INDEX_URL") or ""
    hosts = indexes.get("UV_INSECURE_HOST") or ""
    settings = {"PIP_INDEX_URL": default, "PIP_EXTRA_INDEX_URL": extra, "PIP_TRUSTED_HOST": hosts}
    return {name: re.sub(r"(^|\s)[\w-]+=(?=https?://)", r"\1", value) for name, value in settings.items() if value}


def _certificates(settings: Mapping[str, str]) -> str:
    """Return the certificates that OpenSSL's variables name, each once; a folder has most under several names."""
    folders = [Path(folder) for folder in settings.get("SSL_CERT_DIR", "").split(os.pathsep) if folder]
    files = [
        Path(settings.get("SSL_CERT_FILE", "")),
        *(path for folder in folders for path in sorted(folder.glob("*"))),
    ]
    texts = [path.read_text("utf-8", "replace") for path in files if path.is_file()]
    found = dict.fromkeys(certificate for text in texts for certificate in _CERTIFICATE.findall(text))
    return "".join(f"{certificate}\n" for certificate in found)


def _exports(variables: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _written(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text, "utf-8")
    return path


# What BuildKit prints (``--progress plain``): how far a build is, and why it failed.

_KEPT = 200  # lines of each step
_SHOWN = 25
# The step of a line that has one of these texts in it.
_STEPS = {
    "] FROM ": "pulling the base image",
    "sys.version_info": "checking the base image's Python",
    "cp -a /python": "looking for Python",
    "apt-get install": "Debian packages",
    "compileall": "compiling the standard library",
    "pip install --quiet": "getting uv",
    "uv pip sync": "installing the locked packages",
    "] COPY --from=build": "assembling the image",
    "exporting layers": "exporting layers",
    " pushing ": "pushing",
}
_LINE = re.compile(r"#(\d+) (?:\d+\.\d+ )?(.*)")
_FAILED = re.compile(r"^#(\d+) ERROR: (?!.*context canceled)", re.MULTILINE)
# The template's commands, which are long.
_COMMAND = re.compile(r"ERROR: (executor failed running|process \"/bin/sh)|\[build +\d+/\d+\] ")
_WRONG_PYTHON = re.compile(r"The base image has Python [\d.]+ instead of [\d.]+\.")
_MISSING_OF_BASE = re.compile(r"^The base image lacks (.+)\.$", re.MULTILINE)
_BASE_NOT_READ = re.compile(r"^#(\d+) \[internal\] load metadata for (?:.*\n)*?#\1 ERROR: (.+)", re.MULTILINE)
_DEBIAN_HAS = re.compile(r"Debian has: (.*)")  # as the template prints it
_DISK_FULL = re.compile(r"no space left on device", re.IGNORECASE)
_NOT_RUNNABLE = re.compile(r"exec format error|exec /bin/sh: no such file", re.IGNORECASE)
_ENGINE_GONE = re.compile(
    r"^ERROR: .*(code = Unavailable|error reading from server|Cannot connect to the Docker daemon|closed network "
    r"connection|connection reset|connection refused|\bEOF\b)",
    re.MULTILINE,
)
_NO_CONNECTION = re.compile(r"tcp connect error|Connection refused|dns error|timed out", re.IGNORECASE)
_NOT_FETCHED = re.compile(
    r"Failed to fetch: `?([^`\s]+)`?(?:(?!Failed to fetch)[\s\S])*?"
    r"(dns error|tcp connect error|Connection refused|timed out|certificate|unauthorized|\b40[13]\b)",
    re.IGNORECASE,
)


class BuildLog:
    """Reads the lines of one build."""

    def __init__(self) -> None:
        self._steps: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._last: deque[str] = deque(maxlen=_KEPT)

    def read(self, line: str) -> str | None:
        """Take a line, and return the name of its step, if the line tells it.

        Args:
            line: a line of BuildKit's output.
        """
        if line.strip():
            self._last.append(line.rstrip())
        if found := _LINE.match(line):
            self._steps[found[1]].append(found[2].rstrip())
        return next((text for mark, text in _STEPS.items() if mark in line), None)

    def error(self, step: Step, own_addresses: Sequence[str] = ()) -> BuildError:
        """Return why a build failed, with its last lines if they help.

        Args:
            step: what was built.
            own_addresses: the indexes and proxies of the build that only this machine reaches.
        """
        environment, text = step.environment, "\n".join(self._last)
        failed = _FAILED.search(text)
        errors = [line for line in self._last if line.startswith("ERROR: ")]
        output = "\n".join(self._steps[failed[1]] if failed else errors or self._last)
        if problem := _base_fault(step, text, output) or _debian_fault(environment, output):
            return BuildError(environment.name, masked(problem))
        problem = (
            _push_fault(step, text)
            or _engine_fault(environment, text, output)
            or _package_fault(environment, output, own_addresses)
            or "its image could not be built."
        )
        lines = [line for line in output.splitlines() if line.strip() and not _COMMAND.match(line)]
        shown = "\n".join(lines[-_SHOWN:])
        return BuildError(environment.name, masked(f"{problem} The last lines of the build:"), masked(shown))


# Of each: the text of the whole build, and the output of the step that failed.


def _base_fault(step: Step, text: str, output: str) -> str:
    if wrong := _WRONG_PYTHON.search(output):
        return wrong_python(step.environment, wrong[0])
    if missing := _MISSING_OF_BASE.search(output):
        return missing_packages_of_base(step.environment, missing[1])
    if unread := _BASE_NOT_READ.search(text):
        return missing_base(step.environment, step.lock.base_digest, unread[2])
    return ""


def _debian_fault(environment: Environment, output: str) -> str:
    place = f"`packages` of [environments.{environment.name}]"
    if missing := re.search(r"E: Unable to locate package (\S+)", output):
        known = _DEBIAN_HAS.search(output)
        near = did_you_mean(missing[1], known[1].split() if known else ())
        return f"there is no Debian package {missing[1]!r}.{near} Check {place}."
    if missing := re.search(r"E: Version '(\S+)' for '(\S+)' was not found", output):
        return (
            f"there is no version {missing[1]!r} of the Debian package {missing[2]!r}; Debian removes old ones. "
            f"Check {place}."
        )
    return ""


def _push_fault(step: Step, text: str) -> str:
    pushing = re.search(r"^ > pushing |failed to push", text, re.MULTILINE)
    return f"its image could not be pushed as {step.reference}." if pushing else ""


def _engine_fault(environment: Environment, text: str, output: str) -> str:
    if _DISK_FULL.search(text):
        return (
            "there is no space left where Docker Engine builds. `docker system df` shows what takes it, `docker "
            "builder prune` and `docker image prune` free some."
        )
    if _NOT_RUNNABLE.search(output):
        return f"the builder cannot run every platform. {emulation(environment.image_platforms)}"
    if _ENGINE_GONE.search(text):
        return "Docker Engine ended, or the connection to it. Start it, and build again: what was finished is kept."
    return ""


def _package_fault(environment: Environment, output: str, own_addresses: Sequence[str]) -> str:
    """Return which locked package could not be downloaded or compiled, and what to do."""
    if failed := uv.failed_build(output):
        package, log = failed
        place = f"[environments.{environment.name}]"
        missing = missing_packages(log)
        listed = ", ".join(f'"{each}"' for each in [*environment.packages, *missing])
        remedy = (
            f"Debian has what it lacks: packages = [{listed}] in {place}."
            if missing
            else f"Add the Debian packages that it needs to `packages` of {place}."
        )
        return f"{package} has no wheel, and could not be compiled. {remedy}"
    if own_addresses and _NO_CONNECTION.search(output):
        return (
            f"a build's container cannot reach {' and '.join(own_addresses)}, which is an address of this machine "
            "alone. Use an address of the network."
        )
    if found := _NOT_FETCHED.search(output):
        return f"a build's container cannot download its packages: {found[1]} ({found[2]})."
    return ""
