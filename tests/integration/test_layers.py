"""Layers made from wheels, next to what pip installs."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from k8s_venv.builders import _compile
from k8s_venv.builders.layer_builder import _groups, known_layers, make_layers
from k8s_venv.builders.layers import Layer
from k8s_venv.builders.wheels import Target, Wheel, select_wheels
from k8s_venv.cache import uv_folder
from k8s_venv.config.environment import Environment
from k8s_venv.locks.lockfile import LockedFile
from k8s_venv.locks.locking import write_lock
from tests.interpreters import interpreter

pytestmark = pytest.mark.usefixtures("package_index", "no_settings")

# Scripts of both kinds, data files, headers, namespace packages, extension modules, top-level modules, stubs.
POPULAR = [
    "attrs", "black", "certifi", "charset-normalizer", "click", "colorama", "cryptography",
    "googleapis-common-protos", "greenlet", "idna", "jinja2", "jsonschema", "jupyterlab-widgets", "markupsafe",
    "packaging", "protobuf", "psutil", "pybind11", "pydantic", "pygments", "python-dateutil", "pytz", "pyyaml",
    "requests", "rich", "setuptools", "six", "sphinxcontrib-applehelp", "tqdm", "urllib3", "wheel",
    "widgetsnbextension", "zope-interface",
]  # fmt: skip
# What an installer notes about itself.
NOTES = re.compile(r"(?:.*site-packages/)?[^/]+\.dist-info/(?:INSTALLER|REQUESTED|RECORD)")


@pytest.fixture(scope="module")
def popular(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Path]:
    """What our layers hold of popular packages, and a virtual environment into which pip installed the same."""
    folder = tmp_path_factory.mktemp("popular")
    environment = Environment(name="popular", root=folder, python="3.12", requirements=tuple(POPULAR))
    wheels = locked(environment)
    ours = contents(make_layers(wheels, target("3.12"), lambda text: None))
    theirs = folder / "venv"
    subprocess.run([interpreter("3.12"), "-m", "venv", str(theirs)], check=True)
    lines = [f"{wheel.name}=={wheel.version}" for wheel in wheels]
    pip = [str(theirs / "bin/pip"), "install", "--quiet", "--no-deps", "--only-binary=:all:", "--force-reinstall"]
    subprocess.run([*pip, *lines], check=True)
    return ours, theirs


def test_files_are_those_that_pip_installs(popular: tuple[dict[str, bytes], Path]) -> None:
    ours, theirs = popular

    expected = installed(theirs)

    assert len(POPULAR) >= 30
    assert set(ours) == set(expected)
    for name in expected:
        if not NOTES.fullmatch(name) and not name.startswith("bin/") and not name.endswith(".pyc"):
            assert ours[name] == expected[name].read_bytes(), name


def test_records_are_those_of_pip(popular: tuple[dict[str, bytes], Path]) -> None:
    ours, theirs = popular
    records = [name for name in ours if NOTES.fullmatch(name) and name.endswith("/RECORD")]

    assert len(records) >= 30
    for name in records:
        assert rows(ours[name].decode()) == rows((theirs / name).read_text("utf-8")), name


def test_scripts_run_with_the_python_of_the_image(popular: tuple[dict[str, bytes], Path]) -> None:
    ours, _ = popular

    scripts = {name: text for name, text in ours.items() if name.startswith("bin/") and text.startswith(b"#!")}

    assert {"bin/black", "bin/normalizer", "bin/tqdm", "bin/pybind11-config"} <= scripts.keys()
    assert {text.splitlines()[0] for text in scripts.values()} == {b"#!/opt/venv/bin/python"}


@pytest.mark.parametrize("python", ["3.8", "3.12"])
def test_layers_are_the_same_bytes_each_time(python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Environment(name="same", root=tmp_path, python=python, requirements=("requests", "jinja2"))
    wheels = locked(environment)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))

    made = []
    for name, mask, zone in (("one", 0o022, "UTC"), ("a longer name, with a space", 0o077, "Asia/Kolkata")):
        monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / name))
        monkeypatch.setenv("TZ", zone)
        before = os.umask(mask)
        try:
            made.append([layer.blob.digest for layer in make_layers(wheels, target(python), lambda text: None)])
        finally:
            os.umask(before)

    assert made[0] == made[1]


@pytest.mark.parametrize("python", ["3.8", "3.10", "3.11", "3.12", "3.13"])
def test_bytecode_follows_from_a_module_alone(python: str) -> None:
    """Whatever else the process knows, which depends on what is in the cache and on the number of processors."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(_compile.__file__).parent)!r})
