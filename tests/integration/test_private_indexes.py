"""Private package indexes: passwords are found where people have them, and end up nowhere."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s_venv.backends.local.environments import make_environment
from k8s_venv.cache import cache_folder
from k8s_venv.config.environment import Environment
from k8s_venv.errors import K8sVenvError, LockError
from k8s_venv.locks.locking import check_lock, write_lock
from tests import interpreters
from tests.conftest import Command
from tests.wheels import Index, make_wheel, serve

USER, PASSWORD = "bob", "s3cret-p@ss"


@pytest.fixture(scope="module")
def keyring() -> Path:
    """Return the program `keyring`, with a backend that needs no desktop."""
    return Path(interpreters.environment("3.12", "keyring", "keyrings.alt")).with_name("keyring")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """Return an index that asks for a password, on a machine where nothing is set."""
    for name in os.environ:
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    make_wheel(tmp_path / "index", "own-top", requires=["own-lib"])
    make_wheel(tmp_path / "index", "own-lib", "1.0")
    make_wheel(tmp_path / "index", "own-lib", "2.0")
    with serve(tmp_path / "index", f"{USER}:{PASSWORD}") as running:
        yield running


def declare(root: Path, *lines: str) -> Environment:
    (root / "requirements.txt").write_text("\n".join(lines), "utf-8")
    return Environment(name="etl", root=root, python="3.12", requirements="requirements.txt")


def with_password(index: Index) -> str:
    return index.url_with(f"{USER}:{PASSWORD}")


def settings_for(kind: str, index: Index, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return the variables and the lines of requirements of a way to name an index and its password."""
    url = with_password(index)
    host = index.address.partition(":")[0]
    if kind in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        return {kind: url}, []
    if kind == "pip.conf":
        (folder / "pip.conf").write_text(f"[global]\nindex-url = {url}\n")
        return {"PIP_CONFIG_FILE": str(folder / "pip.conf")}, []
    if kind == "a line of requirements":
        return {}, [f"--index-url {url}"]
    if kind == "variables in a line of requirements":
        return {"INDEX_PASSWORD": PASSWORD}, [f"--index-url http://{USER}:${{INDEX_PASSWORD}}@{index.address}/simple"]
    if kind == "another setting for the same host":
        return {"PIP_EXTRA_INDEX_URL": url}, [f"--index-url {index.url}"]
    assert kind == "netrc"
    (folder / ".netrc").write_text(f"machine {host} login {USER} password {PASSWORD}\n")
    return {"NETRC": str(folder / ".netrc")}, [f"--index-url {index.url}"]


