"""``k8s-venv build-images`` against a real Docker Engine and a real registry."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import tomllib
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k8s_venv.builders.base import base_reference
from k8s_venv.builders.engine import find_buildx
from k8s_venv.config.environment import Environment
from k8s_venv.config.project import load_project
from k8s_venv.locks.lockfile import checksum
from k8s_venv.locks.locking import read_lock
from tests.conftest import Command

if TYPE_CHECKING:
    import docker
else:
    docker = pytest.importorskip("docker", reason="needs the docker extra")

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings")]

# Runs in each image: what a task would find there.
PROBE = """
import importlib.util, json, os, pathlib, shutil, subprocess, sys, sysconfig
stdlib = pathlib.Path(sysconfig.get_path("stdlib"))
def kind(source):
    cached = pathlib.Path(importlib.util.cache_from_source(str(source)))
    return int.from_bytes(cached.read_bytes()[4:8], "little") if cached.exists() else None
import idna
print(json.dumps({
    "user": os.getuid(),
    "prefix": sys.prefix,
    "python": shutil.which("python"),
    "bytecode": [kind(stdlib / "json/decoder.py"), kind(pathlib.Path(idna.__file__))],
    "tools": [name for name in os.listdir("/opt/venv/bin") if name.startswith(("uv", "pip"))],
    "modules": [name for name in ("pip", "uv", "setuptools") if importlib.util.find_spec(name)],
    "jq": shutil.which("jq") and subprocess.check_output(["jq", "-n", "1+1"], text=True).strip(),
    "writable": [place for place in ("/opt/venv", "/usr", "/home") if os.access(place, os.W_OK)],
}))
"""
UNCHECKED_HASH = 0b01  # PEP 552


@pytest.fixture
def build(cli: Command, client: docker.DockerClient, test_registry: str, tmp_path: Path) -> Iterator[Command]:
    """Return a function that builds a project's images; the engine's copies are removed afterwards."""

    def run(*arguments: str, project: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        if project:
            (tmp_path / "k8s-venv.toml").write_text(textwrap.dedent(project))
        # Whatever the tests' own folders are, only ours can be left behind in this one.
        environ = {"TMPDIR": str(temporary(tmp_path)), "K8S_VENV_REGISTRY": test_registry, **environ}
        return cli("build-images", *arguments, **environ)

    yield run
    for image in client.images.list():
        for tag in image.tags:
            if tag.startswith(test_registry):
                client.images.remove(tag)


def alter(lock: Path, old: str, new: str) -> None:
    """Change a lock as if it had been written so."""
    text = lock.read_text("utf-8").replace(old, new)
    content = tomllib.loads(text)
    lock.write_text(text.replace(content["tool"]["k8s-venv"]["checksum"], checksum(content)), "utf-8")


def temporary(folder: Path) -> Path:
    (folder / "tmp").mkdir(exist_ok=True)
    return folder / "tmp"


def tags(reference: str) -> list[str]:
    """Return the tags of a repository: what was pushed there."""
    host, _, name = reference.partition("/")
    try:
        with urllib.request.urlopen(f"http://{host}/v2/{name}/tags/list") as answer:
            return [str(tag) for tag in json.load(answer)["tags"] or ()]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return []


FULL = """
    [environments.etl]
    python = "3.11"
    requirements = ["idna==3.6"]
    packages = ["jq"]
