"""Builds with BuildKit: what they are given, and why one failed, from the lines that BuildKit printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from k8s_venv.builders.buildkit import BuildLog, Secrets
from k8s_venv.builders.plan import Step
from k8s_venv.config.environment import Environment
from k8s_venv.errors import BuildError
from k8s_venv.locks.lockfile import Lock
from k8s_venv.locks.requirements import Requirements

REFERENCE = "registry.example.com/airflow/etl:1"

OLD_VERSION = """
#10 [base 4/5] RUN apt-get update && apt-get install --yes --no-install-recommends jq=99
#10 29.53 Package jq is not available, but is referred to by another package.
#10 29.53 E: Version '99' for 'jq' was not found
#10 29.89 Debian has:
#10 ERROR: executor failed running [/bin/sh -c apt-get install jq=99]: exit code: 1
------
ERROR: failed to build: failed to solve: executor failed running [/bin/sh -c apt-get install jq=99]: exit code: 1
"""
NO_CONNECTION = """
#14 [build 5/5] RUN /build/uv/bin/uv pip sync --python /opt/venv/bin/python /build/lock/pylock.toml
#14 12.24 error: Failed to download `idna==3.6`
#14 12.24   cause: Request failed after 3 retries in 11.0s
#14 12.24   cause: Failed to fetch: http://localhost:9/idna-3.6-py3-none-any.whl
#14 12.24   cause: client error (Connect)
#14 12.24   cause: tcp connect error
#14 12.24   cause: Cannot assign requested address (os error 99)
#14 ERROR: executor failed running [/bin/sh -c uv pip sync]: exit code: 2
------
ERROR: failed to build: failed to solve: executor failed running [/bin/sh -c uv pip sync]: exit code: 2
"""
REGISTRY_GONE = """
#17 naming to registry.example.com/airflow/etl:1 done
#18 pushing registry.example.com/airflow/etl:1 with docker
#18 ERROR: Get "https://registry.example.com/v2/": dial tcp 127.0.0.1:443: connect: connection refused
------
 > pushing registry.example.com/airflow/etl:1 with docker:
------
ERROR: failed to build: Get "https://registry.example.com/v2/": dial tcp 127.0.0.1:443: connect: connection refused
"""
DISK_FULL = """
#12 [base 5/5] RUN python3.12 -m compileall -q /usr/local/lib/python3.12
#12 ERROR: failed to copy files: write /usr/local/lib/libpython3.12.so.1.0: no space left on device
------
ERROR: failed to build: failed to solve: write /usr/local/lib/libpython3.12.so.1.0: no space left on device
"""
NO_EMULATION = """
#9 [linux/arm64 base 2/5] RUN if ! command -v python >/dev/null; then cp -a /python/usr/local/. /usr/local/; fi
#9 0.164 exec /bin/sh: exec format error
#9 ERROR: process "/bin/sh -c if ! command -v python" did not complete successfully: exit code: 1
------
ERROR: failed to build: failed to solve: process "/bin/sh -c if ! command -v python" did not complete: exit code: 1
"""


def error_of(log: str, *own_addresses: str) -> BuildError:
    environment = Environment(name="etl", root=Path(), python="3.12", platforms=("linux/arm64",))
    reader = BuildLog()
    for line in log.splitlines():
        reader.read(line)
    requirements = Requirements(environment, ())
    lock = Lock(path=Path(), packages=(), builder="buildkit", epoch=2, requirements=requirements)
    return reader.error(Step(environment, lock, REFERENCE, None, ""), own_addresses)


def test_a_debian_version_that_is_gone_is_named_without_the_log() -> None:
    assert str(error_of(OLD_VERSION)) == (
        "Environment 'etl': there is no version '99' of the Debian package 'jq'; Debian removes old ones. "
        "Check `packages` of [environments.etl]."
    )


@pytest.mark.parametrize(
    ("log", "own_addresses", "sentence"),
    [
        (
            NO_CONNECTION,
            [],
            "a build's container cannot download its packages: http://localhost:9/idna-3.6-py3-none-any.whl "
            "(tcp connect error).",
        ),
        (
            NO_CONNECTION,
            ["http://localhost:9"],
            "a build's container cannot reach http://localhost:9, which is an address of this machine alone.",
        ),
        (REGISTRY_GONE, [], f"its image could not be pushed as {REFERENCE}."),
        (DISK_FULL, [], "there is no space left where Docker Engine builds. `docker system df` shows"),
        (NO_EMULATION, [], "the builder cannot run every platform. Install their emulation: `docker run --privileged"),
    ],
    ids=["unreachable index", "index of this machine", "registry gone", "disk full", "no emulation"],
)
def test_what_is_wrong_comes_first_and_the_last_lines_of_the_build_after_it(
    log: str, own_addresses: list[str], sentence: str
) -> None:
    message = str(error_of(log, *own_addresses))

    assert re.match(rf"Environment 'etl': {re.escape(sentence)}.*The last lines of the build:", message), message
    assert "/bin/sh -c" not in message
    assert message.partition("The last lines of the build:")[2].strip()


def test_a_secret_that_buildkit_would_not_take_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine index.example.com login bob password pw\n" * 20_000)
    monkeypatch.setenv("NETRC", str(netrc))
    secrets = Secrets(Environment(name="etl", root=tmp_path, python="3.12"), {})

    with pytest.raises(BuildError, match=rf"its netrc \({netrc}\) is larger than the 500 kB that BuildKit hands to"):
        secrets.options(tmp_path)
