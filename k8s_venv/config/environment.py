"""A named environment: what it is made of, and the image reference that follows from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from k8s_venv.config import PLATFORMS
from k8s_venv.config.value_settings import CallSettings, ValueSettings, refused_call_setting, refused_setting
from k8s_venv.config.warm import WarmPool
from k8s_venv.errors import K8sVenvError, did_you_mean

OLDEST_PYTHON = (3, 8)
# What PEP 751 allows in a lock's file name, an image's repository and a label of Kubernetes alike.
NAME = re.compile(r"(?!.{64})[a-z0-9]+(?:(?:_{1,2}|-+)[a-z0-9]+)*")
_IMAGE = re.compile(r"[A-Za-z0-9][\w.:/@-]*")
DEBIAN_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(?:=[\w.+:~-]+)?")


def python_version(value: object) -> str:
    """Return a minor version such as ``3.12`` that calls can run on.

    Raises:
        ValueError: it is not a version that calls can run on; the text continues "Python …".
    """
    if isinstance(value, float | int):
        raise ValueError('must be text in quotes, such as python = "3.12" (without them, 3.10 would read as 3.1)')
    if not isinstance(value, str) or not re.fullmatch(r"\d+\.\d+", value):
        raise ValueError(f'must be a minor version such as "3.12", not {value!r}')
    major, minor = (int(part) for part in value.split("."))
    if (major, minor) < OLDEST_PYTHON or major != 3:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise ValueError(f"must be {oldest} or a newer Python 3, since calls cannot run on {value}")
    return value


def file_patterns(given: object) -> tuple[str, ...]:
    """Return the patterns of data files that a task or an environment gives.

    Raises:
        ValueError: they are no patterns of files in the project's folder; the text continues "files …".
    """
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(each, str) for each in given):
        raise ValueError(f'must be a list of patterns, such as files = ["sql/*.sql", "dbt/**"], not {given!r}')
    for pattern in given:
        parts = PurePosixPath(pattern)
        if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\\" in pattern:
            raise ValueError(f"{pattern!r} is not a path from the folder of the project file, such as sql/*.sql")
        if any("**" in part and part != "**" for part in parts.parts):
            raise ValueError(
                f"{pattern!r} has ** beside other characters; write it alone between slashes, as in dbt/**"
            )
    return tuple(given)


class Environment(BaseModel):
    """A Python version, its packages, and how its pods look by default.

    Args:
        name: the key under ``[environments]``.
        root: the folder of the project file, from which paths are meant.
        python: the minor version, such as ``3.12``.
        requirements: a requirements file's path, a list of requirements, or None for the bare Python.
        constraints: the path or URL of a constraints file, which limits versions without asking for packages.
        platforms: where the locked packages can be installed, such as ``linux/arm64``.
        packages: Debian packages of the image.
        dockerfile: lines of a Dockerfile for the image, such as ``RUN …``, after its Debian packages.
        builder: what makes the image; by default ``layers`` if wheels suffice. With ``buildkit``, packages without
            wheels are compiled in the image's build.
        base: the image to build on, with Debian and this Python in it; by default the official slim one.
        image: an existing image to use instead of a built one.
        interpreter: the path of an existing Python, which the local backend uses as it is.
        system_site_packages: whether it sees packages that are there already, which its lock then leaves out: those of
            `base`, if it names one, else those of the interpreter here.
        pod: options of ``KubernetesPodOperator`` for this environment's pods, over the project's; a task's own win.
        values: how arguments and results travel; a task's own settings win.
        calls: which calls are kept; a task's own choice wins.
        transport: how functions travel unless the task chooses; ``cloudpickle`` only between equal minor versions.
        files: data files that travel with its calls, as patterns from the project's folder; a task may add more.
        warm: the pods that wait for its calls on Kubernetes, or None if each call gets a pod of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field(exclude=True)
    root: Path = Field(exclude=True)
    python: Annotated[str, BeforeValidator(python_version)]
    requirements: str | tuple[str, ...] | None = None
    constraints: str | None = None
    platforms: tuple[str, ...] = PLATFORMS[:1]
    packages: tuple[str, ...] = ()
    dockerfile: tuple[str, ...] = ()
    builder: Literal["layers", "buildkit"] | None = None
    base: str | None = None
    image: str | None = None
    interpreter: str | None = None
    system_site_packages: bool = Field(default=False, alias="system-site-packages", strict=True)
    pod: Mapping[str, Any] = Field(default_factory=dict)
    values: ValueSettings = Field(default_factory=ValueSettings)
    calls: CallSettings = Field(default_factory=CallSettings)
    transport: Literal["source", "cloudpickle"] | None = None
    files: tuple[str, ...] = ()
    warm: WarmPool | None = None

    @field_validator("values")
    @classmethod
    def _possible(cls, values: ValueSettings) -> ValueSettings:
        if not (values.exec or values.status or values.location):
            raise ValueError(
                "with exec = false and status = false no result can come back: name a `location`, or allow one of them"
            )
        return values

    @field_validator("warm")
    @classmethod
    def _by_exec(cls, warm: WarmPool | None, info: ValidationInfo) -> WarmPool | None:
        values = info.data.get("values")
        if warm is not None and values is not None and not values.exec:
            raise ValueError(
                "waiting pods get their calls through pods/exec, which exec = false forbids. Leave one out"
            )
        return warm

    @field_validator("calls")
    @classmethod
    def _kept_somewhere(cls, calls: CallSettings, info: ValidationInfo) -> CallSettings:
        values = info.data.get("values")
        if calls.keep != "never" and values is not None and values.location is None:
            raise ValueError(f'keep = "{calls.keep}" needs a place for the calls: name a `location` under [values]')
        return calls

    @field_validator("files")
    @classmethod
    def _inside_the_project(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        return file_patterns(files)

    @field_validator("packages")
    @classmethod
    def _debian_packages(cls, packages: tuple[str, ...]) -> tuple[str, ...]:
        for package in packages:
            if not DEBIAN_PACKAGE.fullmatch(package):
                raise ValueError(f"{package!r} is not a Debian package's name, such as libpq5 or libpq5=15.8-0+deb12u1")
        return packages

    @field_validator("base")
    @classmethod
    def _image_name(cls, base: str | None) -> str | None:
        if base is not None and not _IMAGE.fullmatch(base):
            raise ValueError(f"{base!r} is not the name of an image, such as python:3.12-slim")
        return base

    @field_validator("system_site_packages")
    @classmethod
    def _not_with_an_interpreter(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("interpreter") is not None:
            raise ValueError("has no meaning with `interpreter`, which is used as it is. Leave one of them out")
        return value

    @field_validator("platforms")
    @classmethod
    def _known_platforms(cls, platforms: tuple[str, ...]) -> tuple[str, ...]:
        for platform in platforms:
            if platform not in PLATFORMS:
                hint = did_you_mean(platform, PLATFORMS)
                raise ValueError(f"{platform!r} is not a platform.{hint} Known: {', '.join(PLATFORMS)}")
        if not any(platform.startswith("linux/") for platform in platforms):
            raise ValueError('must name one that images run on, such as platforms = ["linux/amd64", "macos/arm64"]')
        return tuple(sorted(set(platforms)))

    @property
    def image_platforms(self) -> tuple[str, ...]:
        """Return the platforms that the image is made for: those of Linux."""
        return tuple(platform for platform in self.platforms if platform.startswith("linux/"))

    @property
    def constraints_file(self) -> Path | None:
        """Return the constraints file's path, if there is one and it has no URL."""
        if self.constraints is None or "://" in self.constraints:
            return None
        return self.root / self.constraints

    def with_values(self, given: Mapping[str, Any]) -> Environment:
        """Return the same environment with a task's own settings for values.

        Args:
            given: the settings that the task names.

        Raises:
            K8sVenvError: one of them is unknown or wrong, or no result could come back.
        """
        own = {name: value for name, value in self.values.model_dump().items() if name not in given}
        try:
            values = self._possible(ValueSettings.model_validate({**own, **given}))
        except ValueError as error:
            raise K8sVenvError(f"{refused_setting(error)}.") from None
        return self.model_copy(update={"values": values})

    def with_calls(self, given: Mapping[str, Any]) -> Environment:
        """Return the same environment with a task's own settings for its calls.

        Args:
            given: the settings that the task names.

        Raises:
            K8sVenvError: one of them is wrong, or there is no place to keep calls.
        """
        try:
            calls = CallSettings.model_validate({**self.calls.model_dump(), **given})
        except ValidationError as error:
            raise K8sVenvError(f"{refused_call_setting(error)}.") from None
        if calls.keep != "never" and self.values.location is None:
            raise K8sVenvError(f'keep="{calls.keep}" needs a place for the call: name a `location` under [values].')
        return self.model_copy(update={"calls": calls})

    def with_files(self, files: Iterable[str]) -> Environment:
        """Return the same environment with a task's own data files besides its own.

        Args:
            files: the task's patterns.
        """
        return self.model_copy(update={"files": tuple(dict.fromkeys((*self.files, *files)))})

    @property
    def requirements_file(self) -> Path | None:
        """Return the requirements file's path, if the requirements are in a file."""
        return self.root / self.requirements if isinstance(self.requirements, str) else None

    @property
    def interpreter_path(self) -> Path | None:
        """Return the path of the existing Python, if one is named."""
        return self.root / Path(self.interpreter).expanduser() if self.interpreter is not None else None

    @property
    def made_elsewhere(self) -> bool:
        """Return whether it names an image or an interpreter, which needs no lock where it is used."""
        return self.image is not None or self.interpreter is not None

    @property
    def requirements_place(self) -> str:
        """Return where a requirement is added, for messages."""
        if isinstance(self.requirements, str):
            return self.requirements
        return f"`requirements` of [environments.{self.name}]"

    @property
    def lock_path(self) -> Path:
        """Return where this environment's lock stands (PEP 751's naming)."""
        return self.root / f"pylock.{self.name}.toml"

    @property
    def base_image(self) -> str:
        """Return the image that this environment's image is built on."""
        return self.base or f"python:{self.python}-slim-bookworm"

    @property
    def image_builder(self) -> str:
        """Return what makes the image: ``layers`` where wheels suffice, else ``buildkit``."""
        return self.builder or ("buildkit" if self.buildkit_reason else "layers")

    @property
    def buildkit_reason(self) -> str:
        """Return what of the image only BuildKit can make, or nothing."""
        reasons = {"Debian packages": self.packages, "Dockerfile lines": self.dockerfile}
        return ", ".join(reason for reason, needed in reasons.items() if needed)

    def image_tag(self, lock_digest: str) -> str:
        """Return the image's tag: a digest of everything that goes into the image.

        Only committed files take part, so the DAG side computes the tag that the build side pushed.

        Args:
            lock_digest: the digest of the environment's lock.
        """
        content: dict[str, Any] = {
            "python": self.python,
            "base": self.base_image,
            "packages": sorted(self.packages),
            "platforms": self.image_platforms,
            "lock": lock_digest,
        }
        # Left out if there are none, so that tags from before this key stay as they are.
        if self.dockerfile:
            content["dockerfile"] = self.dockerfile
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    def image_reference(self, registry: str, lock_digest: str) -> str:
        """Return the full reference of the image that is built for this environment.

        Args:
            registry: the registry and path prefix, such as ``registry.example.com/airflow``.
            lock_digest: the digest of the environment's lock.
        """
        return f"{registry.rstrip('/')}/{self.name}:{self.image_tag(lock_digest)}"
