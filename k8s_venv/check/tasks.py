"""Check isolated tasks without running them, by the same capture that a call uses."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.capturing import capture
from k8s_venv.calls.files import data_files
from k8s_venv.calls.packing import is_newer, newer_syntax
from k8s_venv.capture.functions import place_of
from k8s_venv.capture.imports import Import
from k8s_venv.capture.origins import why_absent
from k8s_venv.check.airflow_uses import Kind, Use, uses_of_airflow
from k8s_venv.check.data_files import files_left_behind
from k8s_venv.check.pools import pool_faults
from k8s_venv.check.provides import Provided, provided_by, providers
from k8s_venv.errors import CallError, K8sVenvError, LockError
from k8s_venv.locks.locking import read_lock
from k8s_venv.wire.protocol import AIRFLOW_SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from k8s_venv.calls.capturing import Captured
    from k8s_venv.calls.packed import Transport
    from k8s_venv.config import BackendName
    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project
    from k8s_venv.locks.lockfile import Lock

# Airflow's names that `runtime` replaces in an environment without Airflow.
_EXCEPTIONS = {
    "AirflowSkipException": "runtime.skip()",
    "AirflowFailException": "runtime.fail()",
}
_READ_EARLY = "Read it into a constant of the DAG file, whose value travels."
_INSTEAD = {**_EXCEPTIONS, "get_current_context": "runtime.get_current_context()"}
# Pod options that may set environment variables which are not known here.
_HIDE_VARIABLES = {"configmaps", "env_from", "full_pod_spec", "pod_template_dict", "pod_template_file", "secrets"}


@dataclasses.dataclass(frozen=True)
class Declared:
    """What decides whether a task's connections and variables reach its pod.

    Args:
        names: the connections and variables that it names, by option, such as ``optional_variables``.
        pod: its pod options, with those of its environment.
        keywords: the names of its keyword arguments, as far as they are known.
    """

    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    pod: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keywords: frozenset[str] = frozenset()

    def brings(self, use: Use) -> bool:
        """Return whether a connection or variable is defined when the task runs, as far as that can be known.

        Args:
            use: its use.
        """
        if any(use.name in self.names.get(f"{prefix}{use.kind}s", ()) for prefix in ("", "optional_")):
            return True
        variable = f"AIRFLOW_{'CONN' if use.kind == 'connection' else 'VAR'}_{use.name.upper()}"
        return use.by_airflow and (self.has_own_airflow or variable in self._variables)

    @property
    def has_own_airflow(self) -> bool:
        """Return whether the environment may itself reach a secrets backend or Airflow's database."""
        return bool(self.pod.keys() & _HIDE_VARIABLES) or bool(self._variables & set(AIRFLOW_SOURCES))

    @property
    def _variables(self) -> set[str]:
        given = self.pod.get("env_vars") or ()
        if hasattr(given, "keys"):
            return set(given)
        return {str(each.get("name") if hasattr(each, "get") else getattr(each, "name", "")) for each in given}


@dataclasses.dataclass(frozen=True)
class Task:
    """An isolated task of a DAG.

    Args:
        name: the DAG's and the task's ids, such as ``sales.clean``.
        function: the function.
        project: its project.
        environment: its environment.
        transport: the task's option.
        backend: where it will run.
        brings_image: whether the task names an image of its own.
        declared: the connections and variables that it names, and what else decides whether they arrive.
        on_worker: whether its function runs on the worker, and returns a command.
    """

    name: str
    function: Callable[..., Any]
    project: Project
    environment: Environment
    transport: Transport | None
    backend: BackendName
    brings_image: bool = False
    declared: Declared = dataclasses.field(default_factory=Declared)
    on_worker: bool = False

    @property
    def place(self) -> tuple[str, int]:
        """Return the function's file and line."""
        file, line = place_of(self.function)
        return file or str(self.project.path), line or 1

    @property
    def needs_lock(self) -> bool:
        """Return whether it runs in what the environment's lock says, not in an image or interpreter made elsewhere."""
        if self.backend == "local":
            return self.environment.interpreter is None
        return not (self.brings_image or self.environment.pod.get("image") or self.environment.image)


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """A fault that would fail a task.

    Args:
        path: the file with the fault.
        line: its line, counted from 1.
        task: the task's name, or nothing if the whole file cannot be loaded.
        message: what is wrong and what to do.
    """

    path: str
    line: int
    task: str
    message: str


