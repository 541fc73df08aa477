"""What travels of a module, and what stays behind."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from k8s_venv.calls.packing import newer_syntax
from k8s_venv.capture.module_source import remember
from k8s_venv.capture.slicer import Slicer
from k8s_venv.errors import CallError

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    def make(source: str) -> ModuleType:
        path = tmp_path / "my_dag.py"
        path.write_text(textwrap.dedent(source), "utf-8")
        spec = importlib.util.spec_from_file_location("unusual_prefix_0_my_dag", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return make


def sliced(function: Any, root: Path) -> list[str]:
    """Return the statements that run in the environment."""
    return [text.strip() for _, _, text in Slicer(function, root).slices()]


def test_only_what_the_function_reaches_travels(load: Load, tmp_path: Path) -> None:
    module = load("""
        import json, os, re as regex
        def helper(): return json.dumps({})
        def other(): return os.getcwd()
        def f(): return helper()
    """)

    assert sliced(module.f, tmp_path) == [
        "import json",
        "def helper(): return json.dumps({})",
        "def f(): return helper()",
    ]


def test_state_travels_as_its_value_and_its_statements_do_not_run_again(load: Load, tmp_path: Path) -> None:
    module = load("""
        table = {}
        for i in range(3):
            table[i] = i
        table.update(more=1)
        def f(): return table
    """)

    assert sliced(module.f, tmp_path) == ["def f(): return table"]


def test_state_without_a_portable_value_is_made_again_by_all_its_statements(load: Load, tmp_path: Path) -> None:
    module = load("""
        import threading
        local = threading.local()
        local.x = 1
        print(local.x)
        def f(): return local.x
    """)

    assert sliced(module.f, tmp_path) == [
        "import threading",
        "local = threading.local()",
        "local.x = 1",
        "def f(): return local.x",
    ]


def test_settings_run_again_and_jobs_do_not(load: Load, tmp_path: Path) -> None:
    module = load("""
        import decimal, os, random, sys, time
        from random import seed
        print("a job")
        time.sleep(0)
        random.seed(1)
        seed(2)
        decimal.getcontext().prec = decimal.getcontext().prec
        sys.path.append("only here")
        def main(): return 1
        main()
        def f(): return 1
        sys.path.pop()
    """)

    assert sliced(module.f, tmp_path) == [
        "import decimal",
        "import random",
        "from random import seed",
        "random.seed(1)",
        "seed(2)",
        "decimal.getcontext().prec = decimal.getcontext().prec",
        "def f(): return 1",
    ]


def test_annotations_are_never_followed_except_where_making_a_class_looks_at_them(load: Load, tmp_path: Path) -> None:
    module = load("""
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import Any, ClassVar
        @dataclass
        class Row:
            count: ClassVar[int] = 0
            value: Any = None
        def f(x: Any) -> Nothing:
            y: Undefined = Row()
            return y
    """)

    names = sliced(module.f, tmp_path)

    assert "from typing import ClassVar" in names
    assert not any("Any" in text for text in names if text.startswith("from"))


def test_the_definition_that_is_in_force_travels(load: Load, tmp_path: Path) -> None:
    module = load("""
        import os
        if os.sep == "/":
            def f(): return "here"
        else:
            def f(): return "elsewhere"
    """)

    assert sliced(module.f, tmp_path) == ['def f(): return "here"']


def test_a_choice_by_python_travels_whole(load: Load, tmp_path: Path) -> None:
    module = load("""
        import sys
        if sys.version_info >= (3, 9):
            def f(): return "new"
        else:
            def f(): return "old"
        OLD = sys.version_info < (3, 9)
        def g(): return OLD
    """)

    assert '"old"' in sliced(module.f, tmp_path)[1]
    assert "OLD = sys.version_info < (3, 9)" in sliced(module.g, tmp_path)


def test_star_imports_bring_single_names(load: Load, tmp_path: Path) -> None:
    module = load("""
        from math import *
        def f(): return floor(pi)
    """)

    assert sorted(sliced(module.f, tmp_path)) == [
        "def f(): return floor(pi)",
        "from math import floor",
        "from math import pi",
    ]


def test_a_registry_brings_those_who_register(load: Load, tmp_path: Path) -> None:
    module = load("""
        REGISTRY = {}
        def register(f):
            REGISTRY[f.__name__] = f
            return f
        @register
        def one(): return 1
        def unrelated(): return 2
        def f(): return list(REGISTRY)
    """)

    slices = sliced(module.f, tmp_path)

    assert any("def one()" in text for text in slices)
    assert not any("unrelated" in text for text in slices)


def test_a_changed_file_is_refused(load: Load, tmp_path: Path) -> None:
    module = load("def f(): return 1\n")
    path = tmp_path / "my_dag.py"
    path.write_text("\n\n\ndef g(): return 1\n")

    with pytest.raises(CallError, match="no longer starts here"):
        Slicer(module.f, tmp_path)


@pytest.mark.parametrize(
    ("text", "python", "what"),
    [
        ("match x:\n    case 1: pass\n", "3.8", "match"),
        ("try: pass\nexcept* ValueError: pass\n", "3.10", r"except\*"),
        ("def f[T](x: T): pass\n", "3.11", "type parameter"),
        ("type X = int\n", "3.11", "type"),
        ("print(f'{a['b']}')\n", "3.11", "f-strings"),
        ("with (open(a) as b, open(c) as d): pass\n", "3.8", "parentheses"),
        ("    match x:\n        case 1: pass\n", "3.9", "match"),
    ],
)
def test_newer_syntax_is_found_on_its_line(text: str, python: str, what: str) -> None:
    found = newer_syntax([("a.py", 3, "x = 1\n"), ("b.py", 10, text)], python)

    assert [finding.file for finding in found] == ["b.py"]
    assert found[0].line in (10, 11)
    assert re.search(what, found[0].problem)
    assert python in found[0].problem


def test_syntax_that_all_have_is_not_found() -> None:
    text = (
        "def f(a, /, *, b: int | None = None) -> list[int]:\n    if (n := a) in {**b} | {}:\n        return f'{n=}'\n"
    )

    assert newer_syntax([("a.py", 1, text)], "3.8") == []


def test_what_was_loaded_travels_though_the_file_is_edited_meanwhile(load: Load, tmp_path: Path) -> None:
    before = load("def f(): return 1\n")
    remember(before.f)
    (tmp_path / "my_dag.py").write_text("def f(): return 22\n")
    remember(before.f)

    assert sliced(before.f, tmp_path) == ["def f(): return 1"]

    after = load("def f(): return 333\n")
    remember(after.f)

    assert sliced(after.f, tmp_path) == ["def f(): return 333"]
