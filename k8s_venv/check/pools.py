"""What keeps pods from waiting for an environment's calls (``warm``), as far as it is known before they start."""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.local.environments import existing_environment, variables
from k8s_venv.backends.pod_options import NOT_OF_THE_POD, given_options, is_template, plain_variables
from k8s_venv.backends.process import exit_reason
from k8s_venv.capture.origins import file_of, import_roots
from k8s_venv.check.provides import providers
from k8s_venv.config.project import setting_line
from k8s_venv.errors import BackendError, masked, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from k8s_venv.check.provides import Provided
    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project

# These are the call's own: a claim sets them, so a template among them can be filled in.
_SET_BY_A_CLAIM = frozenset(("active_deadline_seconds", "annotations", "labels"))
_IMPORT_TIMEOUT = 120.0  # seconds
_PARTS = 4
# NULs come before the module that failed, the exception and the traceback: what modules print has none.
_IMPORT = """
import sys, traceback
for name in sys.argv[1:]:
    try:
        __import__(name)
        if "airflow" in sys.modules:
            raise ImportError("it imports airflow, which every call prepares before it is imported")
    except BaseException as error:
        kind, frames = type(error), error.__traceback__.tb_next
        reason = "".join(traceback.format_exception_only(kind, error))
        text = "".join(traceback.format_exception(kind, error, frames))
        sys.stderr.write("\\0".join(("", name, reason, text)))
        sys.exit(1)
"""


@dataclasses.dataclass(frozen=True)
class PoolFault:
    """Why pods cannot wait for an environment's calls.

    Args:
        line: the line of the project file, if it is known.
        message: what is wrong and what to do.
    """

    line: int | None
    message: str


def pool_faults(project: Project, environment: Environment, provided: Provided | None) -> Iterator[PoolFault]:
    """Yield what keeps pods from waiting for an environment's calls.

    Args:
        project: its project.
        environment: the environment, which has ``warm``.
        provided: its modules, or None if they cannot be known.
    """
    yield from option_faults(project, environment)
    if provided is not None:
        yield from _preload_faults(project, environment, provided)


def option_faults(project: Project, environment: Environment) -> Iterator[PoolFault]:
    """Yield the pod options of an environment with ``warm`` that a waiting pod cannot have.

    Args:
        project: its project.
        environment: the environment.
    """
    from k8s_venv.backends.kubernetes.render import OPTIONS  # the client of Kubernetes, for such environments alone

    for name, value in given_options(environment.pod).items():
        shared = name in project.pod and project.pod[name] == value
        place = ("pod", name) if shared else ("environments", environment.name, "pod", name)
        subject = f"the option {name!r} of {'[pod]' if shared else '`pod`'}"
        if name not in OPTIONS | NOT_OF_THE_POD:
            problem = f"{subject} is one that only Airflow's operator renders, so no pod can wait with it"
        elif name in OPTIONS - _SET_BY_A_CLAIM and is_template(value):
            problem = f"{subject} is a template, which only a running task can fill in, so no pod can wait with it"
        else:
            continue
        yield PoolFault(
            setting_line(project, *place),
            f"Environment {environment.name!r} has `warm`, but {problem}. Give it to the tasks that need it, which "
            "then run in pods of their own, or leave out `warm`.",
        )


def differing_options(environment: Environment, pod: Mapping[str, Any]) -> list[str]:
    """Return the pod options for which a task's calls get pods of their own, not those that wait.

    Args:
        environment: the environment, which has ``warm``.
        pod: the task's pod options, with those of its environment.
    """
    theirs, own = given_options(environment.pod), given_options(pod)
    left_out = NOT_OF_THE_POD | _SET_BY_A_CLAIM
    return sorted(name for name in (theirs.keys() | own.keys()) - left_out if theirs.get(name) != own.get(name))


def _preload_faults(project: Project, environment: Environment, provided: Provided) -> Iterator[PoolFault]:
    """Yield the modules of ``preload`` that an environment lacks, or the first that cannot be imported.

    Imports are tried only if the environment exists on this machine already, and is made from wheels alone.
    """
    modules = environment.warm.preload if environment.warm is not None else ()
    line = setting_line(project, "environments", environment.name, "warm", "preload")
    lacking = [module for module in modules if provided.lacks(module)]
    for module in lacking:
        reason = f"`preload` names {module}, which nothing in environment {environment.name!r} provides."
        yield PoolFault(line, f"{reason}{provided.nearest(module)} {_remedy(module, environment)}")
    # An image with Debian packages or lines of a Dockerfile has more than this machine.
    if modules and not lacking and not environment.buildkit_reason and environment.base is None:
        problem = _import_problem(environment, modules)
        if problem:
            yield PoolFault(line, problem)


def _remedy(module: str, environment: Environment) -> str:
    own = file_of(module, import_roots(None, environment.root))
    if own is not None:
        return f"It is {own}, which arrives with each call that uses it. Leave it out of `preload`."
    package = " or ".join(providers(module)) or "the package that provides it"
    return (
        f"Add {package} to {environment.requirements_place} and run `k8s-venv lock {environment.name}`, or leave it "
        "out of `preload`."
    )


def _import_problem(environment: Environment, modules: tuple[str, ...]) -> str:
    """Return why a module cannot be imported on this machine, or nothing, also if the environment is not here."""
    try:
        own = plain_variables(environment, environment.pod.get("env_vars"), "local")
    except BackendError:
        return ""  # Kubernetes gives their values
    with existing_environment(environment) as python:
        return _failed_import(python, modules, {**variables(python), **own}) if python is not None else ""


def _failed_import(python: Path, modules: tuple[str, ...], env: dict[str, str]) -> str:
    """Return which module fails, why and with which traceback, or nothing."""
    command = [str(python), "-c", _IMPORT, *modules]
    nothing = subprocess.DEVNULL
    with tempfile.TemporaryFile() as printed:  # a pipe may be kept open by what a module starts
        try:
            code = subprocess.run(
                command,
                env=env,
                stdin=nothing,
                stdout=nothing,
                stderr=printed,
                timeout=_IMPORT_TIMEOUT,
                start_new_session=True,
                check=False,
            ).returncode
        except (OSError, subprocess.TimeoutExpired):
            return ""  # a pod may be faster
        printed.seek(0)
        said = printed.read().decode("utf-8", "backslashreplace").split("\0")
    if code == 0:
        return ""
    remedy = "Correct what it needs, or leave it out of `preload`."
    if len(said) < _PARTS:
        return f"`preload`: importing {', '.join(modules)} on this machine failed: {exit_reason(code)}. {remedy}"
    name, reason, traceback = (visible(masked(part.strip())) for part in said[-3:])
    return f"`preload` names {name}, which cannot be imported on this machine: {reason}. {remedy}\n{traceback}"
