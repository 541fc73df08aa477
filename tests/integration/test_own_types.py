"""Types of the project's own modules are recognised wherever they were defined, and on whichever side they are."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s_venv import load
from k8s_venv.calls import open_result, pack, refer, to_document
from k8s_venv.config.environment import Environment
from k8s_venv.errors import CallError
from k8s_venv.wire.values import dumps, sha256_of
from tests.calls import DAG_NAME, load_dag_file, run_packed
from tests.interpreters import interpreter

HERE = "{}.{}".format(*sys.version_info)

SHAPES = """
    import dataclasses, enum, typing

    class Color(enum.Enum):
        RED = 1

    class Rights(enum.Flag):
        READ = 1
        WRITE = 2

    class Point(typing.NamedTuple):
        x: int
        y: int = 0

    @dataclasses.dataclass
    class Box:
        corner: Point
        colors: typing.List[Color]

        @dataclasses.dataclass(frozen=True)
        class Lid:
            closed: bool
"""


@pytest.fixture(params=["3.8", HERE])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Environment:
    return Environment(name="other", root=tmp_path, python=request.param)


@pytest.fixture
def call(environment: Environment, tmp_path: Path) -> Callable[..., Any]:
    """Call a function in the environment; by reference, return the document instead of the value."""

    def run(function: Any, *args: Any, result: str = "value", transport: Any = None) -> Any:
        packed = pack(function, args, {}, environment=environment, transport=transport)
        ran = run_packed(packed, tmp_path / "call")
        return json.loads(json.dumps(refer(ran, packed))) if result == "reference" else open_result(ran, packed)

    return run


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Write a module beside the DAG file, which can be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
        return path

    return file


def test_the_module_of_an_arguments_type_travels_whether_or_not_the_function_names_it(
    call: Callable[..., Any], write: Callable[..., Path]
) -> None:
    write("shapes.py", SHAPES)
    dag = load_dag_file(write("shop.py", "def kind(v): return type(v).__qualname__\ndef same(v): return v\n"))
    import shapes  # type: ignore[import-not-found]

    box = shapes.Box(shapes.Point(1), [shapes.Color.RED])

    assert call(dag.kind, box) == "Box"
    for value in (
        [box, {"deep": (shapes.Rights.READ | shapes.Rights.WRITE, shapes.Color.RED)}],
        shapes.Point(2, 3),
        shapes.Box.Lid(closed=True),
    ):
        assert call(dag.same, value) == value


def test_so_does_that_of_a_value_handed_on_by_reference_and_nothing_is_imported_here(
    call: Callable[..., Any], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("shapes.py", SHAPES)
    maker = load_dag_file(write("maker.py", "import shapes\ndef make(): return shapes.Point(1)\n"))
    document = call(maker.make, result="reference")
    taker = load_dag_file(write("shop.py", "def x_of(point): return point.x\n"))
    monkeypatch.delitem(sys.modules, "shapes")

    assert call(taker.x_of, document) == 1
    with pytest.raises(CallError, match=r"needs the type shapes\.Point\. Import its module before"):
        load(document)
    assert "shapes" not in sys.modules

    import shapes

    assert load(document) == shapes.Point(1)


def test_a_document_that_names_a_module_of_the_project_does_not_run_it(
    call: Callable[..., Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    write("shapes.py", SHAPES)
    write("deploy.py", f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    dag = load_dag_file(write("shop.py", "import shapes\ndef make(): return shapes.Point(1)\ndef same(v): return v\n"))
    payload = dumps(dag.make(), types=lambda module, name: dag.shapes.Point).replace(b"shapes", b"deploy")

    with pytest.raises(CallError, match=r"deploy\.Point, which did not travel"):
        call(dag.same, to_document(payload, sha256_of(payload)))
    assert not (tmp_path / "ran").exists()


def test_a_result_of_a_type_that_is_not_loaded_here_says_what_to_import(
    call: Callable[..., Any], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("shapes.py", SHAPES)
    dag = load_dag_file(write("shop.py", "import shapes\ndef make(): return shapes.Point(1)\n"))
    monkeypatch.delitem(sys.modules, "shapes")

    with pytest.raises(
        CallError, match=r"the module shapes is not loaded here: a result never imports one\. Import it"
    ):
        call(dag.make)


DAG = """
    import dataclasses, enum

    class Kind(enum.Enum):
        OLD = "old"

    @dataclasses.dataclass
    class Range:
        start: int
        kind: Kind

    class RangeError(ValueError):
        def __init__(self, text, *, given):
            super().__init__(text)
            self.given = given

    def start_of(v):
        return v.start if isinstance(v, Range) and v.kind is Kind.OLD else None

    def make():
        return Range(3, Kind.OLD)

    def fail():
        raise RangeError("empty", given=Range(3, Kind.OLD))
