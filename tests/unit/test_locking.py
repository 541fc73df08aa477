"""Locks: what is in them, when they are stale, and why there is none."""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from k8s_venv.config.environment import Environment
from k8s_venv.errors import LockError
from k8s_venv.locks.lockfile import Lock, LockedFile, LockedPackage, LockFile
from k8s_venv.locks.locking import read_lock, write_lock
from k8s_venv.locks.requirements import Line, read_requirements, refuse_lines

needs_index = pytest.mark.usefixtures("package_index")
EnvironmentMaker = Callable[..., Environment]


@pytest.fixture
def declare(tmp_path: Path) -> EnvironmentMaker:
    """Return a function that declares an environment, with the files that its requirements are in."""

    def make(requirements: object = None, python: str = "3.12", files: dict[str, str] | None = None) -> Environment:
        for name, text in (files or {}).items():
            (tmp_path / name).write_text(text, "utf-8")
        return Environment.model_validate(
            {"name": "etl", "root": tmp_path, "python": python, "requirements": requirements}
        )

    return make


def versions(lock: Lock) -> dict[str, str]:
    return {package.name: package.version for package in lock.packages}


@needs_index
def test_a_lock_has_exact_versions_with_hashes(declare: EnvironmentMaker) -> None:
    lock = write_lock(declare(["idna==3.6", "certifi"]))

    assert versions(lock)["idna"] == "3.6"
    assert set(versions(lock)) == {"idna", "certifi"}
    assert all("sha256" in file.hashes for package in lock.packages for file in package.wheels)


@needs_index
def test_a_lock_is_valid_by_pep_751(declare: EnvironmentMaker) -> None:
    pylock = pytest.importorskip("packaging.pylock", reason="needs packaging 26, which can validate lock files")
    for requirements in (["idna"], None):
        lock = write_lock(declare(requirements))

        pylock.Pylock.from_dict(tomllib.loads(lock.path.read_text("utf-8"))).validate()

        assert pylock.is_valid_pylock_path(lock.path)


@needs_index
def test_requirements_can_stand_in_files_that_include_others(declare: EnvironmentMaker) -> None:
    files = {
        "main.txt": "-r more.txt\n-c limits.txt\ncertifi  # certificates\n",
        "more.txt": "idna",
        "limits.txt": "idna<3.5",
    }

    lock = write_lock(declare("main.txt", files=files))

    assert versions(lock)["idna"] == "3.4"
    assert set(versions(lock)) == {"idna", "certifi"}


def test_an_environment_without_requirements_has_an_empty_lock(declare: EnvironmentMaker) -> None:
    assert write_lock(declare()).packages == ()


@needs_index
@pytest.mark.parametrize("python", ["3.8", "3.13"])
def test_an_environment_is_locked_for_its_own_python(declare: EnvironmentMaker, python: str) -> None:
    lock = write_lock(declare(["numpy<2.2"], python=python))

    assert versions(lock)["numpy"].startswith("1.24." if python == "3.8" else "2.1.")


@needs_index
def test_versions_of_an_older_lock_are_kept_where_they_fit(declare: EnvironmentMaker) -> None:
    write_lock(declare(["idna==3.4", "certifi==2024.2.2"]))

    lock = write_lock(declare(["idna", "certifi>2024.2.2"]))

    assert versions(lock)["idna"] == "3.4"
    assert versions(lock)["certifi"] > "2024.2.2"


@needs_index
def test_locking_again_changes_nothing(declare: EnvironmentMaker) -> None:
    environment = declare(["idna"])
    written = write_lock(environment).path.read_bytes()

    assert write_lock(environment).path.read_bytes() == written


@needs_index
@pytest.mark.parametrize("garbage", ["<<<<<<< HEAD\n", 'lock-version = "1.0"\n', "\0"])
def test_a_garbled_lock_is_replaced(declare: EnvironmentMaker, garbage: str) -> None:
    environment = declare(["idna==3.6"])
    environment.lock_path.write_text(garbage)

    assert versions(write_lock(environment)) == {"idna": "3.6"}


@needs_index
def test_the_digest_does_not_depend_on_where_the_index_is(declare: EnvironmentMaker) -> None:
    environment = declare(["idna==3.6"])
    lock = write_lock(environment)
    text = lock.path.read_text("utf-8")

    lock.path.write_text(re.sub(r"https://[^/]+/", "https://mirror.example.com/pypi/", text), "utf-8")

    assert "mirror.example.com" in lock.path.read_text("utf-8")
    assert read_lock(environment).digest == lock.digest


