"""Modules beside a DAG file travel wherever the import of them stands, and only those that Python would import."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.calls.capturing import Captured, capture
from k8s_venv.config.environment import Environment
from k8s_venv.errors import CallError

Capturing = Callable[..., Captured]
Travelling = Callable[..., set[str]]

FILES = {
    "shared.py": "STATE = {'n': 1}\n",
    "other.py": "",
    "pkg/__init__.py": "",
    "pkg/sub.py": "from .deep import x\n",
    "pkg/deep/__init__.py": "x = 1\n",
    "pkg/unused.py": "",
    "pkg_user.py": "import pkg.sub\n",
    "space/part.py": "",
    "chosen/__init__.py": "__all__ = ['first']\n",
    "chosen/first.py": "",
    "chosen/second.py": "",
    "lazy.py": "def load():\n    import shared\n    return shared\n",
}
OWN = {"flow", "wave", "wave_user", *(name.removesuffix(".py").partition("/")[0] for name in FILES)}
SHARED, SUB = {"shared.py"}, {"pkg/__init__.py", "pkg/sub.py", "pkg/deep/__init__.py"}


@pytest.fixture
def captured_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Capturing:
    """Return a function that writes a file with a function `f` beside others, and captures it."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def of(source: str, *, file: str = "flow.py", module: str = "flow", transport: Any = None) -> Captured:
        (tmp_path / file).write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
            monkeypatch.delitem(sys.modules, name)
        function = importlib.import_module(module).f
        environment = Environment(name="plain", root=tmp_path, python="{}.{}".format(*sys.version_info))
        return capture(function, environment, transport)

    return of


@pytest.fixture
def travelling(captured_of: Capturing) -> Travelling:
    """Return a function that tells which files travel with such a function."""
    return lambda *args, **kwargs: set(captured_of(*args, **kwargs).beside)


def body(code: str) -> str:
    return (
        "def make():\n    def f():\n" + textwrap.indent(textwrap.dedent(code), " " * 8) + "\n    return f\nf = make()"
    )


@pytest.mark.parametrize("transport", ["source", "cloudpickle"])
@pytest.mark.parametrize(
    "code",
    [
        body("import shared"),
        body("import shared as s, json"),
        body("from shared import STATE"),
        body("if True:\n    for _ in ():\n        import shared"),
        body("try:\n    import shared\nexcept ImportError:\n    shared = None"),
        body("with open('x'):\n    import shared"),
        body("match 1:\n    case 1:\n        import shared"),
        body("def inner():\n    import shared\n    return shared\nreturn inner()"),
        body("class Inner:\n    import shared\n    def method(self): pass"),
        body("class Inner:\n    def method(self):\n        import shared"),
        body("return (lambda: __import__('shared').STATE)()"),
        body("import importlib\nreturn importlib.import_module('shared')"),
        body("import importlib\nreturn importlib.import_module(name='shared')"),
        body("from importlib import import_module as im\nreturn im('shared')"),
        "from importlib import import_module as im\n" + body("return im('shared')"),
        "import importlib\nload = importlib.import_module\n" + body("return load('shared')"),
        "import runpy\n" + body("return runpy.run_module('shared')"),
        "import runpy\n" + body("return runpy.run_module(mod_name='shared')"),
        body("import pkgutil\nreturn pkgutil.resolve_name('shared:STATE')"),
        body("from airflow.utils.module_loading import import_string\nreturn import_string('shared.STATE')"),
        "f = lambda: __import__('shared').STATE",
        "def make():\n    return lambda: __import__('shared').STATE\nf = make()",
        "def helper():\n    import shared\n    return shared\ndef f():\n    return helper()",
        "def make():\n    def g():\n        import shared\n    def f():\n        return g()\n    return f\nf = make()",
        "class Job:\n    def run(self):\n        import shared\ndef f():\n    return Job().run()",
        "class Job:\n    def run(self):\n        import shared\n        return shared.STATE\nf = Job().run",
        "import functools\ndef g(x):\n    import shared\n    return x\nf = functools.partial(g, 1)",
        "async def f():\n    import shared",
    ],
)
def test_a_module_that_is_imported_inside_a_function_travels(code: str, transport: str, travelling: Travelling) -> None:
    assert travelling(code, transport=transport) == SHARED


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (body("import pkg.sub"), SUB),
        (body("import pkg.sub as sub"), SUB),
        (body("from pkg import sub"), SUB),
        (body("from pkg.sub import x"), SUB),
        ("import pkg\n" + body("from pkg import sub\nreturn pkg, sub"), SUB),
        (body("import importlib\nimportlib.import_module('.sub', package='pkg')"), SUB),
        (body("import importlib\nimportlib.import_module('.sub', 'pkg')"), SUB),
        ("import importlib, pkg\n" + body("importlib.import_module('.sub', pkg.__name__)"), SUB),
        (body("__import__('pkg', fromlist=['sub'])"), SUB),
        (body("__import__('pkg.sub')"), SUB),
        ("import importlib\nNAME = 'pkg.sub'\n" + body("return importlib.import_module(NAME)"), SUB),
        (body("import importlib\nfor name in ('pkg.sub', 'json'):\n    importlib.import_module(name)"), SUB),
        ("import pkg, pkg_user\n" + body("return pkg.sub.x"), SUB),
        (body("import space.part"), {"space/part.py"}),
        (body("from space import part"), {"space/part.py"}),
        (body("import lazy"), {"lazy.py", "shared.py"}),
        (body("import pkg"), {"pkg/__init__.py"}),
    ],
)
def test_of_a_package_travels_what_importing_it_runs(code: str, expected: set[str], travelling: Travelling) -> None:
    assert travelling(code) == expected