"""


@pytest.mark.parametrize("transport", ["source", "cloudpickle"])
def test_a_dag_file_that_was_loaded_again_still_knows_its_types(
    call: Callable[..., Any], write: Callable[..., Path], environment: Environment, transport: str
) -> None:
    if transport == "cloudpickle" and environment.python != HERE:
        pytest.skip("pickled functions travel between equal versions only")
    path = write("shop.py", DAG)
    first, second = load_dag_file(path), load_dag_file(path)

    for dag, other in ((first, second), (second, first)):
        assert call(dag.start_of, dag.Range(2, dag.Kind.OLD), transport=transport) == 2
        assert type(call(dag.make, transport=transport)) is dag.Range
        make: Callable[..., Any] = dag.Range
        assert type(call(functools.partial(make, 4), dag.Kind.OLD, transport=transport)) is make
        with pytest.raises(dag.RangeError, match="empty") as caught:
            call(dag.fail, transport=transport)
        assert caught.value.given == dag.make()
        if transport == "source":
            assert call(dag.start_of, other.Range(2, other.Kind.OLD)) == 2


def test_a_value_of_a_dag_file_is_read_where_the_file_was_loaded_under_another_name(
    call: Callable[..., Any], write: Callable[..., Path]
) -> None:
    document = call(load_dag_file(write("shop.py", DAG)).make, result="reference")
    del sys.modules[DAG_NAME]

    import shop  # type: ignore[import-not-found]

    assert load(document) == shop.Range(3, shop.Kind.OLD)


SCRIPT = """
    import dataclasses, enum
    import k8s_venv, helpers

    @dataclasses.dataclass
    class P:
        x: int

    class Color(enum.Enum):
        RED = 1

    class ScriptError(Exception):
        pass

    def take(p):
        return p.x if isinstance(p, P) else None

    def make():
        return P(3)

    def fail():
        raise ScriptError("no")

    if __name__ == "__main__":
        print(k8s_venv.run("plain", take, P(3)), k8s_venv.run("plain", make), k8s_venv.run("plain", helpers.same, P(4)))
        print(k8s_venv.run("plain", helpers.same, Color.RED) is Color.RED)
        try:
            k8s_venv.run("plain", fail)
        except ScriptError as error:
            print("caught", error)
"""


@pytest.mark.parametrize("python", ["3.8", HERE])
@pytest.mark.parametrize(
    ("file", "command"), [("script.py", ["script.py"]), ("app/__main__.py", ["-m", "app"])], ids=["script", "package"]
)
def test_types_and_exceptions_of_a_script_are_recognised_both_ways(
    tmp_path: Path, python: str, file: str, command: list[str]
) -> None:
    project = f'backend = "local"\n[environments.plain]\npython = "{python}"\ninterpreter = "{interpreter(python)}"\n'
    (tmp_path / "k8s-venv.toml").write_text(project)
    (tmp_path / "helpers.py").write_text("def same(value):\n    return value\n")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(textwrap.dedent(SCRIPT))

    ran = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ran.stdout.splitlines()[-3:] == ["3 P(x=3) P(x=4)", "True", "caught no"], ran.stderr