"""


@pytest.mark.usefixtures("package_index")
def test_an_image_is_built_pushed_and_fit_for_tasks(
    build: Command, client: docker.DockerClient, test_registry: str, tmp_path: Path
) -> None:
    ran = build(project=FULL)

    environment = load_project(tmp_path / "k8s-venv.toml").environment("etl")
    lock = read_lock(environment)
    reference = environment.image_reference(test_registry, lock.digest)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"etl {reference}\n"
    assert tags(reference.rpartition(":")[0]) == [reference.rpartition(":")[2]]
    found = _probe(client, reference)
    assert found["user"] == 12345
    assert found["prefix"] == "/opt/venv"
    assert found["python"] == "/opt/venv/bin/python"
    assert found["bytecode"] == [UNCHECKED_HASH, UNCHECKED_HASH]
    assert found["tools"] == []
    assert found["modules"] == []
    assert found["jq"] == "2"
    assert found["writable"] == []
    image = client.images.get(reference)
    assert image.labels["io.k8s-venv.environment"] == "etl"
    assert image.labels["io.k8s-venv.lock"] == lock.digest
    assert image.labels["org.opencontainers.image.title"] == "etl"
    assert image.attrs["Config"]["User"] == "50000:0"


@pytest.mark.usefixtures("package_index")
@pytest.mark.parametrize("way", ["pushed", "loaded", "archive"])
def test_an_image_of_layers_is_as_fit_for_tasks(
    build: Command, client: docker.DockerClient, tmp_path: Path, way: str
) -> None:
    arguments = {"pushed": [], "loaded": ["--load"], "archive": ["--output", "image.tar"]}[way]

    ran = build(*arguments, project=FULL.replace('packages = ["jq"]', ""))

    assert ran.returncode == 0, ran.stderr
    reference = ran.stdout.split()[1]
    if way == "archive":
        client.images.load((tmp_path / "image.tar").read_bytes())
    assert (way == "pushed") == bool(tags(reference.rpartition(":")[0]))
    assert _probe(client, reference) == {
        "user": 12345,
        "prefix": "/opt/venv",
        "python": "/opt/venv/bin/python",
        "bytecode": [UNCHECKED_HASH, UNCHECKED_HASH],
        "tools": [],
        "modules": [],
        "jq": None,
        "writable": [],
    }


@pytest.mark.usefixtures("package_index")
def test_a_base_of_another_user_takes_debian_packages_and_lines(
    build: Command, client: docker.DockerClient, test_registry: str, tmp_path: Path
) -> None:
    base = f"{test_registry}/base:1"
    official = base_reference(Environment(name="x", root=tmp_path, python="3.11"))
    client.images.build(fileobj=io.BytesIO(f"FROM {official}\nUSER 1234\n".encode()), tag=base, rm=True)
    client.images.push(base)

    ran = build(project=FULL + f'base = "{base}"\ndockerfile = ["ENV GREETING=hello", "RUN touch /made-by-a-line"]\n')

    assert ran.returncode == 0, ran.stderr
    assert "buildkit (Debian packages, Dockerfile lines)" in ran.stderr
    code = "import os, idna; print(os.environ['GREETING'], os.path.exists('/made-by-a-line'))"
    output = client.containers.run(ran.stdout.split()[1], ["python", "-c", code], remove=True)
    assert output.decode().split() == ["hello", "True"]


@pytest.mark.usefixtures("package_index")
def test_a_package_without_wheels_is_locked_for_buildkit(build: Command, tmp_path: Path) -> None:
    project = '[environments.etl]\npython = "3.12"\nbuilder = "buildkit"\nrequirements = ["docopt==0.6.2"]\n'

    ran = build("--dry-run", project=project)

    assert ran.returncode == 0, ran.stderr
    assert "buildkit (the environment's `builder`)" in ran.stderr
    (package,) = read_lock(load_project(tmp_path / "k8s-venv.toml").environment("etl")).packages
    assert package.sdist
    assert package.sdist.url.endswith("docopt-0.6.2.tar.gz")


def test_one_archive_holds_the_images_of_both_builders(
    build: Command, client: docker.DockerClient, tmp_path: Path
) -> None:
    project = """
        [environments.touched]
        python = "3.12"
        dockerfile = ["RUN touch /touched"]

        [environments.greeting]
        python = "3.12"
        dockerfile = ["ENV GREETING=hello"]

        [environments.bare]
        python = "3.12"
    """

    ran = build("--output", "images.tar", project=project)

    assert ran.returncode == 0, ran.stderr
    references = dict(line.split() for line in ran.stdout.splitlines())
    assert list(references) == ["touched", "greeting", "bare"]
    assert not any(tag.startswith("k8s-venv-output") for image in client.images.list() for tag in image.tags)
    assert list(temporary(tmp_path).glob("k8s-venv-*")) == []
    with (tmp_path / "images.tar").open("rb") as archive:
        client.images.load(archive)
    code = "import os, sys; print(sys.prefix, os.environ.get('GREETING'), os.path.exists('/touched'))"
    said = {
        name: client.containers.run(reference, ["python", "-c", code], remove=True).decode().split()
        for name, reference in references.items()
    }
    assert said == {
        "touched": ["/opt/venv", "None", "True"],
        "greeting": ["/opt/venv", "hello", "False"],
        "bare": ["/opt/venv", "None", "False"],
    }


def test_what_a_builder_cannot_build_for_is_said_in_the_plan(build: Command, client: docker.DockerClient) -> None:
    if client.info()["Architecture"] != "x86_64" or find_buildx().exports:
        pytest.skip("needs an engine for linux/amd64 that builds for one platform at a time")
    both = '[environments.both]\npython = "3.12"\npackages = ["jq"]\nplatforms = ["linux/amd64", "linux/arm64"]\n'
    arm = '[environments.arm]\npython = "3.12"\npackages = ["jq"]\nplatforms = ["linux/arm64"]\n'

    ran = build("--dry-run", project=both + arm)

    assert ran.returncode == 1
    assert (
        "Environment 'both': its image needs BuildKit (Debian packages). The builder 'default' is Docker" in ran.stderr
    )
    if "linux/arm64" not in find_buildx().platforms:
        assert (
            "Environment 'arm': its image needs BuildKit (Debian packages). The builder 'default' cannot r"
            in ran.stderr
        )
        assert "tonistiigi/binfmt --install arm64`, or Debian's packages qemu-user-static and binfmt" in ran.stderr


def test_of_several_platforms_the_engine_gets_its_own(build: Command, client: docker.DockerClient) -> None:
    lines = 'dockerfile = ["ENV GREETING=hello"]\nplatforms = ["linux/amd64", "linux/arm64"]\n'

    ran = build("--load", project=f'[environments.both]\npython = "3.12"\n{lines}')

    assert ran.returncode == 0, ran.stderr
    image = client.images.get(ran.stdout.split()[1])
    assert f"linux/{image.attrs['Architecture']}" == find_buildx().engine


def _probe(client: docker.DockerClient, reference: str) -> dict[str, object]:
    output = client.containers.run(
        reference,
        ["python", "-c", PROBE],
        read_only=True,
        tmpfs={"/tmp": ""},
        user="12345:12345",
        network_mode="none",
        remove=True,
    )
    found: dict[str, object] = json.loads(output)
    return found


def test_an_image_that_exists_is_not_built_again(build: Command, client: docker.DockerClient) -> None:
    first = build(project='[environments.bare]\npython = "3.12"\n')

    second = build()

    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert "pushed" in first.stderr
    assert "exists" in second.stderr
    assert "pushed" not in second.stderr
    name, reference = second.stdout.split()
    assert name == "bare"
    output = client.containers.run(reference, ["python", "-c", "import sys; print(sys.prefix)"], remove=True)
    assert output.decode().strip() == "/opt/venv"


def test_a_dry_run_says_what_would_be_built_and_pushes_nothing(build: Command) -> None:
    ran = build("--dry-run", project='[environments.bare]\npython = "3.12"\n')

    assert ran.returncode == 0
    assert "to build" in ran.stderr
    assert tags(ran.stdout.split()[1].rpartition(":")[0]) == []


def test_one_failure_does_not_keep_other_images_from_being_built(
    build: Command, test_registry: str, tmp_path: Path
) -> None:
    mirror = os.environ.get("K8S_VENV_BASE_REGISTRY")
    base = f"{mirror}/python:3.11-slim-bookworm" if mirror else "python:3.11-slim-bookworm"

    ran = build(
        project=f"""
        [environments.wrong-python]
        python = "3.12"
        base = "{base}"

        [environments.no-such-package]
        python = "3.12"
        packages = ["libpq-dew"]

        [environments.no-such-base]
        python = "3.12"
        base = "{test_registry}/nothing:here"

        [environments.bare]
        python = "3.12"
        """
    )

    assert ran.returncode == 1
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["bare"]
    assert f"its base image {base} does not fit. The base image has Python 3.11 instead of 3.12." in ran.stderr
    assert (
        "there is no Debian package 'libpq-dew'. Did you mean 'libpq-dev'? "
        "Check `packages` of [environments.no-such-package]." in ran.stderr
    )
    assert f"its base image {test_registry}/nothing:here does not exist or cannot be reached (" in ran.stderr
    assert "Traceback" not in ran.stderr
    for name in ("wrong-python", "no-such-package", "no-such-base"):
        assert tags(f"{test_registry}/{name}") == []
    assert list(temporary(tmp_path).glob("k8s-venv-*")) == []


@pytest.mark.usefixtures("package_index")
def test_a_wheel_whose_hash_is_another_is_not_installed(build: Command, test_registry: str, tmp_path: Path) -> None:
    project = '[environments.etl]\npython = "3.12"\nrequirements = ["idna==3.6"]\n'
    assert build("--dry-run", project=project).returncode == 0
    alter(tmp_path / "pylock.etl.toml", 'sha256 = "c0', 'sha256 = "00')

    ran = build()

    assert ran.returncode == 1
    assert "Environment 'etl': its packages cannot be installed." in ran.stderr
    assert "Hash mismatch for `idna" in ran.stderr
    assert tags(f"{test_registry}/etl") == []


def test_a_registry_that_cannot_be_reached_is_named_before_anything_is_built(build: Command) -> None:
    ran = build(project='[environments.bare]\npython = "3.12"\n', K8S_VENV_REGISTRY="localhost:1/x")

    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("Error: The registry localhost:1 cannot be reached: ")
    assert "pulling" not in ran.stderr


def test_a_stale_lock_is_for_its_owner_to_renew(build: Command, tmp_path: Path) -> None:
    build("--dry-run", project='[environments.bare]\npython = "3.12"\n')

    ran = build(project='[environments.bare]\npython = "3.11"\n')

    assert ran.returncode == 1
    assert "Environment 'bare': its lock is stale: " in ran.stderr
    assert ran.stderr.splitlines()[-1].endswith("Run `k8s-venv lock bare`.")


def test_a_lock_of_another_generation_of_images_is_refused(build: Command, tmp_path: Path) -> None:
    build("--dry-run", project='[environments.bare]\npython = "3.12"\n')
    alter(tmp_path / "pylock.bare.toml", "epoch = ", "epoch = 1000")

    ran = build()

    assert ran.returncode == 1
    assert "its lock asks for an image that only another version of k8s-venv makes. Run `k8s-venv lock" in ran.stderr


@pytest.mark.parametrize(
    ("buildx", "sentence"),
    [(False, "The `docker` command is not on PATH."), (True, "Docker's buildx plugin is missing.")],
)
def test_what_building_needs_and_is_missing_is_named(
    build: Command, tmp_path: Path, buildx: bool, sentence: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    if buildx:
        (programs / "docker").write_text("#!/bin/sh\nexit 1\n")
        (programs / "docker").chmod(0o755)

    ran = build(project='[environments.etl]\npython = "3.12"\npackages = ["jq"]\n', PATH=str(programs))

    assert ran.returncode == 1
    assert f"its image needs BuildKit (Debian packages). {sentence}" in ran.stderr
    assert ran.stdout == ""


def test_an_interrupt_ends_the_build_and_leaves_nothing(
    client: docker.DockerClient, test_registry: str, tmp_path: Path
) -> None:
    # Enough packages for a build that is still at them when it is interrupted, on a base that no cache knows.
    base = f"{test_registry}/slow-base:1"
    official = base_reference(Environment(name="x", root=tmp_path, python="3.12"))
    dockerfile = f"FROM {official}\nRUN echo {uuid.uuid4()} > /unique\n"
    client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=base, rm=True)
    client.images.push(base)
    (tmp_path / "k8s-venv.toml").write_text(
        f'[environments.slow]\npython = "3.12"\nbase = "{base}"\n'
        'packages = ["default-jre-headless", "build-essential"]\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-c", "from k8s_venv.cli import main; main()", "build-images"],
        cwd=tmp_path,
        env={**os.environ, "K8S_VENV_REGISTRY": test_registry, "TMPDIR": str(temporary(tmp_path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "Debian packages" in line:
            break

    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert output == ""
    assert errors.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in errors
    assert tags(f"{test_registry}/slow") == []
    assert list(temporary(tmp_path).glob("k8s-venv-*")) == []
