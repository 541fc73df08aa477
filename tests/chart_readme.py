"""The generated part of the chart's README: ``python -m tests.chart_readme`` writes it."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.chart import CHART

README = CHART / "README.md"
_MARKS = ("<!-- values: written by `python -m tests.chart_readme` -->\n", "<!-- end of values -->\n")


def value_comments(text: str) -> dict[str, str]:
    """Return the comment above each value that is no table of further values, by the value's path.

    Args:
        text: a chart's ``values.yaml``.
    """
    comments: dict[str, str] = {}
    path: list[str] = []
    lines: list[str] = []
    for line in text.splitlines():
        entry = re.match(r"( *)([A-Za-z]\w*):", line)
        if line.lstrip().startswith("#"):
            lines.append(line.lstrip("# "))
        elif entry and lines:
            path = [*path[: len(entry[1]) // 2], entry[2]]
            comments[".".join(path)] = " ".join(lines)
            lines = []
        elif entry and not entry[1]:
            path = [entry[2]]
        else:
            lines = []
    return comments


def generated() -> str:
    """Return the README with the tables as the values and their schema say now."""
    text = README.read_text("utf-8")
    before, _, rest = text.partition(_MARKS[0])
    _, _, after = rest.partition(_MARKS[1])
    return f"{before}{_MARKS[0]}\n{_values_table()}\n{_environment_table()}\n{_MARKS[1]}{after}"


def _values_table() -> str:
    text = (CHART / "values.yaml").read_text("utf-8")
    values = yaml.safe_load(text)
    rows = [(path, f"`{json.dumps(_at(values, path))}`", comment) for path, comment in value_comments(text).items()]
    return _table(("value", "default", "meaning"), rows)


def _environment_table() -> str:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))["definitions"]["environment"]
    rows = [
        (f"environments.NAME.{key}", "required" if key in schema["required"] else "", part["description"])
        for key, part in schema["properties"].items()
    ]
    return _table(("value", "", "meaning"), rows)


def _at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def _table(header: tuple[str, ...], rows: list[tuple[str, str, str]]) -> str:
    cells = [header, tuple("---" for _ in header), *((f"`{path}`", default, text) for path, default, text in rows)]
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in cells)


if __name__ == "__main__":
    README.write_text(generated(), "utf-8")