KINDS = [
    *("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "pip.conf"),
    *("a line of requirements", "variables in a line of requirements", "another setting for the same host"),
    "netrc",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_password_is_found_and_ends_up_nowhere(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    environ, lines = settings_for(kind, index, tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert_locks_and_installs_without_trace(index, declare(tmp_path, *lines, "own-top"))


def test_a_password_is_found_in_keyring(
    keyring: Path, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{keyring.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyrings.alt.file.PlaintextKeyring")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    subprocess.run([keyring, "set", index.url, USER], input=PASSWORD, text=True, check=True, capture_output=True)
    line = f"--index-url {index.url_with(USER)}"

    assert_locks_and_installs_without_trace(index, declare(tmp_path, line, "own-top"))


def assert_locks_and_installs_without_trace(index: Index, environment: Environment) -> None:
    said: list[str] = []

    lock = write_lock(environment, said.append)
    shutil.rmtree(cache_folder())  # the wheels are fetched again
    python = make_environment(environment, said.append)

    assert {(package.name, package.version) for package in lock.packages} == {("own-top", "1.0"), ("own-lib", "2.0")}
    assert interpreters.run_code(str(python), "import own_lib; print(own_lib.VERSION)").strip() == "2.0"
    text = lock.path.read_text("utf-8")
    assert f"http://{index.address}/files/own_lib-2.0" in text
    assert "s3cret" not in text + "".join(said)
    assert f"{USER}@" not in text


def test_a_password_in_a_direct_url_is_not_locked(index: Index, tmp_path: Path) -> None:
    url = with_password(index).replace("/simple", "/files/own_lib-1.0-py3-none-any.whl")
    environment = declare(tmp_path, "--no-index", f"own-lib @ {url}")

    text = write_lock(environment).path.read_text("utf-8")

    assert f"http://{index.address}/files/own_lib-1.0" in text
    assert "s3cret" not in text


def test_another_password_leaves_a_lock_fresh(index: Index, tmp_path: Path) -> None:
    environment = declare(tmp_path, f"--index-url {with_password(index)}", "own-lib")
    written = write_lock(environment)

    declare(tmp_path, f"--index-url {index.url_with('other:password')}", "own-lib")

    assert check_lock(environment) == written


@pytest.mark.parametrize("credentials", ["bob:wr0ng-p@ss@", ""])
def test_a_refused_password_is_said_and_not_shown(index: Index, tmp_path: Path, cli: Command, credentials: str) -> None:
    (tmp_path / "k8s-venv.toml").write_text('[environments.etl]\npython = "3.12"\nrequirements = "requirements.txt"\n')
    declare(tmp_path, f"--index-url http://{credentials}{index.address}/simple", "own-lib")

    ran = cli("lock")

    assert ran.returncode == 1
    assert f"http://{index.address}/simple" in ran.stderr
    assert "in ~/.netrc (machine 127.0.0.1), in keyring, in UV_INDEX_URL or PIP_INDEX_URL" in ran.stderr
    assert "wr0ng" not in ran.stderr + ran.stdout


@pytest.mark.parametrize("line", ["own-lib==9", "own-lib =!= 9", "nothing-here"])
def test_no_message_shows_a_password(index: Index, tmp_path: Path, line: str) -> None:
    said: list[str] = []

    with pytest.raises(LockError) as raised:
        write_lock(declare(tmp_path, f"--extra-index-url {with_password(index)}", "--no-index", line), said.append)

    assert "s3cret" not in str(raised.value) + "".join(said)


def test_an_index_behind_a_private_authority_is_reached_with_pips_certificate(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = shutil.which("openssl")
    if not program:
        pytest.skip("needs openssl to make a certificate")
    certificate, key = tmp_path / "index.pem", tmp_path / "index.key"
    request = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-out",
        str(certificate),
        "-keyout",
        str(key),
    ]
    subprocess.run([*request, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with serve(tmp_path / "index", context=context) as secure:
        environment = declare(tmp_path, f"--index-url {secure.url}", "own-lib==1.0")
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        with pytest.raises(LockError, match=r"Failed to fetch: `?https://127"):
            write_lock(environment)

        monkeypatch.setenv("PIP_CERT", str(certificate))

        assert len(write_lock(environment).packages) == 1


def test_a_constraints_file_limits_versions(index: Index, tmp_path: Path) -> None:
    (tmp_path / "limits.txt").write_text("own-lib<2  # breaks us\n")
    environment = declare(tmp_path, f"--index-url {with_password(index)}", "own-top")
    environment = environment.model_copy(update={"constraints": "limits.txt"})

    assert ("own-lib", "1.0") in {(package.name, package.version) for package in write_lock(environment).packages}

    (tmp_path / "limits.txt").write_text("own-lib<3\n")
    with pytest.raises(LockError, match=r"stale: '-c: own-lib<3' was added; '-c: own-lib<2' was removed"):
        check_lock(environment)


def test_settings_without_effect_are_named(index: Index, tmp_path: Path, cli: Command) -> None:
    pinned = f"python:3.12-slim-bookworm@sha256:{'0' * 64}"  # no registry is asked for it
    (tmp_path / "k8s-venv.toml").write_text(f'[environments.etl]\npython = "3.12"\nbase = "{pinned}"\n')
    (tmp_path / "pip.conf").write_text("[install]\npre = true\n[global]\nfind-links = /srv/wheels\nuser = true\n")

    (tmp_path / "config" / "uv").mkdir(parents=True)
    (tmp_path / "config" / "uv" / "uv.toml").write_text('index-url = "https://example.com/simple"\n')
    variables = {"PIP_CONFIG_FILE": "pip.conf", "PIP_CONSTRAINT": "limits.txt", "UV_EXCLUDE_NEWER": "2024-01-01"}

    said = cli("lock", XDG_CONFIG_HOME=str(tmp_path / "config"), **variables).stderr

    notes = [line for line in said.splitlines() if line.startswith("Note: ")]
    because = "has no effect here: what is locked follows from committed files"
    assert notes == [
        f"Note: `pre` in pip.conf {because}.",
        f'Note: PIP_CONSTRAINT {because} (constraints = "FILE" in the environment does the same).',
        f"Note: UV_EXCLUDE_NEWER {because}.",
        f"Note: {tmp_path}/config/uv/uv.toml {because}. Indexes are named among the requirements, or in UV_INDEX_URL "
        "and UV_EXTRA_INDEX_URL.",
        "Note: /srv/wheels of `find-links` in pip.conf has no effect here: others do not have this folder. Put the "
        "wheels beside the project file, and --find-links FOLDER among the requirements.",
    ]


def test_a_broken_pip_conf_gets_one_sentence(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.conf").write_text("index-url = x")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))

    with pytest.raises(K8sVenvError, match=r"pip's configuration file .*pip\.conf cannot be read: .*\.$"):
        write_lock(declare(tmp_path, "own-lib"))


def test_a_password_in_a_committed_file_is_noted(index: Index, tmp_path: Path, cli: Command) -> None:
    (tmp_path / "k8s-venv.toml").write_text('[environments.etl]\npython = "3.12"\nrequirements = "requirements.txt"\n')
    note = "Note: etl: requirements.txt:1 has a password in it for everybody to read."
    declare(tmp_path, f"--index-url {with_password(index)}", "own-lib")

    shown = cli("lock").stderr

    assert note in shown
    assert "s3cret" not in shown
    declare(tmp_path, f"--index-url http://{USER}:${{INDEX_PASSWORD}}@{index.address}/simple", "own-lib")
    assert note not in cli("lock", INDEX_PASSWORD=PASSWORD).stderr
