"""One call, packed by several worker processes: a try after a worker's death must know it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = """
import dataclasses
import datetime
import enum
import json
import re
import sys
from pathlib import Path

import jinja2
import numpy
import pandas

from k8s_venv.calls import pack
from k8s_venv.calls.call_digest import call_digest
from k8s_venv.config.environment import Environment

NAMES = {"x", "y", "zed"}
DAYS = {datetime.date(2026, 1, day) for day in range(1, 9)}
TABLE = {"grid": numpy.arange(4), "names": frozenset(NAMES)}


@dataclasses.dataclass(frozen=True)
class Key:
    name: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def work(*args, **kwargs):
    return NAMES, DAYS, TABLE, args in {"a", "b"}


def closing_over():
    names, template = {"p", "q", "r"}, jinja2.Environment()

    class Local:
        tags = {"m", "n", "o"}

    def inner(*args):
        return names, Local, args in {"k", "l", "m"}

    def beside_a_library(*args):
        return names, template, args in {"k", "l", "m"}

    return inner, beside_a_library


inner, beside_a_library = closing_over()
MIXED = ({"a", "b", "c"}, {b"x", b"yy"}, [{frozenset("ab"), frozenset("cd")}], {(b"x", "a"), (b"q", "z")})
CALLS = {
    "state": (work, (), "3.8", {}),
    "sets": (work, MIXED, "3.8", {}),
    "own types": (work, ({Key("a"), Key("b"), Key("c")}, set(Colour)), "3.12", {}),
    "pickled": (work, MIXED, "3.12", {"transport": "cloudpickle"}),
    "a pickled closure": (inner, (1,), "3.12", {"transport": "cloudpickle"}),
    "a library's object": (beside_a_library, (1,), "3.12", {}),
    "pickled arguments": (work, ({re.compile("x"), re.compile("y"), re.compile("z")},), "3.12", {}),
    "a large argument": (work, (numpy.zeros(100_000), {"a", "b"}), "3.12", {}),
    "a frame of sets": (work, (pandas.DataFrame({"s": [{"a", "b"}, {"c", "d"}], "b": [b"1", b"2"]}),), "3.12", {}),
    "a lambda": (lambda x: x in {"a", "b"}, (1,), "3.12", {}),
}

digests = {}
for name, (function, args, python, options) in CALLS.items():
    environment = Environment(name="x", root=Path(__file__).parent, python=python)
    digests[name] = call_digest(pack(function, args, {}, environment=environment, **options))
print(json.dumps(digests))
"""


@pytest.mark.skipif(sys.version_info[:2] != (3, 12), reason="pickles travel between equal minor versions only")
def test_every_worker_gives_a_call_the_same_digest(tmp_path: Path) -> None:
    script = tmp_path / "calls.py"
    script.write_text(CALLS)

    def digests(seed: int) -> dict[str, str]:
        environ = {**os.environ, "PYTHONHASHSEED": str(seed)}
        printed = subprocess.run([sys.executable, str(script)], env=environ, check=True, capture_output=True, text=True)
        found: dict[str, str] = json.loads(printed.stdout)
        return found

    first, *others = (digests(seed) for seed in range(1, 4))

    assert others == [first, first]
    assert len(set(first.values())) == len(first)
