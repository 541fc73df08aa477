"""Values as other libraries make them: texts of parsers, documents of configuration, zones of pytz."""

from __future__ import annotations

import http
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.local.backend import LocalBackend
from k8s_venv.backends.process import parse_line
from k8s_venv.calls import open_result, pack
from k8s_venv.config.environment import Environment
from k8s_venv.locks.locking import write_lock
from tests.interpreters import environment, interpreter, run_code

LIBRARIES = ("lxml", "beautifulsoup4", "ruamel.yaml", "tomlkit", "markupsafe", "python-dateutil", "pytz", "freezegun")
CARRY = """
import json
from k8s_venv.wire import values
from k8s_venv.wire.errors import Notes
{code}
notes = Notes()
arrived = values.loads(b"".join(values.buffers(values.dump_parts(value, notes=notes))))
print(json.dumps([repr(arrived), notes.count]))
"""


def carried(code: str) -> tuple[str, int]:
    """Make a value with the libraries and return how what arrives prints itself, and how much became plainer."""
    shown, count = json.loads(run_code(environment("3.12", *LIBRARIES), CARRY.format(code=code)))
    return shown, count


@pytest.mark.parametrize(
    ("code", "arrived", "plainer"),
    [
        (
            "import lxml.etree as etree; value = etree.XML('<a k=\"v\">x<b>y</b></a>').xpath('//text()')",
            "['x', 'y']",
            2,
        ),
        ("import bs4; value = bs4.BeautifulSoup('<p>hi</p>', 'html.parser').p.string", "'hi'", 1),
        ("import bs4; value = bs4.BeautifulSoup('<p class=\"a b\"/>', 'html.parser').p['class']", "['a', 'b']", 1),
        ("import markupsafe; value = {markupsafe.Markup('<b>'): 1}", "{'<b>': 1}", 1),
        (
            "import tomlkit; value = tomlkit.parse('a = 1\\nb = [true, 1.5]\\nc = 2024-02-29\\n[t]\\nu = \"x\"')",
            "{'a': 1, 'b': [True, 1.5], 'c': datetime.date(2024, 2, 29), 't': {'u': 'x'}}",
            8,
        ),
        (
            "import ruamel.yaml; value = ruamel.yaml.YAML().load('a: &x {m: 1}\\nb: [0x1F, 2.50]\\nc: {<<: *x, n: 2}')",
            "OrderedDict({'a': OrderedDict({'m': 1}), 'b': [31, 2.5], 'c': OrderedDict({'n': 2, 'm': 1})})",
            6,
        ),
        (
            "import datetime, freezegun\nwith freezegun.freeze_time('2024-01-02'): value = datetime.date.today()",
            "datetime.date(2024, 1, 2)",
            1,
        ),
    ],
    ids=["lxml", "BeautifulSoup", "a list of BeautifulSoup", "markupsafe", "tomlkit", "ruamel.yaml", "freezegun"],
)
def test_what_libraries_return_arrives_as_plain_data(code: str, arrived: str, plainer: int) -> None:
    assert carried(code) == (arrived, plainer)


@pytest.mark.parametrize("is_dst", [True, False])
def test_pytz_says_the_repeated_hour_in_its_own_way(is_dst: bool) -> None:
    shown, _ = carried(
        f"""
import datetime, pytz
made = pytz.timezone("America/New_York").localize(datetime.datetime(2024, 11, 3, 1, 30), is_dst={is_dst})
arrived = values.loads(values.dumps(made))
value = [arrived.timestamp() == made.timestamp(), str(arrived.tzinfo), arrived.tzname() == made.tzname()]
"""
    )
    assert shown == "[True, 'America/New_York', True]"


def test_a_time_that_pytz_counts_otherwise_stays_the_same_instant() -> None:
    shown, _ = carried(
        """
import datetime, pytz
made = datetime.datetime(2024, 1, 1, tzinfo=pytz.timezone("Europe/Berlin"))  # local mean time, a common mistake
arrived = values.loads(values.dumps(made))
value = [arrived == made, arrived.utcoffset() == made.utcoffset(), arrived.tzname()]
"""
    )
    assert shown == "[True, True, 'LMT']"


# --- whole calls ---------------------------------------------------------------------------------------------


def make_status() -> Any:
    import http

    return {"status": http.HTTPStatus.OK}


def kinds_of(status: Any, html: Any) -> list[str]:
    return [f"{type(each).__name__} {each}" for each in (status, html["body"])]


@pytest.fixture(params=["3.8", "3.12"])
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Environment:
    interpreter(request.param)
    found = Environment(name="bare", root=tmp_path, python=request.param)
    write_lock(found)
    return found


def run(bare: Environment, function: Callable[..., Any], *args: Any) -> tuple[Any, list[str]]:
    """Return the value of a call, and the warnings around it."""
    call, lines = pack(function, args, {}, environment=bare), list[str]()
    value = open_result(LocalBackend().run(call, lines.append), call)
    records = [text for line in lines for kind, text in parse_line(line) if kind == "WARNING"]
    return value, [*call.notes, *records]


def test_a_result_of_a_subclass_arrives_with_a_line_in_the_log(bare: Environment) -> None:
    value, warnings = run(bare, make_status)

    assert (type(value["status"]), value) == (int, {"status": 200})
    assert warnings == ["result['status'] is of the type http.HTTPStatus, which arrives as a plain int."]


def test_an_argument_arrives_as_itself_where_its_library_is_there(bare: Environment) -> None:
    markupsafe: Any = pytest.importorskip("markupsafe")  # which neither environment has

    value, warnings = run(bare, kinds_of, http.HTTPStatus.OK, {"body": markupsafe.Markup("<b>")})

    same = bare.python == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert value == [f"HTTPStatus {http.HTTPStatus.OK}" if same else "int 200", "str <b>"]
    assert len(warnings) == (1 if same else 2)
    assert "html['body']" in warnings[-1] or "args[1]['body']" in warnings[-1]
    assert "is of the type markupsafe.Markup, which arrives as a plain str" in warnings[-1]
