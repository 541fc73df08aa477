"""The cache folder: its paths are spelled in one module; its locks end with their process."""

from __future__ import annotations

import ast
import errno
import fcntl
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import k8s_venv
from k8s_venv import cache
from k8s_venv.errors import K8sVenvError

PACKAGE = Path(k8s_venv.__file__).parent
HOLD = """
import sys, time
from pathlib import Path
from k8s_venv.cache import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names_in(path: Path) -> set[str]:
    """Return the names and attributes that a module uses, and what it imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
    return names


def test_no_other_module_spells_a_path_in_the_cache_or_locks_there() -> None:
    others = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py") if path.name != "cache.py"}
    used = {name: names_in(path) for name, path in others.items()}

    # Inside an environment, the runner has a lock of its own.
    assert {
        name for name in used if {"flock", "lockf", "filelock"} & used[name] and not name.startswith("runner/")
    } == set()
    # `prune` and messages show the folder, uv's caller only makes sure of it.
    showing = {"cli/prune.py", "backends/local/environments.py", "locks/uv.py"}
    assert {name for name in used if {"cache_folder", "require_cache", "CACHE_VARIABLE"} & used[name]} <= showing
    joined = re.compile(r"(cache_folder|require_cache)\(\)\s*(/|\.joinpath)")
    assert {name for name in showing if joined.search(others[name].read_text("utf-8"))} == set()


def test_the_paths_are_those_of_earlier_versions(folder: Path) -> None:
    digest = "sha256:" + "ab" * 32

    assert cache.blob_path(digest) == folder / "blobs/sha256" / ("ab" * 32)
    assert cache.blob_lock(digest) == folder / "blobs/sha256" / f".{'ab' * 32}.lock"
    assert cache.note_path("layers", "key") == folder / "layers/key.json"
    assert cache.note_path("pushed", "key") == folder / "pushed/key.json"
    assert cache.note_path("modules", "key-2") == folder / "modules/key-2.json"
    assert cache.environment_folder("etl", "3.12", "cd" * 32) == folder / f"environments/etl-3.12-{'cd' * 10}"
    assert cache.lock_beside(folder / "environments/etl-3.12-cd") == folder / "environments/etl-3.12-cd.lock"
    assert cache.lock_beside(cache.airflow_database("3.1.0")) == folder / "airflow-3.1.0.db.lock"
    assert cache.base_lock("ab" * 32) == folder / "base-abababababab.lock"
    assert cache.layers_lock("3.12") == folder / "layers-3.12.lock"
    assert (cache.uv_folder(), cache.python_folder()) == (folder / "uv", folder / "python")


def test_a_lock_is_held_by_one_thread_at_a_time(folder: Path) -> None:
    held, most, waited = [0], [0], []

    def work() -> None:
        with cache.exclusive_lock(folder / "one.lock", lambda: waited.append(True)):
            held[0] += 1
            most[0] = max(most[0], held[0])
            time.sleep(0.01)
            held[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert most == [1]
    assert waited


def test_a_lock_ends_with_a_process_that_is_killed(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, folder / "one.lock"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

        def kill() -> None:
            holder.send_signal(signal.SIGKILL)

        with cache.exclusive_lock(folder / "one.lock", waiting=kill):
            assert holder.wait(60) == -signal.SIGKILL


def test_a_lock_excludes_earlier_versions_which_lock_the_file_itself(folder: Path) -> None:
    lock = folder / "one.lock"

    with cache.exclusive_lock(lock), lock.open("r+b") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with lock.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with cache.exclusive_lock(lock, waiting=other.close):
            assert other.closed


def test_a_lock_whose_file_was_removed_is_taken_at_its_new_file(folder: Path) -> None:
    lock = folder / "one.lock"
    folder.mkdir()

    with lock.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def remove() -> None:
            lock.unlink()
            lock.touch()

        with cache.exclusive_lock(lock, waiting=remove), lock.open("rb") as now, pytest.raises(BlockingIOError):
            fcntl.flock(now, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_is_held_by_many_or_by_one(folder: Path) -> None:
    folder.mkdir()

    with cache.shared_lock(folder), cache.shared_lock(folder), cache.try_exclusive_lock(folder) as alone:
        assert not alone
    with cache.try_exclusive_lock(folder) as alone, cache.try_exclusive_lock(folder) as second:
        assert alone
        assert not second


def test_a_folder_that_does_not_exist_is_not_held(folder: Path) -> None:
    with cache.shared_lock(folder) as held, cache.try_exclusive_lock(folder) as alone:
        assert not held
        assert not alone


def test_a_note_that_cannot_be_read_is_as_good_as_none(folder: Path) -> None:
    note = cache.note_path("pushed", "key")
    assert cache.read_note(note, repository=str) is None
    cache.write_note(note, {"repository": "team/etl"})

    assert cache.read_note(note, repository=str) == {"repository": "team/etl"}
    assert cache.read_note(note, repository=int) is None
    note.write_bytes(b'{"repository": "te')
    assert cache.read_note(note, repository=str) is None
    assert [path.name for path in note.parent.iterdir()] == ["key.json"]


def test_a_folder_gets_its_name_when_it_is_whole(folder: Path) -> None:
    place = cache.environment_folder("etl", "3.12", "ab" * 32)
    (place.parent / f"{place.name}.part-killed").mkdir(parents=True)

    with pytest.raises(ZeroDivisionError), cache.new_folder(place) as partial:
        (partial / str(1 // 0)).mkdir(parents=True)
    assert list(place.parent.iterdir()) == []

    with cache.new_folder(place) as partial:
        partial.mkdir()
        assert not place.exists()
    assert list(place.parent.iterdir()) == [place]


def test_a_file_system_without_locks_is_named() -> None:
    assert "on a file system that cannot lock files. Set K8S_VENV_CACHE" in cache.cache_problem(errno.ENOLCK)


def test_a_lock_that_cannot_be_written_names_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_VENV_CACHE", "/dev/null/cache")

    with (
        pytest.raises(K8sVenvError, match=r"The cache folder /dev/null/cache cannot be written to"),
        cache.exclusive_lock(cache.base_lock("ab" * 32)),
    ):
        pass
