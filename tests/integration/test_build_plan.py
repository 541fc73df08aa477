"""What ``k8s-venv build-images`` says before, while and after it builds, held against what it does."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.registry_proxy import Fault, Proxy, registry_proxy
from tests.terminal import run_on_terminal

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings", "package_index")]

ETL = '[environments.etl]\npython = "3.12"\nrequirements = ["idna==3.6"]\n'


@pytest.fixture
def proxy(test_registry: str) -> Iterator[Proxy]:
    with registry_proxy(test_registry.partition("/")[0]) as proxy:
        yield proxy


@pytest.fixture
def build(cli: Command, proxy: Proxy, test_registry: str, tmp_path: Path) -> Command:
    """Return a function that builds a project's images, and pushes them through the proxy."""

    def run(*arguments: str, project: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        if project:
            (tmp_path / "k8s-venv.toml").write_text(project)
        place = f"{proxy.host}/{test_registry.partition('/')[2]}"
        base = os.environ["K8S_VENV_BASE_REGISTRY"].replace(test_registry.partition("/")[0], proxy.host)
        return cli(
            "build-images", *arguments, **{"K8S_VENV_REGISTRY": place, "K8S_VENV_BASE_REGISTRY": base, **environ}
        )

    return run


def test_what_is_said_to_be_uploaded_is_uploaded(build: Command, proxy: Proxy) -> None:
    also = ETL.replace("etl", "also").replace('"idna==3.6"', '"idna==3.6", "six"')
    build("--output", "images.tar", project=ETL + also)  # which packs the layers
    planned = json.loads(build("--dry-run", "--json").stdout)
    proxy.received = 0

    built = json.loads(build("--json").stdout)

    small = 20_000  # each image's configuration, manifest and the virtual environment's links
    assert [one["new_packages"] for one in planned] == [0, 0]
    total = sum(one["upload"] for one in planned)
    assert sum(one["upload"] for one in built) == pytest.approx(total, abs=2 * small)
    assert proxy.received == pytest.approx(total, abs=2 * small)
    # The base is mounted, and each layer that both have was sent with one of them.
    assert all(one["shared"] > 10_000_000 for one in planned)
    assert total > 1_000_000 > planned[1]["upload"]


def test_many_environments_ask_a_registry_little(build: Command, proxy: Proxy) -> None:
    names = [f"e{number:02}" for number in range(20)]
    project = "".join(f'[environments.{name}]\npython = "3.12"\n' for name in names)
    build("--dry-run", "e00", project=project)
    build("--dry-run")

    proxy.requests.clear()
    planned = build("--dry-run")
    asked_for_plan = len(proxy.requests)
    proxy.requests.clear()
    checked = build("--check")
    last = checked.stderr.splitlines()[-1]

    assert len(proxy.requests) == 20
    assert asked_for_plan <= 2 * 20 + 8 * 2  # each image and its tags; the base, by each of eight threads at most
    assert [line.split()[0] for line in planned.stderr.splitlines()] == ["environment", *names]
    assert checked.returncode == 1
    assert last == f"Missing: 20 of 20. `k8s-venv build-images {' '.join(names)}` builds them."


def test_a_check_that_could_not_be_made_says_so_and_not_that_images_are_missing(build: Command, proxy: Proxy) -> None:
    two = ETL + ETL.replace("etl", "also")
    build(project=two)
    denial = b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}'
    proxy.faults = [Fault("", "/etl/manifests/", 403, body=denial, times=9)]

    denied, down = build("--check"), build("--check", K8S_VENV_REGISTRY="localhost:1/x")
    proxy.faults = [Fault("HEAD", "/manifests/", 500, {"Retry-After": "0"}, times=99)]
    failing = build("--check")

    assert denied.returncode == down.returncode == failing.returncode == 1
    assert re.search(r"^etl .* denied$", denied.stderr, re.MULTILINE)
    assert re.search(r"^also .* exists$", denied.stderr, re.MULTILINE)
    assert re.search(
        r"Environment 'etl': its registry does not say whether its image exists. The registry \S+ denies pulling from "
        r"\S+/etl: requested access to the resource is denied\. Does it exist, ",
        denied.stderr,
    )
    assert down.stderr.startswith("Error: The registry localhost:1 cannot be reached")
    assert re.match(r"Error: The registry \S+ answered HEAD \S+ with 500: Internal Server Error\.$", failing.stderr)
    for ran in (denied, down, failing):
        assert "to build" not in ran.stderr
        assert "Traceback" not in ran.stderr


def test_no_kind_of_failure_stops_other_images(build: Command, proxy: Proxy) -> None:
    kinds = ["fine", "denied", "broken", "other-python", "no-base"]
    other = f'base = "{os.environ["K8S_VENV_BASE_REGISTRY"]}/python:3.11-slim-bookworm"\n'
    bases = {"other-python": other, "no-base": 'base = "localhost:1/none:1"\n'}
    build("--dry-run", project="".join(ETL.replace("etl", name) + bases.get(name, "") for name in kinds))
    denial = b'{"errors":[{"code":"DENIED","message":"the quota of the project is used up"}]}'
    proxy.faults = [
        Fault("POST", "/denied/blobs/uploads/", 403, body=denial, times=99),
        Fault("PUT", "/broken/manifests/", 500, {"Retry-After": "0"}, times=99),
    ]

    ran = build("--json")

    told = {one["environment"]: one for one in json.loads(ran.stdout)}
    assert ran.returncode == 1
    assert {name: one["state"] for name, one in told.items()} == dict.fromkeys(kinds, "failed") | {"fine": "built"}
    assert "denies pushing to" in told["denied"]["error"]
    assert "the quota of the project is used up" in told["denied"]["error"]
    assert re.search(r"answered PUT \S+ with 500", told["broken"]["error"])
    assert "its base image localhost:1/none:1 does not exist or cannot be reached" in told["no-base"]["error"]
    assert "The base image has Python 3.11 instead of 3.12" in told["other-python"]["error"]
    assert "Traceback" not in ran.stderr


def test_progress_on_a_terminal_is_live_and_says_what_was_sent(
    build: Command, proxy: Proxy, test_registry: str, tmp_path: Path
) -> None:
    build("--dry-run", project=ETL)

    ran = run_on_terminal("build-images", cwd=tmp_path, K8S_VENV_REGISTRY=test_registry)

    assert ran.status == 0
    assert re.fullmatch(rf"etl {test_registry}/etl:\w+\n", ran.output)
    assert re.search(r"✓ etl .*pushed, \d+\.\d MB sent", ran.shown)
    assert "\x1b[?25l" in ran.shown  # the cursor, hidden and
    assert "\x1b[?25h" in ran.shown  # shown again