@pytest.mark.parametrize(
    "name", ["f'chosen.{name}'", "'chosen.' + name", "'chosen.%s' % name", "'chosen.{}'.format(name)"]
)
def test_of_a_name_that_is_computed_travel_the_modules_of_the_package(name: str, travelling: Travelling) -> None:
    assert travelling(body(f"import importlib\nreturn lambda name: importlib.import_module({name})")) == {
        "chosen/__init__.py",
        "chosen/first.py",
        "chosen/second.py",
    }


@pytest.mark.parametrize(
    "code",
    [
        "from . import sub\ndef f():\n    return sub",
        "def f():\n    from . import sub",
        body("from . import sub"),
        body("from .sub import x"),
        "from importlib import import_module\n" + body("import_module('.sub', __package__)"),
        body("__import__('sub', globals(), locals(), ['x'], 1)"),
    ],
)
def test_a_function_of_a_package_imports_relatively(code: str, travelling: Travelling) -> None:
    assert travelling(code, file="pkg/flow.py", module="pkg.flow") == SUB


def test_a_function_without_readable_source_brings_what_its_code_imports(travelling: Travelling) -> None:
    text = "def f():\\n    import shared, json"

    assert travelling(f"made = {{'__name__': 'made'}}\nexec('{text}', made)\nf = made['f']") == SHARED


@pytest.mark.parametrize("keep", ["load = lambda: __import__('shared')", "def load():\n    import shared"])
def test_what_the_file_sets_in_a_module_that_is_imported_late_is_set_again(keep: str, captured_of: Capturing) -> None:
    captured = captured_of(f"import shared\nshared.STATE['n'] = 2\n{keep}\ndef f():\n    load()\n")

    assert "shared.STATE['n'] = 2\n" in [text for _, _, text in captured.source]


@pytest.mark.parametrize(
    "code",
    [
        "import shared\n" + body("return 1"),
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import shared\n" + body("x: shared.T = 1"),
        body("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import shared"),
        body("import typing\nif typing.TYPE_CHECKING:\n    import shared\nelse:\n    shared = None"),
        body("return 'import shared'"),
        body("if __name__ == '__main__':\n    import shared"),
    ],
)
def test_what_the_function_does_not_import_stays_behind(code: str, travelling: Travelling) -> None:
    assert travelling(code) == set()


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("def f():\n    import wave\n    return wave.RATE", 2),
        ("import wave\ndef f():\n    return wave.RATE", 1),
        ("import wave_user\ndef f():\n    return wave_user.wave", 1),
        ("import wave\nSOUND = wave.Sound()\ndef f():\n    return SOUND", 3),
    ],
    ids=["inside", "at the top", "through another module", "as the type of a value"],
)
def test_a_file_with_the_name_of_a_module_of_pythons_own_is_refused(
    captured_of: Capturing, tmp_path: Path, source: str, line: int
) -> None:
    (tmp_path / "wave.py").write_text(
        "import dataclasses\nRATE = 3\n@dataclasses.dataclass\nclass Sound:\n    rate: int = 1\n"
    )
    (tmp_path / "wave_user.py").write_text("import wave\n")

    with pytest.raises(CallError) as raised:
        captured_of(source)

    assert raised.value.problem == (
        f"f() needs the module wave, which is {tmp_path / 'wave.py'} here and Python's own wave in an environment. "
        "Give the file another name."
    )
    assert raised.value.line == line


def test_such_a_file_is_no_fault_where_the_name_means_pythons_own_here_too(
    captured_of: Capturing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path[1:], sys.path[0]])  # as Airflow appends the folder of DAG files

    captured_of("import json, wave\ndef f():\n    import colorsys\n    return json.dumps(1)")