from _compile import compiled
source = b"def tell(reading):\\n    return reading.normalize + '{{' + reading.rollback + 'it is'\\n"
alone = compiled(source, "/a.py")
others = [sys.intern(''.join(reversed(name))) for name in ('ezilamron', '{{', 'kcabllor')]
print(alone == compiled(source, "/a.py"))
"""

    told = subprocess.check_output([interpreter(python), "-S", "-c", code], text=True)

    assert told.strip() == "True"


@pytest.mark.parametrize("garbled", ["", "[]", "null", '{"size": null, "digest": 1}', '{"size": true}', "\0" * 99])
def test_a_garbled_cache_is_made_anew(garbled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = locked(Environment(name="garbled", root=tmp_path, python="3.12", requirements=("idna",)))
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_folder()))
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))
    made = make_layers(wheels, target("3.12"), lambda text: None)
    for note in (tmp_path / "cache" / "layers").iterdir():
        note.write_text(garbled)

    again = make_layers(wheels, target("3.12"), lambda text: None)

    assert again == made


def test_what_a_killed_build_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = locked(Environment(name="killed", root=tmp_path, python="3.12", requirements=("idna",)))
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_folder()))
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))
    left = tmp_path / "cache" / "install-3.12-abc" / "installed0"
    left.mkdir(parents=True)

    make_layers(wheels, target("3.12"), lambda text: None)

    assert not left.parent.exists()


def test_odd_wheels_are_installed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "/".join(["folder"] * 40)
    files = {
        "odd/__init__.py": b"",
        "odd/__pycache__/__init__.cpython-312.pyc": b"stale",
        "odd/compiled.pyc": b"only bytecode",
        "odd/template.py": b"{{ cookiecutter.module }} = no Python\n",
        'odd/a file, with "quotes".txt': b"quoted",
        "odd/\u00e9\u4e2d.txt": b"unicode",
        f"odd/{deep}/end.txt": b"deep",
        "odd.pth": b"import sys\n",
        "odd-1.0.data/data/etc/odd/odd.conf": b"etc",
        "odd-1.0.data/headers/odd.h": b"header",
        "odd-1.0.data/scripts/odd.sh": b"#!/bin/sh\necho hi\n",
        "odd-1.0.data/scripts/odd.py": b"#!python\nprint(1)\n",
        "odd-1.0.dist-info/entry_points.txt": b"[console_scripts]\nodd=odd:main\n[gui_scripts]\noddw=odd:main\n",
    }
    path = write_wheel(tmp_path, "odd", files)
    environment = Environment(name="odd", root=tmp_path, python="3.12", requirements=(f"odd @ {path.as_uri()}",))
    folder = tmp_path / "real"
    folder.mkdir()
    (tmp_path / "a link").symlink_to(folder)
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "a link" / "cache"))

    ours = contents(make_layers(locked(environment), target("3.12"), lambda text: None))

    packages = "lib/python3.12/site-packages"
    record = list(csv.reader(io.StringIO(ours[f"{packages}/odd-1.0.dist-info/RECORD"].decode())))
    names = [row[0] for row in record]
    assert len(names) == len(set(names))
    assert {posixpath.normpath(f"{packages}/{name}") for name in names} == set(ours)
    assert ours[f"{packages}/odd/__pycache__/__init__.cpython-312.pyc"] != b"stale"
    assert ours[f"{packages}/odd/{deep}/end.txt"] == b"deep"
    assert ours[f"{packages}/odd/\u00e9\u4e2d.txt"] == b"unicode"
    assert ours["etc/odd/odd.conf"] == b"etc"
    assert ours["bin/odd.sh"] == b"#!/bin/sh\necho hi\n"
    for name in ("odd", "oddw", "odd.py"):
        assert ours[f"bin/{name}"].startswith(b"#!/opt/venv/bin/python\n"), name
    assert not any(str(tmp_path).encode() in content for content in ours.values())


def test_a_change_of_one_package_changes_one_layer(tmp_path: Path) -> None:
    lines = ("requests", "jinja2", "pyyaml", "six")
    before = locked(Environment(name="before", root=tmp_path, python="3.12", requirements=(*lines, "idna==3.6")))
    after = locked(Environment(name="after", root=tmp_path, python="3.12", requirements=(*lines, "idna==3.7")))

    one, other = (make_layers(wheels, target("3.12"), lambda text: None) for wheels in (before, after))

    assert len({layer.blob.digest for layer in other} - {layer.blob.digest for layer in one}) == 1
    assert known_layers(after, "3.12") == (other, [])


def test_wheels_of_another_platform_are_installed(tmp_path: Path) -> None:
    environment = Environment(
        name="arm", root=tmp_path, python="3.12", requirements=("markupsafe",), platforms=("linux/amd64", "linux/arm64")
    )
    lock = write_lock(environment)
    modules = {}
    for platform in environment.platforms:
        wheels = select_wheels("arm", lock, "3.12", platform)
        layers = make_layers(wheels, target("3.12", platform), lambda text: None)
        modules[platform] = {name.rpartition("/")[2] for name in contents(layers) if name.endswith(".so")}

    assert modules == {
        "linux/amd64": {"_speedups.cpython-312-x86_64-linux-gnu.so"},
        "linux/arm64": {"_speedups.cpython-312-aarch64-linux-gnu.so"},
    }


def test_an_image_stays_far_under_the_layers_that_engines_take() -> None:
    wheels = [Wheel(f"package-{number}", "1", LockedFile(hashes={}), f"sha256:{number}") for number in range(1000)]

    groups = _groups(dict.fromkeys(wheels, 2000000))

    assert sorted(wheel.name for group in groups for wheel in group) == sorted(wheel.name for wheel in wheels)
    assert len(groups) <= 90


def locked(environment: Environment) -> list[Wheel]:
    lock = write_lock(environment)
    return select_wheels(environment.name, lock, environment.python, "linux/amd64")


def target(python: str, platform: str = "linux/amd64") -> Target:
    return Target(python, interpreter(python), platform, {})


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """Write a wheel with any files."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()
    whole = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n"}
    record = io.StringIO()
    csv.writer(record, lineterminator="\n").writerows([[each, "", ""] for each in [*whole, f"{info}/RECORD"]])
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for each, content in {**whole, f"{info}/RECORD": record.getvalue().encode()}.items():
            wheel.writestr(each, content)
    return path


