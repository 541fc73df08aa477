"""Which share of functions gives the right answer in another Python, by the way it is sent there.

The functions are those with doctests in the standard library and in pure-Python packages: each file stands for a DAG
file (it is loaded as Airflow loads one, under a name that nothing can import), each function for a task, and its
examples give the known answers. ``--folder DIR`` takes the functions of any folder of Python files instead.

The functions of the packages in ``HELD_OUT`` are reported apart: nothing was ever changed to make one of them travel.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import doctest
import importlib.util
import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cloudpickle
from rich.console import Console
from rich.table import Table

from k8s_venv.calls import pack
from k8s_venv.config.environment import Environment
from k8s_venv.errors import K8sVenvError
from k8s_venv.locks import uv

PACKAGES = [
    "boltons",
    "inflection",
    "jmespath",
    "more-itertools",
    "natsort",
    "pyrsistent",
    "sortedcontainers",
    "tabulate",
    "toolz",
]
HELD_OUT = ["anytree", "dictdiffer", "humanfriendly", "parse", "pydash"]
WAYS = {
    "text": "the text of the one function",
    "cloudpickle": "cloudpickle, by value",
    "module": "the whole module's text",
    "ours": "k8s-venv",
    "source": "k8s-venv, always by source",
    "possible": "what can run there at all",
}
SECONDS = 60  # of processor time, for loading one file and packing its functions; three times as long by the clock
NOT_LOADED = 3  # the exit code of a child whose file raised an exception
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks transport", description=__doc__)
    parser.add_argument("--folder", type=Path, help="take the functions of this folder's files")
    parser.add_argument("--targets", default="3.12,3.11,3.8")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--match", default="", help="only files whose path contains this")
    parser.add_argument("--failures", type=Path, help="write what failed to this file")
    options = parser.parse_args(arguments)
    ways = options.ways.split(",")
    if unknown := sorted(set(ways) - set(WAYS)):
        parser.error(f"--ways: unknown: {', '.join(unknown)}; the ways are {', '.join(WAYS)}")
    targets = [target for target in options.targets.split(",") if uv.find_interpreter(target)]
    if not targets:
        parser.error(f"--targets: no interpreter is found for {options.targets}")
    started = time.perf_counter()
    given = options.folder.resolve() if options.folder else None
    # Examples may write files: not into whatever folder this was started in.
    with tempfile.TemporaryDirectory(prefix="k8s-venv-transport-") as name, contextlib.chdir(name):
        folder = Path(name)
        files = collect_files(given, folder)
        jobs = pack_all([pair for pair in files if options.match in str(pair[0])], folder, targets, ways)
        results = {target: run_target(target, folder, jobs) for target in targets}
    if options.failures:
        write_failures(jobs, results, options.failures)
    tuned = [job for job in jobs if not job["held_out"]]
    held_out = [job for job in jobs if job["held_out"]]
    summary = shares(tuned, results)
    report("functions", summary)
    if held_out:
        summary["held_out"] = shares(held_out, results)
        report(f"functions of packages held out ({', '.join(HELD_OUT)})", summary["held_out"])
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    print(json.dumps(summary))
    return 0


# --- the collection ----------------------------------------------------------------------------------------


def collect_files(given: Path | None, folder: Path) -> list[tuple[Path, str]]:
    """Return the files, each with the text that stands for a DAG file's."""
    if given:
        files = [(path, path.read_text("utf-8", "replace")) for path in sorted(given.rglob("*.py"))]
    else:
        packages = folder / "packages" / "site-packages"
        uv.run(["pip", "install", "--target", str(packages), "--python", sys.executable, *PACKAGES, *HELD_OUT])
        sys.path.append(str(packages))
        files = []
        for path in sorted(packages.rglob("*.py")):
            if "tests" not in path.parts and path.name != "conftest.py":
                files.append((path, absolute_imports(path, packages)))
        library = Path(os.__file__).parent
        for path in sorted(library.rglob("*.py")):
            parts = path.relative_to(library).parts
            if not {"test", "tests", "site-packages", "idlelib", "lib2to3"} & set(parts):
                files.append((path, absolute_imports(path, library)))
    return [pair for pair in files if ">>> " in pair[1]]


def absolute_imports(path: Path, root: Path) -> str:
    """Return a file's text with absolute imports: its package is installed, the file itself is the DAG file."""
    text = path.read_text("utf-8", "replace")
    package = list(path.relative_to(root).parent.parts)

    def absolute(found: re.Match[str]) -> str:
        parent = package[: len(package) - len(found[2]) + 1]
        return f"{found[1]}{'.'.join([*parent, *([found[3]] if found[3] else [])])} import"

    return re.sub(r"^(\s*from )(\.+)([\w.]*) import", absolute, text, flags=re.MULTILINE)


