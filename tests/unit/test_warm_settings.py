"""`warm` of an environment in the project file: how many pods wait for its calls."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_venv.config.environment import Environment
from k8s_venv.config.project import load_project
from k8s_venv.config.warm import WarmPool
from k8s_venv.errors import ProjectError


def read(folder: Path, text: str) -> Environment:
    path = folder / "k8s-venv.toml"
    path.write_text(textwrap.dedent(text))
    return load_project(path).environment("etl")


def read_warm(folder: Path, setting: str) -> WarmPool | None:
    return read(folder, f'[environments.etl]\npython = "3.12"\nwarm = {setting}\n').warm


def test_an_environment_says_how_many_pods_wait_for_its_calls(tmp_path: Path) -> None:
    warm = read_warm(tmp_path, '{ min = 1, max = 8, idle = "10m", preload = ["pandas", "google.cloud.storage"] }')

    assert warm == WarmPool(min=1, max=8, idle=600, preload=("pandas", "google.cloud.storage"))


def test_it_can_be_a_table_of_its_own(tmp_path: Path) -> None:
    environment = read(
        tmp_path,
        """
        [environments.etl]
        python = "3.12"

        [environments.etl.warm]
        min = 2
        idle = 90
        """,
    )

    assert environment.warm == WarmPool(min=2, max=2, idle=90)


def test_without_it_no_pod_waits(tmp_path: Path) -> None:
    assert read(tmp_path, '[environments.etl]\npython = "3.12"\n').warm is None


@pytest.mark.parametrize(("setting", "least", "most"), [("{}", 1, 1), ("{ min = 3 }", 3, 3), ("{ max = 4 }", 1, 4)])
def test_as_many_wait_at_most_as_always_unless_it_says_more(
    tmp_path: Path, setting: str, least: int, most: int
) -> None:
    warm = read_warm(tmp_path, setting)

    assert warm is not None
    assert (warm.min, warm.max) == (least, most)


@pytest.mark.parametrize(
    ("written", "seconds"), [('"90s"', 90), ('"1h30m"', 5400), ('"1d 2h"', 93_600), ("45", 45), ('" 10 m "', 600)]
)
def test_idle_is_a_duration(tmp_path: Path, written: str, seconds: int) -> None:
    assert read_warm(tmp_path, f"{{ idle = {written} }}") == WarmPool(idle=seconds)


@given(st.integers(0, 29), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_a_duration_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, seconds: int) -> None:
    written = f"{days}d{hours}h{minutes}m{seconds}s"

    assert WarmPool.model_validate({"idle": written}).idle == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def test_a_module_that_is_named_twice_is_imported_once(tmp_path: Path) -> None:
    assert read_warm(tmp_path, '{ preload = ["pandas", "json", "pandas"] }') == WarmPool(preload=("pandas", "json"))


# Each wrong setting, and what is said of it.
WRONG = {
    "min above max": ("{ min = 3, max = 2 }", "`max` of [environments.etl.warm]: must not be below min = 3, but is 2."),
    "no pod at all": ("{ min = 0 }", "`min` of [environments.etl.warm]: must be 1 or more. Leave out `warm` if no"),
    "fewer than none": ("{ min = -1 }", "`min` of [environments.etl.warm]: must be a number of pods from 1 to 500"),
    "too many": ("{ max = 501 }", "must be a number of pods from 1 to 500, not 501."),
    "a number as text": ('{ min = "1" }', "`min` of [environments.etl.warm]: must be a number of pods, such as 2, not"),
    "a flag for a number": ("{ max = true }", "must be a number of pods, such as 2, not True."),
    "no duration": ('{ idle = "soon" }', '`idle` of [environments.etl.warm]: must be a duration, such as "10m"'),
    "an empty duration": ('{ idle = " " }', "must be a duration"),
    "a duration without its unit": ('{ idle = "10" }', "must be a duration"),
    "a fraction": ("{ idle = 1.5 }", "must be a duration"),
    "no time": ('{ idle = "0s" }', "must be from 1 second to 30 days, not 0 seconds."),
    "a very long time": ('{ idle = "31d" }', "must be from 1 second to 30 days"),
    "a number without end": (f'{{ idle = "{"9" * 5000}d" }}', "must be a duration"),
    "modules as text": ('{ preload = "pandas" }', 'must be a list of modules, such as preload = ["pandas"], not'),
    "a package for a module": ('{ preload = ["scikit-learn"] }', "'scikit-learn' is not the name of a module."),
    "a requirement": ('{ preload = ["pandas>=2"] }', "'pandas>=2' is not the name of a module."),
    "a relative module": ('{ preload = [".helpers"] }', "'.helpers' is not the name of a module."),
    "a keyword": ('{ preload = ["class"] }', "'class' is not the name of a module."),
    "a number for a module": ("{ preload = [5] }", "5 is not the name of a module."),
    "Airflow": ('{ preload = ["airflow.sdk"] }', "'airflow.sdk' cannot be imported before a call arrives: every call"),
    "this library": ('{ preload = ["k8s_venv.runtime"] }', "every call brings its own. Leave it out."),
    "the program": ('{ preload = ["__main__"] }', "it is the program itself. Leave it out."),
    "a misspelt key": (
        '{ preloads = ["json"] }',
        "Unknown key 'preloads' in [environments.etl.warm]. Did you mean 'pr",
    ),
    "another key": ("{ size = 3 }", "Known: idle, max, min, preload."),
    "a flag": ("true", "`warm` of [environments.etl]: must be a table, such as warm = { min = 1, max = 8 }, not True."),
    "a list": ("[{ min = 1 }]", "`warm` of [environments.etl]: must be a table"),
}


@pytest.mark.parametrize(("setting", "sentence"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, setting: str, sentence: str) -> None:
    with pytest.raises(ProjectError) as raised:
        read_warm(tmp_path, setting)

    assert sentence in str(raised.value)
    assert raised.value.line == 3


def test_the_line_is_found_in_a_table_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r":4: `idle` of \[environments.etl.warm\]: must be a duration"):
        read(tmp_path, '[environments.etl]\npython = "3.12"\n[environments.etl.warm]\nidle = "soon"\n')


def test_it_is_said_for_each_environment_by_itself(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r":1: Unknown key 'warm' in the project. It is a key of \[environments"):
        read(tmp_path, 'warm = { min = 1 }\n[environments.etl]\npython = "3.12"\n')


@pytest.mark.parametrize("values", ["[values]\nexec = false\n", "[environments.etl.values]\nexec = false\n"])
def test_pods_cannot_wait_where_nothing_may_be_executed_in_them(tmp_path: Path, values: str) -> None:
    text = '[environments.etl]\npython = "3.12"\nwarm = { min = 1 }\n'

    with pytest.raises(ProjectError, match=r":3: `warm` of \[environments.etl\]: waiting pods get their calls through"):
        read(tmp_path, text + values)


def test_waiting_pods_change_no_image() -> None:
    cold = Environment(name="etl", root=Path(), python="3.12")
    warm = Environment(name="etl", root=Path(), python="3.12", warm=WarmPool(min=2, preload=("json",)))

    assert warm.image_tag("0123") == cold.image_tag("0123")
