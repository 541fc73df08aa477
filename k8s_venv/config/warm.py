"""The pods that wait for an environment's calls: how many, for how long, and what they import meanwhile."""

from __future__ import annotations

import keyword
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator, model_validator

MOST_PODS = 500
LONGEST_IDLE = 30 * 86_400
_DURATION = re.compile(r"(?:(\d{1,9}) *d)? *(?:(\d{1,9}) *h)? *(?:(\d{1,9}) *m)? *(?:(\d{1,9}) *s)?", re.ASCII)
_SECONDS = (86_400, 3600, 60, 1)
_REFUSED = {
    "airflow": "every call prepares Airflow before it is imported",
    "k8s_venv": "every call brings its own",
    "__main__": "it is the program itself",
}


def _pods(value: object) -> object:
    if type(value) is not int:
        raise ValueError(f"must be a number of pods, such as 2, not {value!r}")
    if value == 0:
        raise ValueError("must be 1 or more. Leave out `warm` if no pod should wait")
    if not 0 < value <= MOST_PODS:
        raise ValueError(f"must be a number of pods from 1 to {MOST_PODS}, not {value}")
    return value


def _seconds(value: object) -> int:
    """Return a duration in seconds."""
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) and value.strip() else None
    if found is not None:
        value = sum(int(number or 0) * seconds for number, seconds in zip(found.groups(), _SECONDS, strict=True))
    if type(value) is not int:
        raise ValueError(f'must be a duration, such as "10m", "1h30m" or a number of seconds, not {value!r}')
    if not 1 <= value <= LONGEST_IDLE:
        raise ValueError(f"must be from 1 second to {LONGEST_IDLE // 86_400} days, not {value} seconds")
    return value


def _modules(value: object) -> tuple[str, ...]:
    """Return the names of modules, each once."""
    if not isinstance(value, list | tuple):
        raise ValueError(f'must be a list of modules, such as preload = ["pandas"], not {value!r}')
    for name in value:
        if not isinstance(name, str) or not all(map(_is_name, name.split("."))):
            raise ValueError(
                f'{name!r} is not the name of a module. Write it as the code imports it, such as "pandas" or '
                '"google.cloud.storage"'
            )
        top = name.partition(".")[0]
        if top in _REFUSED:
            raise ValueError(f"{name!r} cannot be imported before a call arrives: {_REFUSED[top]}. Leave it out")
    return tuple(dict.fromkeys(value))


def _is_name(part: str) -> bool:
    return part.isidentifier() and not keyword.iskeyword(part)


class WarmPool(BaseModel):
    """How many pods of an environment wait for calls.

    Args:
        min: how many always wait.
        max: how many wait at most, after a burst of calls; by default as many as ``min``.
        idle: the seconds without a call after which there are ``min`` again; text such as ``10m`` in the file.
        preload: the modules that are imported before a call arrives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Annotated[int, BeforeValidator(_pods)] = 1
    max: Annotated[int, BeforeValidator(_pods)] = 1
    idle: Annotated[int, BeforeValidator(_seconds)] = 600
    preload: Annotated[tuple[str, ...], BeforeValidator(_modules)] = ()

    @model_validator(mode="before")
    @classmethod
    def _as_many_as_min(cls, given: Any) -> Any:
        return {**given, "max": given.get("min", 1)} if isinstance(given, dict) and "max" not in given else given

    @field_validator("max")
    @classmethod
    def _not_below_min(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("min", 1)
        if value < least:
            raise ValueError(f"must not be below min = {least}, but is {value}. Raise it, or leave it out")
        return value