def contents(layers: Iterable[Layer]) -> dict[str, bytes]:
    """Return the files of layers by their names in the virtual environment."""
    found = {}
    for layer in layers:
        with tarfile.open(layer.blob.path) as archive:
            for entry in archive:
                assert (entry.uid, entry.gid, entry.mtime) == (0, 0, 315532800)
                if entry.isfile():
                    content = archive.extractfile(entry)
                    assert content is not None
                    found[entry.name.removeprefix("opt/venv/")] = content.read()
    return found


def installed(venv: Path) -> dict[str, Path]:
    """Return what pip put into a virtual environment, as its records tell, short of bytecode that we leave out."""
    found = {}
    packages = venv / "lib/python3.12/site-packages"
    for record in packages.glob("*.dist-info/RECORD"):
        if not record.parent.name.startswith("pip-"):
            for path in rows(record.read_text("utf-8")) | {(f"{record.parent.name}/RECORD", "")}:
                full = (packages / path[0]).resolve()
                found[str(full.relative_to(venv.resolve()))] = full
            if (record.parent / "INSTALLER").exists():
                found[f"lib/python3.12/site-packages/{record.parent.name}/INSTALLER"] = record.parent / "INSTALLER"
    return found


def rows(record: str) -> set[tuple[str, str]]:
    """Return a record's files with their hashes, without what an installer notes and bytecode that nobody imports."""
    kept = set()
    for path, digest, _ in csv.reader(io.StringIO(record)):
        parts = path.split("/")
        tests = path.endswith(".pyc") and ({"test", "tests"} & set(parts) or parts[0] == "..")
        if not tests and not NOTES.fullmatch(path):
            kept.add((path, "" if "/bin/" in path else digest))
    return kept