def check_tasks(tasks: Iterable[Task], image_exists: Callable[[str], bool] | None = None) -> list[Finding]:
    """Return the faults that would fail tasks.

    Args:
        tasks: the tasks.
        image_exists: returns whether a registry has an image, by its reference; without it no registry is asked.
    """
    checker = _Checker(image_exists)
    captured = [(task, checker.capture(task)) for task in tasks]
    checker.check_syntax(captured)
    checker.check_environments([task for task, _ in captured])
    checker.check_pools([task for task, _ in captured])
    for task, each in captured:
        if each is not None:
            checker.check_imports(task, each)
            for file, line, sentence in files_left_behind(each):
                checker.add(task, sentence, file, line)
            for use, sentence in undelivered(each, task.declared):
                checker.add(task, sentence, use.file, use.line)
    return sorted(set(checker.findings))


class _Checker:
    def __init__(self, image_exists: Callable[[str], bool] | None) -> None:
        self.findings: list[Finding] = []
        self._exists = functools.cache(image_exists) if image_exists else None
        self._locks: dict[Path, Lock | str] = {}
        self._provisions: dict[Path, Provided | None] = {}

    def capture(self, task: Task) -> Captured | None:
        try:
            if task.on_worker:
                data_files(task.environment.files, task.environment.root)
                return None
            return capture(task.function, task.environment, task.transport)
        except CallError as error:
            self.add(task, error.problem, error.path, error.line)
            return None

    def check_syntax(self, captured: list[tuple[Task, Captured | None]]) -> None:
        """Check the source of all tasks at once for each version of Python, since a check takes a process."""
        by_version: dict[str, dict[tuple[str, int, str], Task]] = {}
        for task, each in captured:
            if each is not None and each.transport == "source":
                pieces = by_version.setdefault(task.environment.python, {})
                for piece in each.source:
                    pieces.setdefault(piece, task)
        for python, pieces in by_version.items():
            places = {
                (file, line + number): task
                for (file, line, text), task in pieces.items()
                for number in range(text.count("\n") + 1)
            }
            for found in newer_syntax(list(pieces), python):
                task = places[found.file, found.line]
                message = f"{found.problem}; environment {task.environment.name!r} runs Python {python}."
                self.add(task, message, found.file, found.line)

    def check_environments(self, tasks: list[Task]) -> None:
        """Check each environment once, and name the first of its tasks."""
        by_lock: dict[Path, list[Task]] = {}
        for task in tasks:
            if task.needs_lock:
                by_lock.setdefault(task.environment.lock_path, []).append(task)
        for users in by_lock.values():
            first = min(users, key=lambda task: (task.place, task.name))
            if problem := self._environment_problem(first):
                count = len({task.name for task in users})
                self.add(first, problem if count == 1 else f"{problem} {count} tasks use this environment.")

    def _environment_problem(self, task: Task) -> str:
        lock = self._lock(task.environment)
        if isinstance(lock, str):
            return lock
        if self._exists is not None:
            reference = task.environment.image_reference(task.project.require_registry(), lock.digest)
            if not self._exists(reference):
                name = task.environment.name
                return f"The image {reference} was never built. Run `k8s-venv build-images {name}`."
        return ""

    def check_pools(self, tasks: list[Task]) -> None:
        """Check the waiting pods of each environment once, and name all of its tasks."""
        by_environment: dict[tuple[Path, str], list[Task]] = {}
        for task in tasks:
            if task.environment.warm is not None:
                by_environment.setdefault((task.project.path, task.environment.name), []).append(task)
        for users in by_environment.values():
            locked = next((task for task in users if task.needs_lock), None)
            provided = self._provided(locked) if locked is not None else None
            for fault in pool_faults(users[0].project, users[0].environment, provided):
                for task in users:
                    self.add(task, fault.message, str(task.project.path), fault.line or 1)

    def check_imports(self, task: Task, captured: Captured) -> None:
        provided = self._provided(task)
        if provided is None:
            return
        for file, error in captured.broken if not is_newer(task.environment.python) else ():
            self.add(task, f"does not parse: {error.msg}.", file, error.lineno or 1)
        for file, each in captured.data_reads:
            problem = f"reads a file of the package {each.module}, and data files do not travel. {_READ_EARLY}"
            self.add(task, problem, file, each.line)
        for file, each in [*captured.imports, *_of_values(task, captured)]:
            for problem in () if each.optional else _problems(task, captured, provided, file, each):
                self.add(task, problem, file, each.line)

    def add(self, task: Task, message: str, file: str | None = None, line: int | None = None) -> None:
        """Add a finding, by default at the line of the task's function."""
        own_file, own_line = task.place
        self.findings.append(Finding(file or own_file, line or own_line, task.name, message))

    def _lock(self, environment: Environment) -> Lock | str:
        """Return an environment's lock, or its fault."""
        path = environment.lock_path
        if path not in self._locks:
            try:
                self._locks[path] = read_lock(environment)
            except K8sVenvError as error:
                self._locks[path] = str(error)
        return self._locks[path]

    def _provided(self, task: Task) -> Provided | None:
        """Return the modules that a task's environment provides, or None if they cannot be known."""
        lock = self._lock(task.environment) if task.needs_lock else "made elsewhere"
        if isinstance(lock, str):
            return None
        if lock.path not in self._provisions:
            self._provisions[lock.path] = None
            try:
                self._provisions[lock.path] = provided_by(task.environment, lock)
            except LockError as error:
                self.add(task, str(error))
        return self._provisions[lock.path]


