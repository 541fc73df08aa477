"""How arguments and results travel, and which calls are kept: set for the project, an environment or a task."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, ValidationError

from k8s_venv.errors import did_you_mean

_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(?:/[\w.=/-]*)?")


def _location(value: str) -> str:
    value = value.removeprefix("file://").rstrip("/")
    if not (_BUCKET.fullmatch(value) or (value.startswith("/") and "/../" not in f"{value}/")):
        raise ValueError(
            f"{value!r} is not a location: name a folder that workers and pods mount alike, such as /mnt/values, or "
            "s3://BUCKET/PREFIX"
        )
    return value


def _size(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f'must be a size, such as "64 MiB", not {value!r}')
    return value


# The seconds for which a worker may wait at most before it defers.
LONGEST_WAIT = 3600
Keep = Literal["never", "failed", "all"]


def _seconds(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST_WAIT:
        raise ValueError(f"must be a number of seconds from 0 to {LONGEST_WAIT}, not {value!r}")
    return float(value)


class CallSettings(BaseModel):
    """How long a worker waits for a deferrable call, and what becomes of a call when it is over.

    Args:
        defer_after: the seconds that a worker waits for a deferrable call before it leaves it to the triggerer.
        keep: which calls are kept at the location for large values, so that `k8s-venv replay` can run them again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    defer_after: Annotated[float, BeforeValidator(_seconds)] = 5.0
    keep: Keep = "never"


class ValueSettings(BaseModel):
    """How arguments and results travel between the sender and the environment.

    Args:
        location: where large ones are kept meanwhile: a folder that workers and pods mount alike, or
            ``s3://bucket/prefix``. An environment reaches a bucket through URLs that the sender signs.
        above: the size in bytes from which on values go there.
        exec: whether a large result may be read through ``pods/exec``, if there is no location for it.
        status: whether small results may stand in the pod's status, which everybody reads who may read pods.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    location: Annotated[str, AfterValidator(_location)] | None = None
    above: Annotated[ByteSize, BeforeValidator(_size)] = ByteSize(1024 * 1024)
    exec: bool = True
    status: bool = True


def refused_setting(error: ValueError) -> str:
    """Return what is wrong in settings that a task gives.

    Args:
        error: pydantic's, or that of ``Environment.with_values``.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        known = sorted(ValueSettings.model_fields)
        return f"values has no setting {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}"
    return f"values[{name!r}]: {problem['msg'].removeprefix('Value error, ')}"


def refused_call_setting(error: ValidationError) -> str:
    """Return what is wrong in a setting for calls that a task gives."""
    problem = error.errors()[0]
    name = str(problem["loc"][0])
    if problem["type"] == "literal_error":
        return f"{name} is {', '.join(map(repr, get_args(Keep)))}, not {problem['input']!r}"
    return f"{name} {problem['msg'].removeprefix('Value error, ')}"
