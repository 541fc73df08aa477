"""Functions as DAG authors write them, sent to other interpreters by the real runner."""

from __future__ import annotations

import importlib.util
import linecache
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from k8s_venv.calls import Result, open_result, pack, parse_document, sealed_value, to_document
from k8s_venv.capture.slicer import Slicer
from k8s_venv.config.environment import Environment
from k8s_venv.errors import BackendError, CallError
from tests.interpreters import interpreter

SAMPLES = Path(__file__).parent.parent / "samples"
HERE = "{}.{}".format(*sys.version_info)
TARGETS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]
Send = Callable[..., Any]
Load = Callable[..., ModuleType]
Beside = Callable[[str, str], int]


@pytest.fixture
def send(tmp_path: Path) -> Send:
    """Return a function that calls another one in a Python of another version."""

    def call(
        function: Any,
        *args: Any,
        python: str = "3.8",
        transport: Any = None,
        root: Path = tmp_path,
        serializer: Any = None,
        reference: bool = False,
    ) -> Any:
        environment = Environment(name="other", root=root, python=python)
        packed = pack(function, args, {}, environment=environment, transport=transport, serializer=serializer)
        archive = tmp_path / "call.pyz"
        archive.write_bytes(packed.archive)
        out = tmp_path / "result"
        ran = subprocess.run(
            [interpreter(python), str(archive), "--result", str(out)], capture_output=True, text=True, check=False
        )
        assert (out / "result.json").exists(), ran.stderr
        document = parse_document((out / "result.json").read_text(), "other")
        result = Result(document, (out / "result.bin").read_bytes())
        if reference:
            return to_document(sealed_value(result, packed), document.sha256)
        return open_result(result, packed)

    return call


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return a function that loads a DAG file as Airflow does, under a name that nothing can import."""

    def make(source: str | bytes, folder: str = "dags") -> ModuleType:
        path = tmp_path / folder / "my_dag.py"
        path.parent.mkdir(exist_ok=True)
        data = source if isinstance(source, bytes) else textwrap.dedent(source).encode()
        path.write_bytes(data)
        name = f"unusual_prefix_{abs(hash(data))}_my_dag"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return make


@pytest.fixture
def everything(load: Load) -> ModuleType:
    return load((SAMPLES / "everything.py").read_bytes())


@pytest.mark.parametrize("python", TARGETS)
def test_everything_a_module_can_hold_means_the_same_there(everything: ModuleType, send: Send, python: str) -> None:
    here = everything.everything()

    there = send(everything.everything, python=python, transport="source")

    expected_version = "old" if python == "3.8" else "new"
    assert there == {**here, "ver": expected_version}


def test_the_modules_own_jobs_do_not_run_again(everything: ModuleType, send: Send, tmp_path: Path) -> None:
    send(everything.everything)

    assert (tmp_path / "dags" / "my_dag.ran").read_text() == "x"


@pytest.mark.parametrize("python", ["3.8", HERE, "3.13"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fib", (10,)),
        ("deco", (1,)),
        ("part", ()),
        ("inst", (1,)),
        ("sq", (3,)),
        ("cube", (2,)),
        ("helper", (5,)),
        ("limited", ()),
        ("missing", ()),
    ],
)
def test_callables_of_a_module_travel(
    everything: ModuleType, send: Send, name: str, arguments: tuple[Any, ...], python: str
) -> None:
    function = getattr(everything, name)

    assert send(function, *arguments, python=python) == function(*arguments)


@pytest.mark.parametrize("python", ["3.8", HERE])
def test_what_a_factory_or_a_loop_made_keeps_its_own_values(everything: ModuleType, send: Send, python: str) -> None:
    assert [send(task, 5, python=python) for task in everything.tasks] == [task(5) for task in everything.tasks]
    assert [send(task, python=python) for task in everything.loop] == [1, 2]
    assert send(everything.inst.method, 3, python=python) == 12


@pytest.mark.parametrize("transport", ["source", "cloudpickle"])
@pytest.mark.parametrize(
    ("name", "variable"),
    [("use_lock", "LOCK"), ("use_file", "FILE"), ("use_gen", "GEN"), ("inc", "n")],
)
def test_what_belongs_to_this_process_is_refused_by_name(
    everything: ModuleType, send: Send, name: str, variable: str, transport: str
) -> None:
    with pytest.raises(CallError, match=rf"my_dag\.py:\d+: .*'{variable}'"):
        send(getattr(everything, name), python=HERE, transport=transport)


def test_syntax_that_the_environment_cannot_parse_is_refused_with_its_line(everything: ModuleType, send: Send) -> None:
    with pytest.raises(CallError, match=r"my_dag\.py:\d+: Cannot use `match` statement on Python 3\.8"):
        send(everything.newer, 1, python="3.8")

    assert send(everything.newer, 1, python="3.13") == "a1"


@pytest.mark.parametrize(
    "source",
    [
        "# coding: latin-1\nname = 'é'\ndef f(): return name + 'ü'; name\n".encode("latin-1"),
        b"def f():\r\n\tif True:\r\n\t\treturn '''a\r\nb'''\r\n",
        "grün = 1; größe = 2; schön = lambda: grün + größe\nclass K:\n    é = schön()\ndef f(): return K.é\n".encode(),
        b"\x0cimport math\n\x0c\ndef f(\n): return math.floor(\\\n  2.5)\n",
        b"if (n := 3) > 2:\n    def f(): return n\nelse:\n    def f(): return 0\n",
        b"def f():\n    return g()\ndef g(): return 1\ng = (lambda old: lambda: old() + 1)(g)\n",
        b"import os.path, os as system\ndef f(): return os.path.join('a', 'b') + system.sep\n",
        b"from os.path import *\ndel join\ndef f(): return basename('a/b')\n",
        b"import functools\n@functools.lru_cache(\n  maxsize=1\n)\ndef f(n=1, /, *, k=(1, 2)): return n + sum(k)\n",
        b"n = 0\ndef bump():\n    global n\n    n += 1\n    return n\ndef f(): return bump() and bump()\n",
        b"a = [1]\nb = a\ndef f():\n    a.append(2)\n    return b\n",
        b"class Node:\n    def __init__(self): self.me = self\nnode = Node()\ndef f(): return node.me is node\n",
        b"import os; x = 1; y = x + 1; h = lambda: y\ndef f(): z = h(); return z, os.sep\n",
        b'"About."\ndef f(): return __doc__, __name__.rpartition("_")[2]\n',
        b"import sys\nA = 1\ndef g(): return A\ndef f(): return globals()['A'], eval('g()'), sys.modules[__name__].A\n",
        b"a = [1]\nb = {'a': a}\nclass C: items = a\ndef f():\n    C.items.append(2)\n    return b, a is b['a']\n",
        b"import typing as t\nT = t.TypeVar('T')\nK = t.NewType('K', int)\ndef f(): return t.cast(T, 1), K(2)\n",
        b"import functools\n"
        b"class Counted:\n    def __init__(self, g): self.g, self.n = g, 0; functools.update_wrapper(self, g)\n"
        b"    def __call__(self, *n): self.n += 1; return self.g(*n), self.n\n"
        b"@Counted\ndef g(n=3): return n and g(n - 1)\ng(0); g(0)\ndef f(): return g()\n",
        b"class Curry:\n"
        b"    def __init__(self, g): self.g, self.__name__, self.__module__ = g, g.__name__, g.__module__\n"
        b"    def __call__(self, *x): return self.g(*x)\n    def __reduce__(self): return load, (self.__name__,)\n"
        b"def load(name): return globals()[name]\n@Curry\ndef g(): return 1\ndef f(): return g(), load('g') is g\n",
        b"class Item:\n    all = []; n = 0; one = None; __known = dict()\n"
        b"    def __init__(self): Item.all.append(self); Item.n += 1; Item.one = Item.one or self\n"
        b"    def known(self): return self.__known\n"
        b"    def knows(self, name): self.__known[name] = self.n; return self\n"
        b"a, b = Item().knows('a'), Item().knows('b')\n"
        b"def f(): return Item.n, Item.all == [a, b], Item.one is a, b.known()\n",
        b"import collections\nclass Step:\n    known = collections.defaultdict(list)\n"
        b"    seen = collections.Counter()\n    last = collections.deque(maxlen=2)\n"
        b"    by_name = collections.OrderedDict()\n"
        b"Step.known['a'].append(1); Step.seen['a'] += 1; Step.last.append(1); Step.by_name['b'] = 1\n"
        b"def f(): return [list(each) for each in (Step.known, Step.seen, Step.last, Step.by_name)]\n",
        b"import contextlib\ndef pipeline():\n    @contextlib.contextmanager\n    def session(): yield 4\n"
        b"    def work():\n        with session() as number: return number\n    return work\nf = pipeline()\n",
        b"f = lambda g=lambda: 2, *, h=lambda x: x + 1: h(g())\n",
        b"a = [lambda: 1, lambda x=3: 2, lambda *y: 2, lambda: None]\ndef f(): return [each() for each in a]\n",
        b"class Meta(type):\n    def __init__(self, *parts): Meta.seen[self.__name__] = self\n    seen = {}\n"
        b"class A(metaclass=Meta): pass\ndef f(): return list(Meta.seen)\n",
        b"class A: pass\nclass B(A): pass\ndef f(): return [kind.__name__ for kind in A.__subclasses__()]\n",
        b"ns = {}\nexec('def g(): return n', {'n': 3}, ns)\ng = ns['g']\ndef f(): return g()\n",
        b"import sys\ndef __getattr__(name): return name * 2\ndef f(): return sys.modules[__name__].more\n",
        b"def do_a(): return 1\ndef do_b(): return 2\ndef f(): return [globals()['do_' + x]() for x in 'ab']\n",
        b"if 1 < 2:\n    class A: n = 1\nelse:\n    class A: n = 2\ndef f(): return A.n\n",
        b"def make(n):\n    if n:\n        class A: n = 1\n    else:\n        class A: n = 2\n    return A\n"
        b"A, B = make(1), make(0)\ndef f(): return A.n, B.n\n",
        b"class A: n = 1\nB = A\nclass A(A): n = 2\ndef f(): return A().n, B.n, issubclass(A, B)\n",
        b"known = {}\ndef put(name, into=known): into[name] = 1\nput('a')\n"
        b"def f(known=known): return put('b') or known\n",
        b"import dataclasses\nfrom typing import ClassVar\n@dataclasses.dataclass\nclass A:\n"
        b"    n: 'ClassVar[int]' = 1\ndef f(): return len(dataclasses.fields(A))\n",
        b"a = b = []\nb.append(1)\nc = a\nc.append(2)\ndef g(x=a): return x\ndef f(): return g(), a is b, b is c\n",
        b"import typing\nif typing.TYPE_CHECKING:\n    from nowhere import A\nelse:\n    A = int\n"
        b"def f(): return A(3)\n",
        b"def singleton(kind):\n    made = []\n    def get():\n        made[:] = made or [kind()]\n"
        b"        return made[0]\n"
        b"    return get\n"
        b"@singleton\nclass A:\n    n = 0\n    def up(self): self.n += 1; return self.n\n"
        b"@singleton\n@singleton\nclass B: n = 1\nA().up()\ndef f(): return A().n, A() is A(), B().n\n",
        b"class A:\n    known = {}\n    def __new__(cls, url): return cls.known.setdefault(url, object.__new__(cls))\n"
        b"class Name(str):\n    def __new__(cls, n): return str.__new__(cls, n)\n"
        b"a, n = A('a'), Name('n')\na.x = 1\ndef f(): return A('a') is a, a.x, n + ''\n",
    ],
    ids=["latin-1", "windows", "non-ascii", "form feed", "walrus", "rebound", "dotted import", "star and del",
         "decorator on several lines", "global", "alias", "cycle", "one line", "docstring", "names as text",
         "state that a class shares", "objects named in their statement", "an instance as decorator",
         "an instance that names itself",
         "what instances leave in their class",
         "what is collected in a class", "a local context manager",
         "a lambda's default lambda", "lambdas of constants", "a metaclass that registers", "subclasses asked for",
         "exec", "the module's getattr", "names put together",
         "a class by condition", "a local class by condition", "a class replaced", "a default that a call changes",
         "a class variable in quotes",
         "several names for one list", "an import for type checkers", "singletons",
         "objects that are made once"],
)  # fmt: skip
def test_any_way_of_writing_travels(load: Load, send: Send, source: bytes) -> None:
    module = load(source)
    if b"def bump" in source:
        assert send(module.f, transport="source") == 2
    else:
        there = send(module.f, transport="source")
        assert there == module.f()


def test_a_value_from_outside_is_the_workers_even_where_a_decorator_needs_it(
    load: Load, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_ON_THE_WORKER", "3")
    module = load("""
        import functools, os
        TIMES = int(os.environ["ONLY_ON_THE_WORKER"])
        SETTINGS = {"url": os.environ["ONLY_ON_THE_WORKER"]}
        def repeated(times):
            def decorate(f):
                @functools.wraps(f)
                def wrapper(): return [f() for _ in range(times)]
                return wrapper
            return decorate
        @repeated(TIMES)
        def f(): return SETTINGS["url"]
    """)
    monkeypatch.delenv("ONLY_ON_THE_WORKER")

    assert send(module.f) == ["3", "3", "3"]


def test_class_attributes_and_defaults_from_outside_are_the_workers(
    load: Load, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_ON_THE_WORKER", "prod")
    module = load("""
        import datetime, os, uuid
        class Config:
            stage, é = None, "é"; stage = os.environ.get(
                "ONLY_ON_THE_WORKER",
                "dev",
            ); other = "é"
            made: datetime.datetime = datetime.datetime.now()
            def method(self, given=os.environ.get("ONLY_ON_THE_WORKER")): return given
        def helper(run=uuid.uuid4().hex, *, stage=os.environ.get("ONLY_ON_THE_WORKER")): return run, stage
        def f(): return Config.stage, Config.other, Config.made, Config().method(), helper()
        def fails(given=[os.environ.get("ONLY_ON_THE_WORKER",
                                        "dev")]):
            raise ValueError(given)
    """)
    monkeypatch.delenv("ONLY_ON_THE_WORKER")

    assert send(module.f) == module.f()
    with pytest.raises(ValueError, match="prod") as caught:
        send(module.fails)
    assert 'my_dag.py", line 14, in fails' in str(caught.value.__cause__)


@pytest.mark.parametrize("python", ["3.8", HERE])
def test_code_beside_the_dag_travels(load: Load, send: Send, tmp_path: Path, python: str) -> None:
    package = tmp_path / "dags" / "helpers_of_mine"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("from .cleaning import tidy as clean\nfrom . import cleaning as module\n")
    (package / "cleaning.py").write_text("from helpers_of_mine.deep.inner import TWO\ndef tidy(x): return x * TWO\n")
    (package / "deep" / "inner.py").write_text("import helpers_of_mine\nTWO = 2\n")
    (package / "deep" / "__init__.py").write_text("")
    sys.path.insert(0, str(tmp_path / "dags"))
    try:
        module = load("""
            from helpers_of_mine import clean, module
            def f(x): return clean(x) + module.TWO
        """)
        assert send(module.f, 4, python=python) == 10
        assert send(module.clean, 4, python=python) == 8
    finally:
        sys.path.remove(str(tmp_path / "dags"))
        for name in [name for name in sys.modules if name.startswith("helpers_of_mine")]:
            del sys.modules[name]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    """Return a function that writes a module beside the DAG file, for as long as the test runs."""
    folder = tmp_path / "dags"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield lambda name, text: (folder / f"{name}.py").write_text(text)
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("python", ["3.8", HERE])
def test_what_a_dag_file_changes_beside_it_is_changed_there(
    load: Load, send: Send, beside: Beside, python: str
) -> None:
    beside(
        "settings_of_mine",
        "ROWS, CONF, MODE = [], {'z': 0}, 'dev'\ndef show(): return ROWS, CONF, MODE\n"
        "def traced(f):\n    def inner(): return ('traced', *f())\n    return inner\n",
    )
    module = load("""
        import importlib, settings_of_mine
        from settings_of_mine import CONF, traced
        settings_of_mine.ROWS.append(1)
        settings_of_mine.ROWS += [2]
        settings_of_mine.MODE = "prod"
        CONF["x"] = 1
        CONF.pop("z")
        @traced
        def f(): return importlib.import_module("settings_of_mine").show()
        def g(): return CONF, settings_of_mine.show()
        @traced
        def h(): return 1, 2
    """)

    assert send(module.g, python=python) == ({"x": 1}, ([1, 2], {"x": 1}, "prod"))
    assert send(module.g, python=HERE, transport="cloudpickle") == send(module.g, python=HERE)
    assert send(module.f, python=python)[0] == "traced"
    assert send(module.h, python=python) == ("traced", 1, 2)


@pytest.mark.parametrize(("python", "transport"), [("3.8", "source"), (HERE, "cloudpickle")])
def test_what_registers_itself_beside_the_dag_file_is_registered_there(
    load: Load, send: Send, beside: Beside, tmp_path: Path, python: str, transport: str
) -> None:
    beside(
        "registry_of_mine",
        "class Hub:\n    def __init__(self): self.steps = {}\n"
        "    def step(self, order):\n        return lambda f: self.steps.setdefault(order, []).append(f) or f\n"
        "hub = Hub()\nclass Base: pass\n"
        "def run(): return [f() for n in sorted(hub.steps) for f in hub.steps[n]], len(Base.__subclasses__())\n",
    )
    beside("plugin_of_mine", "from registry_of_mine import hub\n@hub.step(2)\ndef plugged(): return 'plugin'\n")
    module = load("""
        import functools
        import json as unrelated
        import plugin_of_mine
        from registry_of_mine import Base, hub, run
        def traced(f):
            @functools.wraps(f)
            def inner(): return "traced", f()
            return inner
        @traced
        @hub.step(order=1)
        def first(): return NAME
        @traced
        def unused(): return unrelated.dumps({})
        class Sub(Base): pass
        NAME = "first"
        def f(): return run()
    """)

    assert send(module.f, python=python, transport=transport) == (["first", "plugin"], 1)
    assert "unused" not in "".join(text for _, _, text in Slicer(module.f, tmp_path).slices())
    tied = load("""
        import threading
        from registry_of_mine import Base, hub
        LOCK = threading.Lock()
        @hub.step(order=3)
        def third(): return LOCK
        def f(): return Base.__name__
    """)
    assert send(tied.f, python=python, transport=transport) == "Base"


@pytest.mark.parametrize("python", ["3.8", HERE])
def test_annotations_can_be_read_where_something_reads_them(
    load: Load, send: Send, beside: Beside, python: str
) -> None:
    beside(
        "loader_of_mine",
        "import typing\n"
        "def hints(kind): return {name: str(each) for name, each in typing.get_type_hints(kind).items()}\n",
    )
    module = load("""
        import dataclasses, pytest
        from loader_of_mine import hints
        from typing import Dict, List, Literal, Optional
        @dataclasses.dataclass
        class Row:
            number: "int"
            names: Dict[str, "List[int]"]
            mode: Literal["List"] = "List"
        def make(row: "List[Literal['a']]" = (), *, count: '''int''' = (
            3)) -> Optional[Row]: return count
        def other(option: pytest.Item): return 1
        def f(): return hints(Row), hints(make)["row"], sorted(hints(make)), make(), other(1)
    """)

    assert send(module.f, python=python) == module.f()


def test_functions_of_a_notebook_travel_and_use_other_cells(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [
        "import math\nBASE = 2\n",
        "class Box:\n    size = BASE\n",
        "def make():\n    class Local:\n        def size(self): return BASE\n    return Local\nKind = make()\n",
        "def f(x): return math.floor(x) + Box.size + Kind().size()\n",
    ]
    for number, text in enumerate(cells):
        filename = f"<ipython-input-{number}-abc>"
        lines = text.splitlines(keepends=True)
        monkeypatch.setitem(linecache.cache, filename, (len(text), None, lines, filename))
        exec(compile(text, filename, "exec"), names)

    assert send(names["f"], 1.5) == 5


def test_functions_of_the_plain_prompt_are_refused_with_a_sentence(send: Send) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def f(): return 1", "<stdin>", "exec"), names)

    with pytest.raises(CallError, match="has no source text"):
        send(names["f"])


SENTINELS = """
    class Missing:
        def __reduce__(self): return "MISSING"
    MISSING = Missing()
    class Unset: pass
    UNSET = Unset()
    class Tree:
        def __init__(self, size): self.size = size
        def __reduce__(self): return make, (self.size,)
    EMPTY = Tree(0)
    def make(size): return EMPTY if size == 0 else Tree(size)
    def find(key, default=MISSING): return "missing" if default is MISSING else default
    def is_empty(tree): return tree is EMPTY, make(0) is EMPTY, isinstance(tree, Tree), tree.size
    def same(value): return value is UNSET