def test_the_digest_depends_on_packages_hashes_builder_and_epoch(tmp_path: Path) -> None:
    def idna(version: str, digest: str) -> LockedPackage:
        return LockedPackage(name="idna", version=version, wheels=(LockedFile(hashes={"sha256": digest}),))

    def locked(package: LockedPackage, builder: str, epoch: int) -> LockFile:
        return LockFile(path=tmp_path, packages=(package,), builder=builder, epoch=epoch)

    locks = [
        locked(idna("3.6", "a"), "buildkit", 1),
        locked(idna("3.7", "a"), "buildkit", 1),
        locked(idna("3.6", "b"), "buildkit", 1),
        locked(idna("3.6", "a"), "layers", 1),
        locked(idna("3.6", "a"), "buildkit", 2),
    ]

    assert len({lock.digest for lock in locks}) == len(locks)


def test_the_image_reference_follows_from_committed_files(
    declare: EnvironmentMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = declare()
    lock = write_lock(environment)
    reference = environment.image_reference("registry.example.com/airflow/", lock.digest)

    monkeypatch.setenv("K8S_VENV_BASE_REGISTRY", "mirror.example.com")
    monkeypatch.chdir("/")

    assert environment.image_reference("registry.example.com/airflow", read_lock(environment).digest) == reference
    assert re.fullmatch(r"registry\.example\.com/airflow/etl:[0-9a-f]{20}", reference)
    for change in ({"python": "3.11"}, {"packages": ("jq",)}, {"base": "python:3.12"}):
        assert environment.model_copy(update=change).image_tag(lock.digest) != environment.image_tag(lock.digest)


@needs_index
@pytest.mark.parametrize("changed", ["main.txt", "more.txt", "limits.txt"])
def test_a_changed_requirement_makes_a_lock_stale(declare: EnvironmentMaker, changed: str, tmp_path: Path) -> None:
    files = {"main.txt": "-r more.txt\n--constraint=limits.txt", "more.txt": "idna", "limits.txt": "idna<3.5"}
    environment = declare("main.txt", files=files)
    write_lock(environment)

    with (tmp_path / changed).open("a") as stream:
        stream.write("\ncertifi\n")

    with pytest.raises(LockError, match=r"its lock is stale: '(-c: )?certifi' was added\. Run `k8s-venv lock etl`"):
        read_lock(environment)


@needs_index
def test_files_included_from_a_list_count_as_well(declare: EnvironmentMaker, tmp_path: Path) -> None:
    environment = declare(["-r more.txt"], files={"more.txt": "idna"})
    assert set(versions(write_lock(environment))) == {"idna"}

    (tmp_path / "more.txt").write_text("certifi")

    with pytest.raises(LockError, match="its lock is stale"):
        read_lock(environment)


def test_another_python_makes_a_lock_stale(declare: EnvironmentMaker) -> None:
    write_lock(declare(python="3.12"))

    with pytest.raises(LockError, match="its lock is stale"):
        read_lock(declare(python="3.13"))


@needs_index
def test_comments_blank_lines_and_pod_options_make_no_lock_stale(declare: EnvironmentMaker, tmp_path: Path) -> None:
    environment = declare("main.txt", files={"main.txt": "idna"})
    lock = write_lock(environment)

    (tmp_path / "main.txt").write_text("# why\n\n  idna   # because\n")

    assert read_lock(environment.model_copy(update={"pod": {"namespace": "x"}})) == lock


def test_a_missing_lock_names_the_command_that_writes_it(declare: EnvironmentMaker) -> None:
    with pytest.raises(LockError, match=r"it was never locked: .*pylock\.etl\.toml .* Run `k8s-venv lock etl`"):
        read_lock(declare())


GARBLED = {
    "a merge conflict": b"<<<<<<< HEAD\n",
    "not text": b"\xff\xfe",
    "a lock of somebody else's": b'lock-version = "1.0"\npackages = []\n',
    "packages that are none": b"packages = 5\n[tool.k8s-venv]\nbuilder = 'x'\nepoch = 1\ninputs = ''\n",
    "hashes that are none": (
        b"packages = [{ name = 'a', wheels = [{ hashes = 'x' }] }]\n"
        b"[tool.k8s-venv]\nbuilder = 'x'\nepoch = 1\ninputs = ''\n"
    ),
    "an epoch that is no number": b"packages = []\n[tool.k8s-venv]\nbuilder = 'x'\nepoch = 'y'\ninputs = ''\n",
    "a tool table that is none": b"packages = []\n[tool]\nk8s-venv = 5\n",
}


@pytest.mark.parametrize("content", GARBLED.values(), ids=GARBLED)
def test_a_garbled_lock_names_the_command_that_replaces_it(declare: EnvironmentMaker, content: bytes) -> None:
    environment = declare()
    environment.lock_path.write_bytes(content)

    with pytest.raises(LockError, match=r"its lock .*pylock\.etl\.toml cannot be read: .*\. Run `k8s-venv lock etl`\."):
        read_lock(environment)


@given(content=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_of_a_lock_gives_another_error(declare: EnvironmentMaker, content: bytes) -> None:
    environment = declare()
    environment.lock_path.write_bytes(content)

    with pytest.raises(LockError):
        read_lock(environment)


# Requirements that cannot be locked, and what is said.
UNLOCKABLE = {
    "a conflict": (
        ["requests==2.25.1", "urllib3>=2"],
        r"`requirements` of \[environments\.etl\] cannot be locked for Python 3\.12 on linux/amd64:\n"
        r"error: No solution found .*\n  cause: Because requests==2\.25\.1 depends on urllib3>=1\.21\.1,<1\.27 and you "
        r"require requests==2\.25\.1, we can conclude that you require urllib3>=1\.21\.1,<1\.27\.\n"
        r" +And because you require urllib3>=2",
    ),
    "a conflict among many versions": (
        ["pandas", "numpy<1.20"],
        r"cannot be locked for Python 3\.12 on linux/amd64:(.|\n)*require (pandas and numpy<1|numpy<1\.20 and pandas)",
    ),
    "no such version": (["idna==99"], r"Because there is no version of idna==99"),
    "no such distribution": (
        ["idna-that-nobody-wrote"],
        r"cannot be locked for .*\n(.|\n)*idna-that-nobody-wrote was not found in the package registry",
    ),
    "a Debian package": (
        ["libpq-dev"],
        r"libpq-dev was not found in .*\nDebian packages belong in `packages` of \[environments\.etl\]: "
        r'packages = \["libpq-dev"\]\.',
    ),
    "no wheel": (["pyspark==3.5.0"], r"for Python 3\.12 on linux/amd64:\n(.|\n)*pyspark==3\.5\.0 has no usable wheels"),
    "no requirement that has a password": (
        ["--index-url https://u:p4ss@example.com x y"],
        r"`requirements` of .* cannot be locked (.|\n)*Invalid URL .* https://\*\*\*@example\.com x y",
    ),
    "no requirement": (
        ["idna", "requests=="],
        r"`requirements` of \[environments\.etl\] cannot be locked (.|\n)*nexpected end of version(.|\n)*requests==",
    ),
    "a file that does not exist": (["./own-1.0-py3-none-any.whl"], r"not found at: file:///.*/own-1\.0-py"),
    "a folder": (
        ["."],
        r"'\.' in .* is a folder\. .* \(pip wheel --no-deps -w wheels \.\) and require that \(\./wheels/",
    ),
    "an editable install": (
        ["-e ./x"],
        r"'-e \./x' in .* is an editable install\.",
    ),
    "a repository": (
        ["x @ git+https://u:p@example.com/x"],
        r"'x @ git\+https://\*\*\*@example\.com/x' in .* a repository",
    ),
    "an unknown option": (
        ["--no-such-option"],
        r"'--no-such-option' in .* is no option of requirements\. Known: -r,",
    ),
}


@needs_index
@pytest.mark.parametrize(("requirements", "sentence"), UNLOCKABLE.values(), ids=UNLOCKABLE)
def test_why_requirements_cannot_be_locked_is_said(
    declare: EnvironmentMaker, tmp_path: Path, requirements: list[str], sentence: str
) -> None:
    with pytest.raises(LockError, match=sentence):
        write_lock(declare(requirements))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["", "lists/", "../"])
def test_a_line_that_is_no_requirement_is_named_with_its_file(
    declare: EnvironmentMaker, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "lists").mkdir()
    files = {f"{folder}main.txt": "-r more.txt\n", f"{folder}more.txt": "# größer\nidna\nx y z\n"}

    with pytest.raises(LockError, match=r"more\.txt:3 cannot be locked (.|\n)*[Ee]xpected one of(.|\n)*x y z"):
        write_lock(declare(f"{folder}main.txt", files=files))


def test_an_index_that_cannot_be_reached_is_named(declare: EnvironmentMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_INDEX_URL", "http://localhost:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")

    with pytest.raises(LockError, match=r"http://localhost:1/simple/idna/(.|\n)*Connection refused"):
        write_lock(declare(["idna"]))


def test_an_included_file_that_is_missing_is_named_with_the_one_that_includes_it(declare: EnvironmentMaker) -> None:
    with pytest.raises(LockError, match=r"nope\.txt, which .*main\.txt includes, cannot be read: No such file"):
        write_lock(declare("main.txt", files={"main.txt": "-r nope.txt"}))


def test_a_file_that_includes_itself_is_named(declare: EnvironmentMaker) -> None:
    with pytest.raises(LockError, match=r"main\.txt includes itself"):
        write_lock(declare("main.txt", files={"main.txt": "-r more.txt", "more.txt": "-r main.txt"}))


def test_a_requirements_file_that_is_not_utf_8_is_named(declare: EnvironmentMaker, tmp_path: Path) -> None:
    (tmp_path / "main.txt").write_bytes("# größer\n".encode("latin-1"))

    with pytest.raises(LockError, match=r"main\.txt is not UTF-8 text"):
        write_lock(declare("main.txt"))


@pytest.mark.parametrize("requirements", [None, ["idna"]])
def test_a_python_that_does_not_exist_is_refused(declare: EnvironmentMaker, requirements: list[str] | None) -> None:
    with pytest.raises(LockError, match=r"there is no Python 3\.99 that uv could find or download"):
        write_lock(declare(requirements, python="3.99"))


def test_a_lock_that_cannot_be_written_leaves_nothing_behind(declare: EnvironmentMaker, tmp_path: Path) -> None:
    environment = declare()
    (environment.lock_path / "folder").mkdir(parents=True)

    with pytest.raises(LockError, match=r"its lock .*pylock\.etl\.toml cannot be written: "):
        write_lock(environment)

    assert [path.name for path in tmp_path.iterdir()] == ["pylock.etl.toml"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to every folder")
def test_a_folder_that_cannot_be_written_to_is_named(declare: EnvironmentMaker, tmp_path: Path) -> None:
    environment = declare()
    tmp_path.chmod(0o500)

    with pytest.raises(LockError, match=r"its lock .*pylock\.etl\.toml cannot be written: Permission denied"):
        write_lock(environment)


@needs_index
def test_a_lock_that_cannot_be_renewed_stays_as_it_was(declare: EnvironmentMaker) -> None:
    lock = write_lock(declare(["idna==3.6"]))
    written = lock.path.read_bytes()

    with pytest.raises(LockError):
        write_lock(declare(["idna==99"]))

    assert lock.path.read_bytes() == written


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("Typing_Extensions[x] >=4 ; python_version < '3'", "typing-extensions"),
        ("own.lib@https://example.com/x-1.0-py3-none-any.whl", "own-lib"),
        ("https://example.com/own_lib-1.0-py3-none-any.whl#sha256=0", "own-lib"),
        ("./wheels/own_lib-1.0-py3-none-any.whl --hash=sha256:0", "own-lib"),
        ("http://example.com/", ""),
        ("--index-url https://example.com", ""),
    ],
)
def test_a_line_knows_the_package_that_it_asks_for(text: str, package: str) -> None:
    assert Line(text, "requirements.txt:1").package == package


_LINES = st.lists(
    st.text(max_size=12)
    | st.sampled_from(
        ["-r", "-r main.txt", "-c /dev", "-r \0", "-e .", "x @ file:///", "\\", "# y", "--index-url x", "./"]
    )
)


@given(lines=_LINES)
@example(lines=["-r " + "x" * 5000])
@example(lines=["./" + "x" * 5000])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_stands_in_a_requirements_file_it_is_read_or_refused(
    declare: EnvironmentMaker, lines: list[str]
) -> None:
    environment = declare("main.txt")
    (environment.root / "main.txt").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))

    found: tuple[Line, ...] = ()
    with contextlib.suppress(LockError):
        requirements = read_requirements(environment)
        found = requirements.lines
        refuse_lines(requirements)
        assert isinstance(requirements.indexes, dict)

    assert all(line.text and "\n" not in line.text for line in found)