# --- the sender --------------------------------------------------------------------------------------------


def pack_all(files: list[tuple[Path, str]], folder: Path, targets: list[str], ways: list[str]) -> list[dict[str, Any]]:
    """Load each file in a child of its own, check its functions there, and pack them for each target."""
    shutil.copytree(Path(cloudpickle.__file__).parent, folder / "cloudpickle" / "cloudpickle")
    (folder / "dags").mkdir()
    (folder / "jobs").mkdir()
    running: dict[int, Path] = {}
    lost: list[str] = []

    def wait() -> None:
        child, status = os.wait()
        path = running.pop(child)
        if status:
            why = "cannot be loaded here" if status == NOT_LOADED << 8 else "took too long, or died"
            lost.append(f"{path} ({why})")

    for number, (path, text) in enumerate(files):
        child = os.fork()
        if not child:
            os.setsid()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # a busy machine is no reason to lose a file
            signal.alarm(3 * SECONDS)
            status = NOT_LOADED
            with contextlib.suppress(BaseException):
                pack_file(number, path, text, folder, targets, ways)
                status = 0
            os._exit(status)
        running[child] = path
        while len(running) >= (os.cpu_count() or 1):
            wait()
    while running:
        wait()
    print(f"{len(files)} files, left out {len(lost)}:", *sorted(lost), sep="\n  ", file=sys.stderr)
    lines = [line for path in sorted((folder / "jobs").iterdir()) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def pack_file(number: int, path: Path, text: str, folder: Path, targets: list[str], ways: list[str]) -> None:
    sys.stdout = sys.stderr = io.StringIO()
    sys.stdin = io.StringIO()
    file = folder / "dags" / f"dag_{number}.py"
    file.write_text(text, "utf-8")
    name = f"unusual_prefix_{number}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = text.splitlines(keepends=True)
    pieces = [
        (first_line(node), "".join(lines[first_line(node) - 1 : node.end_lineno])) for node in ast.parse(text).body
    ]
    common = {"module": name, "file": str(file), "flags": FLAGS, "pieces": pieces, "origin": str(path)}
    common["held_out"] = bool(set(HELD_OUT) & set(path.parts))
    jobs = []
    for function in functions_of(module):
        job = {**common, "name": function.__name__, "doctest": inspect.getdoc(function)}
        if not examples_pass(function, job):
            continue
        jobs += packed(function, job, folder, targets, ways)
    (folder / "jobs" / f"{number}.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))


def first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(item.lineno for item in decorators)])


def functions_of(module: Any) -> list[Any]:
    found = {id(value): value for value in vars(module).values() if inspect.isroutine(inspect.unwrap(value))
             and getattr(value, "__module__", "") == module.__name__ and ">>> " in (inspect.getdoc(value) or "")
             and vars(module).get(value.__name__) is value}  # fmt: skip
    return list(found.values())


def examples_pass(function: Any, job: dict[str, Any]) -> bool:
    """Run the examples here, twice: chance, clocks and what another function did are no known answers."""
    for _ in range(2):
        parser = doctest.DocTestParser()
        test = parser.get_doctest(job["doctest"], {job["name"]: function}, job["name"], job["file"], 0)
        runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
        started = time.process_time()
        runner.run(test, out=lambda text: None)
        if runner.failures or not runner.tries or time.process_time() - started > 4:
            return False
    return True


def packed(
    function: Any, job: dict[str, Any], folder: Path, targets: list[str], ways: list[str]
) -> list[dict[str, Any]]:
    jobs = []
    for target in targets:
        key = f"{job['module']}.{job['name']}-{target}"
        for way in ways:
            one = {**job, "id": f"{key}-{way}", "way": way, "target": target}
            if way != "possible":
                del one["pieces"]
            try:
                one.update(sent(way, function, target, folder / f"{key}-{way}.pyz"))
            except K8sVenvError as error:
                one.update(refused=str(error))
            except Exception as error:  # noqa: BLE001 -- a way that fails here has failed
                one.update(failed=repr(error))
            jobs.append(one)
    return jobs


def sent(way: str, function: Any, target: str, path: Path) -> dict[str, Any]:
    if way in ("ours", "source"):
        environment = Environment(name="target", root=path.parent / "dags", python=target)
        transport: Any = "source" if way == "source" else None
        path.write_bytes(pack(function, (), {}, environment=environment, transport=transport).archive)
        return {"archive": str(path)}
    if way == "text":
        return {"text": textwrap.dedent(inspect.getsource(inspect.unwrap(function)))}
    if way == "cloudpickle":
        module = sys.modules[function.__module__]
        cloudpickle.register_pickle_by_value(module)
        return {"pickle": cloudpickle.dumps(function).hex()}
    return {}


# --- the target --------------------------------------------------------------------------------------------