"""


@pytest.mark.parametrize("python", ["3.8", HERE])
def test_objects_that_are_compared_by_identity_stay_what_they_are(load: Load, send: Send, python: str) -> None:
    module = load(SENTINELS)

    assert send(module.find, 1, python=python) == "missing"
    assert send(module.find, 1, 2, python=python) == 2


def test_arguments_are_of_the_classes_that_the_function_knows(load: Load, send: Send) -> None:
    module = load(SENTINELS)

    assert send(module.is_empty, module.Tree(2), python=HERE) == (False, True, True, 2)
    assert send(module.find, 1, module.MISSING, python=HERE) == "missing"
    assert send(module.is_empty, module.EMPTY, python=HERE) == (True, True, True, 0)


def test_what_only_bytecode_can_say_travels_to_the_same_minor_version(load: Load, send: Send) -> None:
    module = load("""
        import argparse
        exec("def made(x): return x + 1")
        def factory(options):
            class Local:
                value = 1
            def work(other=None): return options.size + (isinstance(other, Local) and 1)
            return work, Local
        work, Local = factory(argparse.Namespace(size=3))
    """)

    assert send(module.made, 1, python=HERE) == 2
    assert send(module.work, python=HERE) == 3
    with pytest.raises(CallError, match=r"uses 'options', which cannot travel: it holds argparse\.Namespace"):
        send(module.work, python="3.8")
    with pytest.raises(CallError, match="has no source text"):
        send(module.made, 1, python="3.8")


def test_an_argument_of_a_class_local_to_a_function_takes_the_function_along_as_bytecode(
    load: Load, send: Send
) -> None:
    module = load("""
        def factory():
            class Local: value = 2
            def work(other): return isinstance(other, Local) and other.value
            return work, Local
        work, Local = factory()
    """)

    assert send(module.work, module.Local(), python=HERE) == 2
    with pytest.raises(CallError, match=r"other is my_dag\.factory\.<locals>\.Local"):
        send(module.work, module.Local(), python="3.8")


def test_what_cannot_be_restored_there_is_told_in_a_sentence(load: Load, send: Send) -> None:
    module = load("""
        import os, sys
        class Picky:
            def __reduce__(self): return Picky.make, (sys.version_info[:2],)
            @staticmethod
            def make(version):
                if sys.version_info[:2] != version: raise RuntimeError("made for another Python")
                return Picky()
        def factory(picky):
            def work(): return picky
            return work
        work = factory(Picky())
    """)

    with pytest.raises(CallError, match=r"What work\(\) needs cannot be restored .* RuntimeError: made for another"):
        send(module.work, python="3.8")


MODEL = """
    class Model:
        def __init__(self, size): self.size = size
        def __eq__(self, other): return type(self) is type(other) and self.size == other.size
    def train(): return {"model": Model(3), "score": 0.5}
    def predict(trained): return isinstance(trained["model"], Model) and trained["model"].size
    def broken():
        class Local:
            def __reduce__(self): return int, ("x",)
        return Local()
