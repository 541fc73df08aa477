# mypy: disallow_untyped_defs=false, disallow_untyped_calls=false
"""Runs in the target interpreter: build each function in a forked child and run its doctest there.

``python _transport_target.py JOBS RESULTS``: both are files of JSON lines.
"""

import __future__

import contextlib
import doctest
import io
import json
import os
import signal
import sys
import traceback
import types
from pathlib import Path
from zipimport import zipimporter

SECONDS = 20  # of processor time, for one function; three times as long by the clock


def ours(job):
    sys.path.append(job["archive"] + "/beside")
    from k8s_venv.runner.functions import load_function

    read = zipimporter(job["archive"]).get_data
    loaded, _ = load_function(read, json.loads(read("call.json")))
    return loaded


def text(job):
    namespace = {"__name__": "task"}
    exec(compile(job["text"], "<task>", "exec"), namespace)
    return namespace[job["name"]]


def pickled(job):
    import cloudpickle

    return cloudpickle.loads(bytes.fromhex(job["pickle"]))


def module(job):
    made = types.ModuleType(job["module"])
    made.__file__ = job["file"]
    sys.modules[job["module"]] = made
    exec(compile(Path(job["file"]).read_bytes(), job["file"], "exec"), made.__dict__)
    return made.__dict__[job["name"]]


def possible(job):
    """Whatever of the module can run here: each statement by itself, annotations as text."""
    made = types.ModuleType(job["module"])
    made.__file__ = job["file"]
    sys.modules[job["module"]] = made
    flags = __future__.annotations.compiler_flag
    for line, piece in job["pieces"]:
        with contextlib.suppress(Exception):
            exec(compile("\n" * (line - 1) + piece, job["file"], "exec", flags, True), made.__dict__)
    return made.__dict__[job["name"]]


WAYS = {"ours": ours, "source": ours, "text": text, "cloudpickle": pickled, "module": module, "possible": possible}


def examples_fail(function, job):
    parser = doctest.DocTestParser()
    test = parser.get_doctest(job["doctest"], {job["name"]: function}, job["name"], job["file"], 0)
    output = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=job["flags"])
    runner.run(test, out=output.write)
    return output.getvalue() if runner.failures else ""


def run(job, stream):
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(3 * SECONDS)
    outcome, detail = "right", ""
    out, err = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = io.StringIO()
    try:
        try:
            function = WAYS[job["way"]](job)
        except BaseException:  # noqa: BLE001
            outcome, detail = "crash", traceback.format_exc(limit=-4)
        else:
            detail = examples_fail(function, job)
            if detail:
                # An exception that nobody expected is no wrong answer: it is seen.
                outcome = "crash" if "Exception raised:" in detail else "wrong"
    except BaseException:  # noqa: BLE001
        outcome, detail = "crash", traceback.format_exc(limit=-4)
    sys.stdout, sys.stderr = out, err
    stream.write(json.dumps({"id": job["id"], "outcome": outcome, "detail": detail[-2500:]}) + "\n")
    stream.flush()


def import_once(archive):
    """Import here what each archive has the same, instead of in each child."""
    sys.path[:0] = [archive, archive + "/vendor"]
    from k8s_venv.runner import functions

    assert functions
    with contextlib.suppress(ImportError):  # it travels between equal versions only
        import cloudpickle

        assert cloudpickle


def main(jobs, results, archive, cloudpickle):
    sys.path.append(cloudpickle)
    if archive:
        import_once(archive)
    with Path(jobs).open() as lines, Path(results).open("a") as stream:
        for line in lines:
            job = json.loads(line)
            child = os.fork()
            if not child:
                run(job, stream)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if status:
                died = {"id": job["id"], "outcome": "crash", "detail": f"died: status {status}"}
                stream.write(json.dumps(died) + "\n")
                stream.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
