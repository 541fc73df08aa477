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
from k8s_venv.environment import Environment

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
OWN = {"flow", *(name.removesuffix(".py").partition("/")[0] for name in FILES)}
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