"""


def test_a_task_can_opt_in_to_have_its_results_pickled(load: Load, send: Send) -> None:
    module = load(MODEL)

    with pytest.raises(
        CallError, match=r"result\['model'\] is my_dag\.Model\..*register_codec.*serializer=.cloudpickle"
    ):
        send(module.train, python=HERE)
    assert send(module.train, python=HERE, serializer="cloudpickle") == module.train()
    with pytest.raises(CallError, match=r"cannot be unpickled here: ValueError: invalid literal"):
        send(module.broken, python=HERE, serializer="cloudpickle")


def test_a_pickled_result_is_read_by_the_next_task_where_that_opts_in_too(load: Load, send: Send) -> None:
    module = load(MODEL)
    document = send(module.train, python=HERE, serializer="cloudpickle", reference=True)

    assert send(module.predict, document, python=HERE, serializer="cloudpickle") == 3
    with pytest.raises(BackendError, match="pickled part"):
        send(module.predict, document, python=HERE)


def test_results_are_pickled_for_the_same_minor_version_only(load: Load, send: Send) -> None:
    with pytest.raises(CallError, match="needs equal minor versions of Python"):
        send(load(MODEL).train, python="3.8", serializer="cloudpickle")


def test_tracebacks_show_the_lines_of_the_dag_file(load: Load, send: Send) -> None:
    module = load("""
        def f():
            raise ValueError("here")
    """)

    with pytest.raises(ValueError, match="here") as caught:
        send(module.f)

    assert 'my_dag.py", line 3, in f\n    raise ValueError("here")' in str(caught.value.__cause__)
