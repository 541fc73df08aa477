"""Faults planted in a lock: each is named, without a request, and `k8s-venv lock` mends it."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from k8s_venv.config.project import load_project
from k8s_venv.errors import LockError
from k8s_venv.locks.locking import OlderLock, check_lock, read_lock, read_older
from tests.faults import OLDER, SECRET, plant, run
from tests.wheels import make_wheel

REQUIREMENTS = "--no-index\n--find-links ./wheels\nown-top<2\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose packages lie beside it, in two versions."""
    for version in ("1.0", "1.1"):
        make_wheel(tmp_path / "wheels", "own-lib", version)
    make_wheel(tmp_path / "wheels", "own-top", requires=["own-lib"])
    plant(tmp_path, {"requirements.txt": f"{REQUIREMENTS}own-lib==1.0\n"})
    assert run(tmp_path, "lock").exit_code == 0
    (tmp_path / "requirements.txt").write_text(REQUIREMENTS)
    assert run(tmp_path, "lock").exit_code == 0  # with own-lib 1.0, though there is a newer one
    return tmp_path


def replaced(pattern: str, by: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        edited = re.sub(pattern, by, text)
        assert edited != text
        return edited

    return edit


EDITED = r"was changed by hand, or by a merge\. Run `k8s-venv lock etl`\."
FIRST = r"(?s)\[\[packages\]\]\n(?=name = \"own-lib\").*?(?=\[\[packages\]\])"
VERSION = r'(?m)^version = "1.0"'
WHEEL = r'path = "wheels/own_lib-1.0'
FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "a hash": (replaced(r'sha256 = "...', 'sha256 = "000'), EDITED),
    "a version": (replaced(VERSION, 'version = "1.1"'), EDITED),
    "a package taken out": (replaced(FIRST, ""), EDITED),
    "a marker put in": (replaced(VERSION, 'version = "1.0"\nmarker = "sys_platform == \'win32\'"'), EDITED),
    "another base image": (replaced(r'@sha256:0+"', f'@sha256:{"1" * 64}"'), EDITED),
    "another builder": (replaced('builder = "layers"', 'builder = "kaniko"'), EDITED),
    "other platforms": (replaced("== 'linux'", "== 'win32'"), EDITED),
    "a package twice": (replaced(FIRST, r"\g<0>\g<0>"), r"cannot be read: 'own-lib' stands in it twice\. Run"),
    "a path out of the project": (
        replaced(WHEEL, 'path = "../../own_lib-1.0'),
        r"own-lib' lies outside the project: \.\./",
    ),
    "an absolute path": (replaced(r'path = ".*"', 'path = "/etc/passwd"'), r"lies outside the project: /etc/passwd"),
    "a URL of a local file": (replaced(WHEEL, 'url = "file:///etc/own_lib-1.0'), r"outside the project: file:///etc/"),
    "a name that is a path": (
        replaced('name = "own-lib"', 'name = "../own-lib"'),
        r"'\.\./own-lib' '1\.0' is no package",
    ),
    "a version that is a date": (
        replaced(VERSION, "version = 2020-01-01"),
        r"cannot be read: .* is no package",
    ),
    "a version that is a list": (replaced(VERSION, 'version = ["1.0"]'), r"cannot be read: .* is no package"),
    "a marker that is none": (
        replaced(VERSION, 'version = "1.0"\nmarker = "os.system()"'),
        r"the marker of 'own-lib' is not valid: 'os\.system\(\)'",
    ),
    "a hash that is none": (replaced(r'sha256 = ".*"', 'sha256 = "abc"'), r"the hashes of 'own-lib' are not valid"),
    "no hash": (replaced(r'sha256 = ".*"', ""), r"the hashes of 'own-lib' are not valid"),
    "a hash of another kind for a file in the project": (
        replaced(r'sha256 = "(.*)"', r'sha512 = "\1\1"'),
        r"the hashes of 'own-lib' are not valid",
    ),
    "a hash that is a number": (replaced(r'sha256 = ".*"', "sha256 = 5"), r"not laid out as k8s-venv writes it"),
    "a newer format": (
        replaced('lock-version = "1.0"', 'lock-version = "2.0"'),
        r"its lock-version is '2\.0', of which",
    ),
    "no format": (replaced('lock-version = "1.0"', ""), r"its lock-version is None, of which this k8s-venv knows 1"),
    "a lock of another tool": (
        replaced(r"(?s)\[tool.k8s-venv\].*", '[tool.uv]\nindex = "x"\n'),
        r"it lacks 'k8s-venv', so k8s-venv did not write it",
    ),
    "packages that are a table": (
        replaced(r"(?s)\[\[packages\]\].*(?=\[tool.k8s-venv\])", "packages.x = 1\n"),
        "not laid out",
    ),
    "inputs that are none": (replaced(r"(?s)\[tool.k8s-venv.inputs\].*", "inputs = []\n"), r"not laid out as k8s-venv"),
    "nesting without end": (
        lambda text: f"{text}x = {'[' * 9999}{']' * 9999}\n",
        r"not laid out as k8s-venv writes it",
    ),
    "half of it": (lambda text: text[: len(text) // 2], r"cannot be read: .*Run `k8s-venv lock etl`"),
    "nothing": (lambda _: "", r"cannot be read: its lock-version is None"),
    "a NUL": (lambda text: f"\0{text}", r"cannot be read: Invalid"),
}


@pytest.mark.parametrize(("edit", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_fault_in_a_lock_is_named(project: Path, edit: Callable[[str], str], sentence: str) -> None:
    path = project / "pylock.etl.toml"
    path.write_text(edit(path.read_text("utf-8")), "utf-8")
    written = path.read_bytes()

    ran = run(project, "lock", "--check")

    assert isinstance(ran.exception, SystemExit), ran.exc_info
    assert ran.exit_code == 1
    (said,) = ran.stdout.splitlines()
    assert said.startswith("Environment 'etl': its lock ")
    assert re.search(sentence, said), said
    assert path.read_bytes() == written
    with pytest.raises(LockError, match=sentence):  # as whatever runs or builds the environment says
        read_lock(load_project(project / "k8s-venv.toml").environment("etl"))


@pytest.mark.parametrize("name", ["a hash", "a package taken out", "a package twice", "a hash that is none", "nothing"])
def test_locking_mends_a_lock(project: Path, name: str) -> None:
    path = project / "pylock.etl.toml"
    path.write_text(FAULTS[name][0](path.read_text("utf-8")), "utf-8")

    ran = run(project, "lock")

    assert ran.exit_code == 0, ran.output
    assert run(project, "lock", "--check").exit_code == 0
    kept = "Note: etl: the older pylock.etl.toml cannot be read (" not in ran.stderr
    assert kept == (name in ("a hash", "a package taken out"))
    version = "1.0" if name == "a hash" else "1.1"
    assert f'name = "own-lib"\nversion = "{version}"' in path.read_text("utf-8")


def test_a_conflict_of_a_merge_is_named_and_mended_with_the_versions_of_both_sides(project: Path) -> None:
    path = project / "pylock.etl.toml"
    text = path.read_text("utf-8")
    conflict = '<<<<<<< HEAD\nchecksum = "1"\n||||||| base\n=======\nchecksum = "2"\n>>>>>>> theirs\n'
    path.write_text(re.sub(r"checksum = .*\n", conflict, text), "utf-8")

    checked = run(project, "lock", "--check")

    assert checked.exit_code == 1
    assert "cannot be read: a conflict of a merge is left in it. Run `k8s-venv lock etl`." in checked.stdout
    assert run(project, "lock").exit_code == 0
    assert path.read_text("utf-8") == text


def test_another_place_of_the_same_files_is_no_fault(project: Path) -> None:
    environment = load_project(project / "k8s-venv.toml").environment("etl")
    lock = read_lock(environment)
    text = lock.path.read_text("utf-8")
    lock.path.write_text(text.replace("path = ", 'url = "https://mirror.example.com/x.whl"\npath = '), "utf-8")

    assert read_lock(environment).digest == lock.digest


def test_a_lock_without_a_checksum_is_still_read(tmp_path: Path) -> None:
    plant(tmp_path, {"requirements.txt": "--no-index\n--find-links ./wheels\nown-lib\n"})
    make_wheel(tmp_path / "wheels", "own-lib")

    assert "checksum" not in OLDER.read_text("utf-8")
    assert run(tmp_path, "lock", "--check").exit_code == 0


def test_the_digest_of_a_lock_stays_from_version_to_version(tmp_path: Path) -> None:
    plant(tmp_path, {"requirements.txt": "--no-index\n--find-links ./wheels\nown-lib\n"})
    environment = load_project(tmp_path / "k8s-venv.toml").environment("etl")

    lock = read_lock(environment)

    assert lock.digest == "a307aa7829865a593ca9af80a739680b15b86ecc8e7812ae1a942d55829331d5"


def test_a_folder_in_the_place_of_a_lock_stays(project: Path) -> None:
    path = project / "pylock.etl.toml"
    path.unlink()
    (path / "inside").mkdir(parents=True)

    ran = run(project, "lock")

    assert ran.exit_code == 1
    assert "pylock.etl.toml cannot be written: Is a directory" in ran.stderr
    assert (path / "inside").is_dir()
    assert SECRET not in ran.output


STRANGE: tuple[Any, ...] = (
    5,
    True,
    "",
    "../..",
    "\0",
    [],
    {},
    {"x": 1},
    datetime.date(2020, 1, 1),
    float("nan"),
    [{}],
    None,
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value inside a value."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*place, key)
        yield from places(each, (*place, key))


def test_whatever_stands_anywhere_in_a_lock_it_is_read_or_refused(tmp_path: Path) -> None:
    plant(tmp_path, {"requirements.txt": "--no-index\n--find-links ./wheels\nown-lib\n"})
    environment = load_project(tmp_path / "k8s-venv.toml").environment("etl")
    refused = 0
    for *way, last in places(tomllib.loads(OLDER.read_text("utf-8"))):
        for strange in STRANGE:
            content = tomllib.loads(OLDER.read_text("utf-8"))
            inner: Any = content
            for key in way:
                inner = inner[key]
            inner.pop(last) if strange is None else inner.__setitem__(last, strange)
            environment.lock_path.write_text(tomli_w.dumps(content), "utf-8")
            try:
                assert re.fullmatch("[0-9a-f]{64}", check_lock(environment).digest)
            except LockError:
                refused += 1
            assert isinstance(read_older(environment), OlderLock)

    assert refused > 100