@pytest.mark.parametrize(
    "code",
    [
        body("import importlib.resources\nreturn importlib.resources.files('pkg')"),
        body("from importlib.resources import files as files_of\nreturn files_of('pkg')"),
        body("from importlib import resources\nreturn resources.read_text('pkg', 'rates.csv')"),
        body("from importlib.resources import open_text\nreturn open_text('pkg', 'rates.csv')"),
        body("from importlib.resources import read_binary\nreturn read_binary('pkg', 'rates.csv')"),
        body("from importlib.resources import open_binary\nreturn open_binary('pkg', 'rates.csv')"),
        body("from importlib.resources import files\nreturn files(anchor='pkg')"),
        body("import pkgutil\nreturn pkgutil.get_data('pkg', 'rates.csv')"),
        body("import pkgutil\nreturn pkgutil.get_data(package='pkg', resource='rates.csv')"),
        body("import pkg\nfrom importlib import resources\nreturn resources.files(pkg)"),
    ],
)
def test_a_package_whose_files_are_read_travels_and_the_call_is_known(code: str, captured_of: Capturing) -> None:
    captured = captured_of(code)

    assert "pkg/__init__.py" in captured.beside
    assert [each.module for _, each in captured.data_reads] == ["pkg"]


def test_files_of_a_modules_own_package_are_known(captured_of: Capturing, tmp_path: Path) -> None:
    (tmp_path / "pkg/reading.py").write_text("from importlib.resources import files\nRATES = files(__package__)\n")

    captured = captured_of(body("import pkg.reading"))

    assert [(Path(file).name, each.module) for file, each in captured.data_reads] == [("reading.py", "pkg")]


def test_files_of_installed_packages_are_no_matter(captured_of: Capturing) -> None:
    code = body("from importlib import resources\nresources.files('click')\nreturn open('x').read_text('utf-8')")

    assert captured_of(code).data_reads == []


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nif sys.version_info >= (3, 11):\n    import not_there",
        "import sys\nif sys.platform == 'win32':\n    import not_there",
        "from importlib.util import find_spec\nif find_spec('not_there'):\n    import not_there",
        "try:\n    import not_there\nexcept ModuleNotFoundError:\n    pass",
        "try:\n    import not_there\nexcept Exception:\n    pass",
        "import contextlib\nwith contextlib.suppress(ImportError):\n    import not_there",
    ],
)
def test_an_import_may_fail_where_the_code_around_it_expects_that(code: str, captured_of: Capturing) -> None:
    captured = captured_of(body(code))

    assert {each.optional for _, each in captured.imports if each.module == "not_there"} == {True}


def test_a_lookup_by_another_name_expects_that_the_module_may_be_missing(captured_of: Capturing) -> None:
    captured = captured_of(body("from importlib.util import find_spec as found\nreturn found('not_there')"))

    assert [each.optional for _, each in captured.imports if each.module == "not_there"] == [True]


@pytest.mark.parametrize(
    "code",
    [
        "import importlib\nJOBS = {'a': 'pkg.sub'}\n" + body("return importlib.import_module(JOBS['a'])"),
        "import importlib\ndef f(names=('pkg.sub', 'os')):\n    return [importlib.import_module(n) for n in names]",
        "import importlib\ndef f(path='pkg.sub:x'):\n    return importlib.import_module(path.split(':')[0])",
        "import importlib\nfor name in ['json']:\n    pass\n"
        "def f(path='pkg.sub:x'):\n    name, _, _ = path.partition(':')\n    return importlib.import_module(name)",
        "import importlib\ndef f(name):\n    return importlib.import_module(name)\ndef use():\n    return f('pkg.sub')",
        "import importlib\ndef f(name):\n    return importlib.import_module(name, 'pkg')\nNAMES = ['.sub']",
    ],
)
def test_of_a_name_that_is_computed_the_modules_travel_that_the_file_names(code: str, travelling: Travelling) -> None:
    assert travelling(code) >= SUB


def test_a_package_that_imports_its_modules_when_they_are_asked_for_travels_with_them(
    captured_of: Capturing, tmp_path: Path
) -> None:
    (tmp_path / "lazily").mkdir()
    (tmp_path / "lazily/__init__.py").write_text(
        "from importlib import import_module\nOF = {'Thing': '.thing'}\n"
        "def __getattr__(name):\n    return getattr(import_module(OF[name], __name__), name)\n"
    )
    (tmp_path / "lazily/thing.py").write_text("class Thing: pass\n")

    captured = captured_of(body("from lazily import Thing"))

    assert captured.beside.keys() == {"lazily/__init__.py", "lazily/thing.py"}


def test_a_module_that_only_may_be_imported_is_not_judged(captured_of: Capturing, tmp_path: Path) -> None:
    (tmp_path / "space/part.py").write_text("import nowhere\n")
    code = "import importlib\nNAME = {'a': 'space.part'}\n" + body("return importlib.import_module(NAME['a'])")

    captured = captured_of(code)

    assert "space/part.py" in captured.beside
    assert all(each.module != "nowhere" for _, each in captured.imports)
