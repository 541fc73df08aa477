"""Documents and messages are in plain English; single words that are not are in the list of `codespell`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("k8s_venv", "charts", "images", "examples", ".github")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".md", ".py", ".toml", ".yaml", ".yml"}
)
PHRASES = re.compile(r"\b(short of|belongs? into|(said|told) of|asks no|see there)\b", re.IGNORECASE)


@pytest.mark.parametrize("file", [*FILES, ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda file: file.name)
def test_no_sentence_has_to_be_read_twice(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()

    assert [(number, line) for number, line in enumerate(lines, 1) if PHRASES.search(line)] == []


def documented(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.lineno, text


def test_a_docstring_says_what_is_returned() -> None:
    modules = [file for file in FILES if file.suffix == ".py"]
    found = [(file.name, line, text) for file in modules for line, text in documented(file)]

    assert [each for each in found if each[2].startswith(("Tell ", "Say ", "Tells ", "Says "))] == []