def run_target(target: str, folder: Path, jobs: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Run a target's jobs on its interpreter; return each one's outcome and details by its id."""
    found: dict[str, dict[str, str]] = {}
    pending = []
    for job in (job for job in jobs if job["target"] == target):
        if "refused" in job:
            found[job["id"]] = {"outcome": "refused", "detail": job["refused"]}
        elif "failed" in job:
            found[job["id"]] = {"outcome": "crash", "detail": "not sent: " + job["failed"]}
        else:
            pending.append(job)
    processes = []
    workers = os.cpu_count() or 1
    python = venv(target, folder)
    for worker in range(workers):
        jobs_file, results = folder / f"{target}-{worker}.jobs", folder / f"{target}-{worker}.results"
        jobs_file.write_text("".join(json.dumps(job) + "\n" for job in pending[worker::workers]))
        results.touch()
        script = Path(__file__).with_name("_transport_target.py")
        archive = next(
            (job["archive"] for job in pending if "archive" in job), ""
        )  # none where nothing of ours is sent
        command = [python, str(script), str(jobs_file), str(results), archive, str(folder / "cloudpickle")]
        cwd = folder / "cwd"
        cwd.mkdir(exist_ok=True)
        null = subprocess.DEVNULL
        processes.append((subprocess.Popen(command, cwd=cwd, stdin=null, stdout=null, stderr=null), results))
    for process, results in processes:
        process.wait()
        for line in results.read_text().splitlines():
            result = json.loads(line)
            found.setdefault(result["id"], result)
    return found


def venv(target: str, folder: Path) -> str:
    """Return a Python of the target's version, with the newest versions of the packages that it has."""
    python = uv.find_interpreter(target)
    assert python is not None
    if not (folder / "packages").exists():
        return python
    made = folder / f"venv-{target}"
    uv.run(["venv", "--python", python, str(made)])
    uv.run(["pip", "install", "--python", str(made / "bin/python"), *PACKAGES, *HELD_OUT])
    return str(made / "bin/python")


# --- the report --------------------------------------------------------------------------------------------


def shares(jobs: list[dict[str, Any]], results: dict[str, dict[str, dict[str, str]]]) -> dict[str, Any]:
    """Return the share of right answers by target and way, and how our others ended."""
    summary: dict[str, Any] = {"functions": len({(job["module"], job["name"]) for job in jobs})}
    for target, found in results.items():
        outcomes = {way: Counter[str]() for way in WAYS}
        possible = {job["id"].rpartition("-")[0] for job in jobs
                    if job["target"] == target and job["way"] == "possible"
                    and found.get(job["id"], {}).get("outcome") == "right"}  # fmt: skip
        of_possible = Counter[str]()
        for job in jobs:
            if job["target"] == target:
                outcome = found.get(job["id"], {}).get("outcome", "crash")
                outcomes[job["way"]][outcome] += 1
                if job["way"] == "ours" and job["id"].rpartition("-")[0] in possible:
                    of_possible[outcome] += 1
        summary[target] = {
            way: round(100 * counts["right"] / counts.total(), 2) if counts else None
            for way, counts in outcomes.items()
        }
        summary[target]["ours_of_possible"] = round(100 * of_possible["right"] / (of_possible.total() or 1), 2)
        summary[target]["ours_outcomes"] = dict(of_possible)
    return summary


def report(what: str, summary: dict[str, Any]) -> None:
    targets = [target for target in summary if target[0].isdigit()]
    table = Table("what is sent", *(f"to {target}" for target in targets), box=None)
    for way, title in WAYS.items():
        if any(summary[target][way] is not None for target in targets):
            table.add_row(title, *(f"{summary[target][way]} %" for target in targets))
    table.add_row("k8s-venv, of what can run", *(f"{summary[target]['ours_of_possible']} %" for target in targets))
    for outcome in ("wrong", "crash", "refused"):
        counts = [summary[target]["ours_outcomes"].get(outcome, 0) for target in targets]
        table.add_row(f"  {outcome}", *map(str, counts))
    print(f"{summary['functions']} {what}, sent from Python {sys.version.split()[0]}")
    Console(width=120).print(table)


def write_failures(jobs: list[dict[str, Any]], results: dict[str, dict[str, dict[str, str]]], path: Path) -> None:
    with path.open("w") as stream:
        for job in jobs:
            result = results[job["target"]].get(job["id"], {"outcome": "crash", "detail": "lost"})
            key = job["id"].rpartition("-")[0]
            can = results[job["target"]].get(f"{key}-possible", {}).get("outcome") == "right"
            if job["way"] in ("ours", "source") and result["outcome"] != "right":
                place = f"{job['id']} {job['origin']} {result['outcome']} possible={can}"
                stream.write(f"=== {place}\n{result['detail']}\n")
