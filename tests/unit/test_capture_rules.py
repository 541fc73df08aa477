"""The words of the rules of capture: each is met by such code as people write."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import textwrap
import threading
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.capture.origins import is_editable, line_of_path_change, modules_among, why_absent
from k8s_venv.capture.slicer import Slicer
from k8s_venv.capture.values import bound_to_process
from k8s_venv.wire.restoring import parse_slice
from tests.calls import load_dag_file

Sliced = Callable[[str], list[str]]

LIBRARY = """
import collections
LIST, SET, DICT, TABLE = [1, 2], {1, 2}, {"a": 1}, collections.UserDict(a=1)
class Options: max_rows = 1
options = Options()
def anything(*args, **kwargs): return lambda f: f
set_option = use = configure = register_adapter = disable_warnings = enable_cache = anything
from_dict = Converter = typechecked = anything
"""


@pytest.fixture
def sliced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sliced:
    """Return a function that returns the statements which run again for the function `f` of a DAG file."""
    monkeypatch.syspath_prepend(tmp_path / "site-packages")

    def statements(source: str) -> list[str]:
        sys.modules.pop("library_of_mine", None)
        path = tmp_path / "rules_dag.py"
        path.write_text(textwrap.dedent(source), "utf-8")
        return [text.strip() for _, _, text in Slicer(load_dag_file(path).f, tmp_path).slices()]

    return statements


@pytest.fixture
def install(tmp_path: Path) -> Callable[[str], None]:
    """Return a function that installs a package of the sort that many DAG files configure."""
    folder = tmp_path / "site-packages"
    folder.mkdir()

    def write(name: str) -> None:
        (folder / f"{name}.py").write_text(LIBRARY)

    return write


@pytest.mark.parametrize(
    ("imports", "statement"),
    [
        ("import warnings", "warnings.filterwarnings('ignore', message='of mine')"),
        ("import warnings", "warnings.simplefilter('default')"),
        ("import logging", "logging.basicConfig(level=logging.INFO)"),
        ("import logging", "logging.getLogger('azure').setLevel(logging.WARNING)"),
        ("import logging", "logging.getLogger('azure').handlers.clear()"),
        ("import logging", "logging.disable(logging.NOTSET)"),
        ("import faulthandler", "faulthandler.enable()"),
        ("import sys", "sys.setrecursionlimit(sys.getrecursionlimit())"),
        ("import sqlite3", "sqlite3.register_adapter(list, str)"),
        ("import mimetypes", "mimetypes.add_type('application/of.mine', '.of-mine')"),
        ("import os", "os.environ['SET_BY_A_DAG'] = '1'"),
        ("import os", "os.environ.setdefault('SET_BY_A_DAG', '1')"),
        ("import os", "os.environ.update(SET_BY_A_DAG='1')"),
        ("import os", "os.environ.pop('SET_BY_A_DAG', None)"),
        ("import os", "if 'SET_BY_A_DAG' not in os.environ:\n    os.environ['SET_BY_A_DAG'] = '1'"),
        ("import locale", "try:\n    locale.setlocale(locale.LC_ALL, 'C')\nexcept locale.Error:\n    pass"),
    ],
)
def test_settings_of_python_run_again(
    sliced: Sliced, monkeypatch: pytest.MonkeyPatch, imports: str, statement: str
) -> None:
    monkeypatch.setenv("SET_BY_A_DAG", "0")
    module = imports.split()[1]

    assert statement in sliced(f"{imports}\n{statement}\ndef f(): return {module}\n")


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("library_of_mine.use('Agg')", id="plotting backends"),
        pytest.param("library_of_mine.configure(level=1)", id="structured logging"),
        pytest.param("library_of_mine.register_adapter(dict, str)", id="database drivers"),
        pytest.param("library_of_mine.disable_warnings()", id="HTTP clients"),
        pytest.param("library_of_mine.enable_cache('x')", id="caches of requests"),
        pytest.param("library_of_mine.set_option('display.width', 200)", id="data frames"),
        pytest.param("library_of_mine.options.max_rows = 10", id="options as attributes"),
        "library_of_mine.LIST.append(1)",
        "library_of_mine.LIST.extend([1])",
        "library_of_mine.LIST.insert(0, 1)",
        "library_of_mine.LIST.remove(1)",
        "library_of_mine.LIST.pop()",
        "library_of_mine.LIST.clear()",
        "library_of_mine.LIST += [1]",
        "library_of_mine.SET.add(1)",
        "library_of_mine.DICT.update(c=1)",
        "library_of_mine.DICT.setdefault('c', 1)",
        "del library_of_mine.TABLE['a']",
    ],
)
def test_settings_of_packages_run_again_where_the_function_uses_them(
    sliced: Sliced, install: Callable[[str], None], statement: str
) -> None:
    install("library_of_mine")
    source = f"import library_of_mine\n{statement}\ndef f(): return "

    assert statement in sliced(f"{source}library_of_mine\n")
    assert statement not in sliced(f"{source}1\n")


@pytest.mark.parametrize(
    "statement",
    [
        "sys.path.insert(0, 'only here')",
        "sys.path += ['only here']",
        "path.append('only here')",
        "sys.argv = sys.argv",
        "sys.stdout = sys.stdout",
        "sys.stderr = sys.stderr",
        pytest.param("sys.modules['replaced_by_a_dag'] = sys", id="a module replaced, as for vector databases"),
        "logging.handlers_of_mine.append(os.environ['PATH'])",
    ],
)
def test_what_belongs_to_the_sending_process_is_no_setting(
    sliced: Sliced, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(logging, "handlers_of_mine", [], raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "replaced_by_a_dag", sys)

    found = sliced(f"import logging, os, sys\nfrom sys import path\n{statement}\ndef f(): return logging, os, sys\n")

    assert statement not in found


@pytest.mark.parametrize(
    "value",
    [
        "sys.version_info >= (3, 9)",
        "sys.version.split()[0]",
        "sys.hexversion > 0x03090000",
        "sys.platform == 'win32'",
        "sys.implementation.name",
        "sys.executable",
        "sys.prefix != sys.base_prefix",
        "sys.stdout",
        "sys.stderr",
        "'pyspark' in sys.modules",
        "platform.system() == 'Windows'",
        "os.name == 'nt'",
        "metadata.version('click')",
        "version('click')",
        "json.__version__",
        "hasattr(os, 'fork')",
        "typing.TYPE_CHECKING",
    ],
)
def test_a_value_that_depends_on_python_is_made_there(sliced: Sliced, value: str) -> None:
    imports = (
        "import json, os, platform, sys, typing\nfrom importlib import metadata\nfrom importlib.metadata import version"
    )

    assert f"FOUND = {value}" in sliced(f"{imports}\nFOUND = {value}\ndef f(): return FOUND\n")


@pytest.mark.parametrize(
    "choice",
    [
        "try:\n    import tomllib\nexcept Exception:\n    tomllib = None",
        "try:\n    tomllib = importlib.import_module('tomllib')\nexcept ModuleNotFoundError:\n    tomllib = None",
        "try:\n    tomllib = importlib.import_module('tomllib')\nexcept ImportError:\n    tomllib = None",
        "try:\n    tomllib = functools.cache\nexcept AttributeError:\n    tomllib = None",
        "try:\n    tomllib = unicode\nexcept NameError:\n    tomllib = str",
        "if typing.TYPE_CHECKING:\n    from nowhere import tomllib\nelse:\n    tomllib = None",
        "if sys.version_info >= (3, 11):\n    import tomllib\nelse:\n    tomllib = None",
    ],
)
def test_a_choice_between_pythons_is_made_there(sliced: Sliced, choice: str) -> None:
    assert choice in sliced(f"import functools, importlib, sys, typing\n{choice}\ndef f(): return tomllib\n")


@pytest.mark.parametrize(
    "value",
    [
        "os.getenv('HOME')",
        "getpass.getuser()",
        "sorted(iglob('*.sql'))",
        "random.random()",
        "secrets.token_hex()",
        "socket.gethostname()",
        "subprocess.check_output(['true'])",
        "time.time()",
        "pathlib.Path(tempfile.gettempdir())",
        "urllib.request.urlopen('data:,x').read()",
        "uuid.uuid4().hex",
        "datetime.datetime.now()",
        "datetime.date.today()",
        "datetime.datetime.utcnow()",
        "pathlib.Path(__file__).read_text()",
        "pathlib.Path(__file__).read_bytes()",
        "pathlib.Path(__file__).open().readline()",
        "sorted(pathlib.Path(__file__).parent.iterdir())",
        "sorted(pathlib.Path(__file__).parent.glob('*.sql'))",
        "pathlib.Path('/etc/of_the_worker').exists()",
        "open(__file__).readline()",
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_class_attribute_that_was_read_from_outside_is_sent_as_its_value(sliced: Sliced, value: str) -> None:
    imports = (
        "import datetime, getpass, os, pathlib, random, secrets, socket, subprocess, tempfile, time\n"
        "import urllib.request, uuid\n"
        "from glob import iglob"
    )

    found = sliced(f"{imports}\nclass C:\n    x = {value}\ndef f(): return C\n")

    assert any("class C" in text and value not in text for text in found)


@pytest.mark.parametrize(
    "lookup",
    ["globals()['helper']()", "eval('helper()')", "exec('helper()')", "getattr(sys.modules[__name__], 'helper')()"],
)
def test_a_function_that_is_found_by_the_text_of_its_name_travels(sliced: Sliced, lookup: str) -> None:
    found = sliced(f"import sys\ndef helper(): return 1\ndef f(): return {lookup}\n")

    assert "def helper(): return 1" in found


@pytest.mark.parametrize(
    ("made", "changed"),
    [
        ("threading.local()", "state.x = 1"),
        ("threading.local()", "setattr(state, 'x', 1)"),
        ("csv.reader(['name', 'a'])", "next(state)"),
        ("None", "def start():\n    global state\n    state = threading.local()\nstart()"),
        ("functools.singledispatch(print)", "@state.register(int)\ndef _(x): return x"),
    ],
)
def test_state_that_is_made_again_is_changed_again(sliced: Sliced, made: str, changed: str) -> None:
    found = sliced(f"import csv, functools, threading\nstate = {made}\n{changed}\ndef f(): return state\n")

    assert changed.rpartition("\n\n")[2].splitlines()[-1] in "\n".join(found)


@pytest.mark.parametrize(
    "package",
    [
        "attr",
        "attrs",
        "beartype",
        "cattrs",
        "dacite",
        "marshmallow_dataclass",
        "mashumaro",
        "msgspec",
        "pydantic",
        "typeguard",
    ],
)
def test_annotations_are_followed_for_packages_that_read_them(
    sliced: Sliced, install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.delitem(sys.modules, package, raising=False)
    install(package)
    source = """
        import dataclasses
        from decimal import Decimal
        from PACKAGE import from_dict
        @dataclasses.dataclass
        class Row:
            price: Decimal
            place: "where it stands"
        def f(row): return from_dict(Row, row)
    """

    assert "from decimal import Decimal" in sliced(source.replace("PACKAGE", package))


@pytest.mark.parametrize(
    "reading",
    [
        "typing.get_type_hints(make)",
        "make.__annotations__",
        "inspect.signature(make).parameters['price'].annotation",
    ],
)
def test_annotations_are_followed_for_code_that_reads_them(sliced: Sliced, reading: str) -> None:
    source = f"""
        import inspect, typing
        from decimal import Decimal
        def make(price: Decimal): return price
        def f(): return {reading}
    """

    assert "from decimal import Decimal" in sliced(source)


@pytest.mark.parametrize(
    "definition",
    [
        "class Row(pydantic.BaseModel, arbitrary_types_allowed=True):\n    version: Version",
        "@pydantic.dataclasses.dataclass(config={'arbitrary_types_allowed': True})\nclass Row:\n    version: Version",
        "@dataclasses.dataclass\nclass Row:\n    version: dataclasses.InitVar[Version]",
    ],
)
def test_annotations_that_making_a_class_reads_are_followed(sliced: Sliced, definition: str) -> None:
    imports = "import dataclasses, pydantic.dataclasses\nfrom packaging.version import Version\n"

    found = sliced(f"{imports}{definition}\ndef f(): return Row\n")

    assert ("from packaging.version import Version" in found) == ("pydantic" in definition)


def test_the_marks_of_a_dataclass_travel(sliced: Sliced) -> None:
    found = sliced("""
        import dataclasses
        from dataclasses import InitVar, KW_ONLY
        from typing import ClassVar
        @dataclasses.dataclass
        class Row:
            known: ClassVar[dict] = {}
            scale: InitVar[int]
            _: KW_ONLY
            size: int = 0
        def f(): return Row
    """)

    assert {"InitVar", "KW_ONLY", "ClassVar"} <= {text.split()[-1] for text in found}


def test_annotations_are_not_followed_for_other_packages(sliced: Sliced, install: Callable[[str], None]) -> None:
    install("library_of_mine")
    source = """
        from decimal import Decimal
        from library_of_mine import anything
        def f(price: Decimal): return anything
    """

    assert "from decimal import Decimal" not in sliced(source)


@pytest.mark.parametrize(
    "make", [threading.Event, threading.Condition, threading.Semaphore, threading.RLock, threading.Thread]
)
def test_what_is_tied_to_the_process_is_named(make: Callable[[], Any]) -> None:
    assert "belongs to this process" in (bound_to_process(make()) or "")


def test_event_loops_coroutines_and_sockets_are_tied_to_the_process() -> None:
    async def wait() -> None: ...

    loop, coroutine, connection = asyncio.new_event_loop(), wait(), socket.socket()

    assert all(map(bound_to_process, (loop, coroutine, connection)))
    loop.close()
    coroutine.close()
    connection.close()


def test_a_module_that_does_not_travel_is_explained(tmp_path: Path) -> None:
    compiled = tmp_path / f"fast{EXTENSION_SUFFIXES[0]}"
    for path in (compiled, tmp_path / "tools.py", tmp_path / "package/__init__.py"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")

    def why(module: str) -> str | None:
        return why_absent(module, tmp_path / "dag.py", tmp_path)

    assert why("fast") == (
        f"It is {compiled}, which is compiled for this Python alone and does not travel. Make a package of it."
    )
    assert why("tools") == (
        f"It is {tmp_path / 'tools.py'}, which did not travel, since no import names it. Import it by its name in the "
        "function."
    )
    assert why("tools.csv") == f"tools is {tmp_path / 'tools.py'}, which is not a package."
    assert why("package.gone") == f"There is no gone.py in {tmp_path / 'package'}."
    assert why("gone") is None


@pytest.mark.parametrize(
    "statement",
    [
        "sys.path.append('/opt/code')",
        "sys.path.insert(0, '/opt/code')",
        "sys.path.extend(['/opt/code'])",
        "site.addsitedir('/opt/code')",
        "sys.path = ['/opt/code', *sys.path]",
        "sys.path += ['/opt/code']",
        "sys.path[:0] = ['/opt/code']",
    ],
)
def test_the_line_that_adds_a_folder_to_the_path_is_found(statement: str) -> None:
    def line_of(text: str) -> int | None:
        return line_of_path_change(parse_slice({"file": "a.py", "line": 7, "text": text}))

    assert line_of(f"def f():\n    {statement}\n    import code_of_mine\n") == 8
    assert line_of("def f():\n    names.append('/opt/code')\n    sys.argv = []\n") is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("def __getattr__(name): ...", id="modules loaded when asked for"),
        pytest.param("from .core import *", id="names gathered from modules"),
        pytest.param("globals()[kind] = load(kind)", id="plugins"),
        pytest.param("exec((here / 'version.py').read_text())", id="a version in a file of its own"),
        pytest.param("vars()[kind] = load(kind)", id="plugins in the namespace"),
        pytest.param("setattr(here, kind, load(kind))", id="plugins set as attributes"),
        pytest.param("import sys; sys.modules[__name__] = Lazy()", id="a module replaced by an object"),
        pytest.param("__path__ = __import__('pkgutil').extend_path(__path__, __name__)", id="folders put together"),
    ],
)
def test_names_of_a_package_that_makes_them_when_it_runs_are_not_taken_for_modules(tmp_path: Path, text: str) -> None:
    package = tmp_path / "__init__.py"
    package.write_text(text)

    assert modules_among(["reader"], package) == []

    package.write_text("from .core import writer\n")

    assert modules_among(["reader", "writer"], package) == ["reader"]


def test_the_folder_of_a_package_that_is_installed_as_editable_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "site-packages" / "common_of_mine-1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: common-of-mine\nVersion: 1.0\n")
    (record / "direct_url.json").write_text(f'{{"url": "file://{tmp_path}/common", "dir_info": {{"editable": true}}}}')
    monkeypatch.syspath_prepend(record.parent)

    assert is_editable(tmp_path / "common" / "src" / "common_of_mine.py")
    assert not is_editable(tmp_path / "other" / "common_of_mine.py")
