"""DAG files, loaded as Airflow loads them: their isolated tasks, their faults, or one DAG."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.compat import conf
from k8s_venv.airflow.context import SecretNames
from k8s_venv.airflow.inprocess import read_dag_file
from k8s_venv.airflow.operators import IsolatedOperator
from k8s_venv.airflow.options import OPTIONS, UNSET
from k8s_venv.airflow.validation import check_files, project_of
from k8s_venv.backends import choose_backend
from k8s_venv.capture.functions import place_of
from k8s_venv.check.tasks import Declared, Finding, Task
from k8s_venv.errors import K8sVenvError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.sdk import DAG


def isolated_tasks(dag: Any) -> Iterator[Task]:
    """Yield the isolated tasks of a DAG, mapped ones once.

    Args:
        dag: the DAG.
    """
    for task in dag.tasks:
        loaded = _loaded(dag, task)
        if loaded is not None:
            yield loaded


def _loaded(dag: Any, task: Any) -> Task | None:
    facts = _facts(task)
    if facts is None:
        return None
    project = project_of(facts["python_callable"], dag.fileloc)
    environment = project.environment(facts["environment"])
    if facts.get("files"):
        environment = environment.with_files(check_files(facts["files"], f"Task {task.task_id!r}"))
    keywords = facts.get("op_kwargs")
    return Task(
        f"{dag.dag_id}.{task.task_id}",
        facts["python_callable"],
        project,
        environment,
        facts.get("transport"),
        choose_backend(facts.get("backend"), project, conf.get("k8s_venv", "backend", fallback=None)),
        bool(facts.get("image")),
        Declared(
            facts["names"],
            {**environment.pod, **facts["options"]},
            frozenset(keywords if isinstance(keywords, Mapping) else ()),
        ),
        on_worker=_kind(task).returns_command,
    )


def load_tasks(path: Path) -> tuple[list[Task], list[Finding]]:
    """Load a DAG file.

    Args:
        path: the file.

    Returns:
        Its isolated tasks, and a finding for each fault that keeps it or a task from being loaded.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        return [], [Finding(str(path), 1, "", f"The file cannot be read: {error.strerror}.")]
    bag = read_dag_file(path)
    findings = [first_problem(path, text) for text in bag.import_errors.values()]
    if not findings:
        findings += _never_called(path, set(bag.dags))
    tasks: list[Task] = []
    for dag in bag.dags.values():
        for task in dag.tasks:
            try:
                loaded = _loaded(dag, task)
            except K8sVenvError as error:  # Airflow finds it only when a mapped task runs
                file, line = place_of((_facts(task) or {})["python_callable"])
                findings.append(Finding(file or str(path), line or 1, f"{dag.dag_id}.{task.task_id}", str(error)))
            else:
                tasks += [loaded] if loaded else []
    return tasks, findings


def load_dag(path: Path, dag_id: str | None = None) -> DAG:
    """Load a DAG file as Airflow does and return its DAG.

    Args:
        path: the file.
        dag_id: the DAG's id, if there are several.

    Raises:
        K8sVenvError: the file cannot be loaded, or has no such DAG.
    """
    bag = read_dag_file(path)
    for text in bag.import_errors.values():
        if not is_ours(text):
            print(text.rstrip(), file=sys.stderr)  # noqa: T201 -- only a traceback shows which helper raised it
        broken = first_problem(path, text)
        raise K8sVenvError(f"{path} cannot be loaded: line {broken.line}: {broken.message}")
    names = ", ".join(sorted(bag.dags)) or "none"
    if dag_id is None and len(bag.dags) == 1:
        return next(iter(bag.dags.values()))
    if not bag.dags:
        raise K8sVenvError(f"{path} has no DAG. Is it called, as in `pipeline()` at its end?")
    if dag_id is None:
        raise K8sVenvError(f"{path} has not exactly one DAG: name one with --dag. It has: {names}.")
    if dag_id not in bag.dags:
        raise K8sVenvError(f"{path} has no DAG {dag_id!r}.{did_you_mean(dag_id, bag.dags)} It has: {names}.")
    return bag.dags[dag_id]


def _never_called(path: Path, dags: set[str]) -> Iterator[Finding]:
    """Yield a finding for each ``@dag`` function that a file never calls."""
    try:
        statements = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, RecursionError):
        return  # Airflow skips such a file, since it names no DAG
    for function in (node for node in statements if isinstance(node, ast.FunctionDef)):
        for decorator in function.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
            ids = [item.value for item in call.keywords if item.arg == "dag_id"] or call.args[:1]
            dag_id = getattr(ids[0], "value", None) if ids else function.name
            is_dag = getattr(call.func, "attr", getattr(call.func, "id", "")) == "dag"
            if is_dag and isinstance(dag_id, str) and dag_id not in dags:
                message = f"@dag {function.name}() is never called, so Airflow sees no DAG. Call it: {function.name}()"
                yield Finding(str(path), function.lineno, "", message)


def _kind(task: Any) -> Any:
    return getattr(task, "operator_class", type(task))


def _facts(task: Any) -> dict[str, Any] | None:
    """Return the options of an isolated task, or None for any other task."""
    if isinstance(task, IsolatedOperator):
        return {**vars(task), "names": dataclasses.asdict(task.secret_names), "options": task.pod_options()}
    if issubclass(getattr(task, "operator_class", object), IsolatedOperator):
        function = getattr(task, "python_callable", None) or task.partial_kwargs["python_callable"]
        group = getattr(task, "task_group", None)
        defaults = {**task.dag.default_args, **(group.default_args if group else {})}  # merged only when it runs
        mapped = getattr(getattr(task, "expand_input", None), "value", {})
        image = mapped.get("image") if isinstance(mapped, dict) else None
        given = {"image": image, **defaults, **task.partial_kwargs}
        names = {field.name: tuple(given.get(field.name) or ()) for field in dataclasses.fields(SecretNames)}
        options = {name: given[name] for name in OPTIONS & given.keys() if given[name] not in (None, UNSET)}
        return {"environment": None, **given, "python_callable": function, "names": names, "options": options}
    return None


def first_problem(path: Path, text: str) -> Finding:
    """Return the finding for the traceback of a file that cannot be loaded, at the file's own last line in it."""
    lines = [int(line) for file, line in re.findall(r'File "([^"]+)", line (\d+)', text) if file == str(path)]
    message = _message(text.strip().split("\n"))
    kind, _, rest = message.partition(": ")
    missing = re.fullmatch(r"ModuleNotFoundError: No module named '(?!airflow\b|k8s_venv\b)[^']+'", message)
    if missing:
        message += ". Import it inside the task's function, where its environment has it, or install it beside Airflow."
    return Finding(str(path), lines[-1] if lines else 1, "", rest if kind.startswith("k8s_venv.") else message)


def is_ours(text: str) -> bool:
    """Return whether a traceback ends with an error of k8s-venv, whose sentence is enough."""
    return _message(text.strip().split("\n")).startswith("k8s_venv.")


def _message(traceback: list[str]) -> str:
    """Return the type and the whole text of the exception at the end of a traceback."""
    frames = [number for number, line in enumerate(traceback) if line.startswith('  File "')]
    last = frames[-1] if frames else -1
    after = (number for number, line in enumerate(traceback) if number > last and line and not line.startswith(" "))
    return "\n".join(traceback[next(after, -1) :])