def _problems(task: Task, captured: Captured, provided: Provided, file: str, found: Import) -> Iterator[str]:
    """Yield the faults of an import."""
    if found.level:
        written = f"from {'.' * found.level}{found.module} import {', '.join(found.names)}"
        package = captured.package(file)
        problem = (
            f"which leads out of its package {_top(package)}"
            if package
            else "but this file is loaded without a package, as Airflow loads DAG files"
        )
        yield f"imports relatively, by `{written}`, {problem}. Import the module by its full name."
    for lacking in captured.lacking(found):
        for module in provided.lacks(lacking, found.names if lacking == found.module else ()):
            advice = _advice(task, captured, file, found, module)
            yield f"imports {module}, which nothing in environment {task.environment.name!r} provides. {advice}"


def _advice(task: Task, captured: Captured, file: str, found: Import, module: str) -> str:
    """Return the remedy for a module that an environment lacks."""
    environment = task.environment
    known = providers(module, found.names)
    why = None if known else why_absent(module, Path(file), environment.root)
    if why is not None:
        return why
    if not known and file in captured.path_changes:
        return (
            f"Line {captured.path_changes[file]} adds a folder to sys.path when the function runs: what lies there "
            "does not travel. Do so at the top of the DAG file, with a folder of the project."
        )
    package = " or ".join(known) if known else "the package that provides it"
    add = f"dd {package} to {environment.requirements_place} and run `k8s-venv lock {environment.name}`."
    has_exceptions = module == "airflow.sdk" or module.endswith(".exceptions")
    names = found.names or (_EXCEPTIONS if has_exceptions else ())
    replaced = [name for name in names if name in _INSTEAD] if _top(module) == "airflow" else []
    if not replaced:
        return f"A{add}"
    calls = " and ".join(f"{_INSTEAD[name]} instead of {name}" for name in replaced)
    use = f"Use {calls} (from k8s_venv import runtime), which needs no Airflow there."
    return use if list(found.names) == replaced else f"{use} For the rest, a{add}"


def _of_values(task: Task, captured: Captured) -> list[tuple[str, Import]]:
    """Return the imports that a function's values or pickle need, and that no text has."""
    written = {_top(each.module) for _, each in captured.imports}
    modules = {_top(module): module for module in sorted(captured.value_modules, reverse=True)}
    file, line = task.place
    return [
        (file, Import(module, line=line))
        for top, module in sorted(modules.items())
        if top not in written and not top.startswith("_")
    ]


def _top(module: str) -> str:
    return module.partition(".")[0]


def undelivered(captured: Captured, declared: Declared) -> Iterator[tuple[Use, str]]:
    """Yield the uses of Airflow in a task's source that its environment cannot serve, each with a sentence.

    Args:
        captured: the captured function.
        declared: the task's declarations.
    """
    uses = uses_of_airflow(captured, declared.keywords)
    kinds: tuple[Kind, Kind] = ("connection", "variable")
    for kind in kinds:
        yield from _not_named(kind, [use for use in uses if use.kind == kind and not declared.brings(use)], declared)
    for use in uses:
        if use.kind == "refused" and not (use.name.startswith("Variable.") and declared.has_own_airflow):
            yield use, f"asks for {use.name}, which needs Airflow itself. {use.instead}"


def _not_named(kind: Kind, uses: list[Use], declared: Declared) -> Iterator[tuple[Use, str]]:
    required = {use.name for use in uses if not use.optional}
    optional = {use.name for use in uses} - required
    for use in uses:
        option, lacking = (f"{kind}s", required) if use.name in required else (f"optional_{kind}s", optional)
        names = list(dict.fromkeys((*declared.names.get(option, ()), *sorted(lacking))))
        yield (
            use,
            f"uses the {kind} {use.name!r}, which the task does not name, so it does not arrive. Give the task "
            f"{option}={json.dumps(names, ensure_ascii=False)}.",
        )
