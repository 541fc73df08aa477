"""How long images take to build and push, and how large they are, next to two Dockerfiles that others write.

It needs a registry (K8S_VENV_TEST_REGISTRY) and a Docker Engine that pulls from it, and takes the base image from
where K8S_VENV_BASE_REGISTRY says. All contenders build and push on the same engine, index and registry.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from k8s_venv.backends.process import runner_command
from k8s_venv.calls import pack
from k8s_venv.config.environment import Environment
from tests.benchmarks import _dockerfiles as docker

LINES = ["pandas==2.2.3", "pyarrow==17.0.0", "sqlalchemy==2.0.36", "requests==2.32.3"]
CHANGED = [*LINES[:3], "requests==2.32.2"]
# Ten environments as a team has them: a common core, and what each adds.
EXTRAS = ("openpyxl", "httpx", "jinja2", "pyyaml", "lxml", "psycopg2-binary", "boto3", "polars", "rich", "tenacity")
IMPORT = "import time; t = time.perf_counter(); import pandas; print(time.perf_counter() - t)"
WARM = f"""
import subprocess, sys
for _ in range(2):
    printed = subprocess.check_output([sys.executable, "-c", {IMPORT!r}])
print(printed.decode())
"""
COMMAND = runner_command("python", "/call/call.pyz", "--result", "/tmp/result")
START = f"""
import pathlib, subprocess, time
started = time.monotonic()
subprocess.run({COMMAND!r}, check=True)
print(float(pathlib.Path("/tmp/reached").read_text()) - started)
"""


def reached() -> None:
    """Return when the user's first line was reached."""
    Path("/tmp/reached").write_text(str(time.monotonic()))


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="images", description=__doc__)
    parser.add_argument("--runs", type=int, default=2, help="cold builds of each contender, each from empty caches")
    parser.add_argument("--containers", type=int, default=10, help="fresh containers for each figure inside them")
    parser.add_argument("--skip-ten", action="store_true", help="leave out the ten overlapping environments")
    options = parser.parse_args(arguments)
    place = f"{os.environ['K8S_VENV_TEST_REGISTRY']}/bench-{uuid.uuid4().hex[:8]}"
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="k8s-venv-bench-") as name, contextlib.ExitStack() as left:
        left.callback(docker.remove, place)
        folder = Path(name)
        references = builds(folder, place, options.runs, figures)
        sizes(references, figures)
        nothing_changed(folder / "ten", place, figures)
        inside(folder, references, options.containers, figures)
        if not options.skip_ten:
            ten(folder / "ten", place, figures)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    return 0


def builds(folder: Path, place: str, runs: int, figures: dict[str, float]) -> dict[str, str]:
    """Time cold builds in turn, then builds with caches, then a change of one line; return the images."""
    seconds: dict[str, list[float]] = {}
    digests = set()
    references = {}

    def note(contender: str, what: str, value: float) -> None:
        seconds.setdefault(f"{contender}_{what}", []).append(value)
        print(f"{contender:6} {what:8} {value:6.2f} s", flush=True)

    for run in range(runs):
        cache, at = uuid.uuid4().hex, f"{place}/run{run}"
        naive, multi, ours = (folder / f"{name}{run}" for name in ("naive", "uv", "ours"))
        # The base is at hand for all: the engine has pulled it, and our cache has what it needs of it.
        project(ours, {"bare": []})
        k8s_venv(ours, "build-images", place=at)
        project(ours, {"bench": LINES})
        k8s_venv(ours, "lock", place=at)
        note("naive", "cold", docker.build(naive, docker.NAIVE, LINES, f"{at}/naive:1", cached=False))
        note("uv", "cold", docker.build(multi, docker.UV, LINES, f"{at}/uv:1", cached=False, cache=cache))
        taken, reference, digest = built(ours, place=at)
        note("ours", "cold", taken)
        digests.add(digest)
        references = {"naive": f"{at}/naive:1", "uv": f"{at}/uv:1", "ours": reference}
        # Another registry, as far as ours can know: every layer is sent again.
        note("ours", "cached", built(ours, place=f"{at}/again", forget=True)[0])
        project(ours, {"bench": CHANGED})
        k8s_venv(ours, "lock", place=at)
        note("naive", "changed", docker.build(naive, docker.NAIVE, CHANGED, f"{at}/naive:2"))
        note("uv", "changed", docker.build(multi, docker.UV, CHANGED, f"{at}/uv:2", cache=cache))
        taken, changed, _ = built(ours, place=at)
        note("ours", "changed", taken)
        figures["changed_new_layers"] = len(docker.layers(changed).keys() - docker.layers(reference).keys())
    best = {name: statistics.median(values) for name, values in seconds.items()}
    for what in ("cold", "cached", "changed"):
        than = "changed" if what == "changed" else "cold"
        for contender in ("naive", "uv"):
            figures[f"{what}_faster_than_{contender}"] = best[f"{contender}_{than}"] / best[f"ours_{what}"]
    figures.update({f"{name}_seconds": value for name, value in best.items()})
    figures["digests_of_cold_builds"] = len(digests)
    return references


def sizes(references: dict[str, str], figures: dict[str, float]) -> None:
    """Compare sizes over the base, in the registry and on an engine."""
    packed = {name: sum(docker.layers(reference).values()) for name, reference in references.items()}
    unpacked = {name: docker.unpacked(reference) for name, reference in references.items()}
    for kind, found in (("packed", packed), ("unpacked", unpacked)):
        print(f"over the base, {kind}: " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in found.items()))
        figures[f"size_{kind}_of_naive"] = found["ours"] / found["naive"]


def nothing_changed(folder: Path, place: str, figures: dict[str, float]) -> None:
    """Time a build of ten environments that are all there."""
    project(folder, {f"env{number}": [*LINES, extra] for number, extra in enumerate(EXTRAS)})
    k8s_venv(folder, "build-images", place=place)
    times = []
    for _ in range(5):
        started = time.monotonic()
        told = k8s_venv(folder, "build-images", "--json", place=place)
        times.append(time.monotonic() - started)
        assert all(one["exists"] for one in json.loads(told))
    figures["nothing_changed_seconds"] = statistics.median(times)
    print(f"nothing changed, ten environments: {figures['nothing_changed_seconds']:.2f} s")


def ten(folder: Path, place: str, figures: dict[str, float]) -> None:
    """Compare the bytes that a registry stores for ten overlapping environments."""
    told = json.loads(k8s_venv(folder, "build-images", "--json", place=place))
    ours: dict[str, int] = {}
    for one in told:
        ours.update(docker.layers(one["reference"]))
    naive: dict[str, int] = {}
    for number, extra in enumerate(EXTRAS):
        reference = f"{place}/naive{number}:1"
        docker.build(folder / f"naive{number}", docker.NAIVE, [*LINES, extra], reference)
        naive.update(docker.layers(reference))
    figures["ten_bytes_of_naive"] = sum(ours.values()) / sum(naive.values())
    print(f"ten environments: ours {sum(ours.values()) / 1e6:.0f} MB, naive {sum(naive.values()) / 1e6:.0f} MB")


def inside(folder: Path, references: dict[str, str], runs: int, figures: dict[str, float]) -> None:
    """Time the first import of pandas, and the runner's start, in fresh containers."""
    call = folder / "call"
    call.mkdir()
    environment = Environment(name="bench", root=folder, python=docker.PYTHON)
    (call / "call.pyz").write_bytes(pack(reached, (), {}, environment=environment).archive)
    warm = f"{references['naive'].rpartition(':')[0]}:warm"
    docker.build(folder / "warm", docker.WARM.replace("NAIVE", references["naive"]), [], warm)
    asked = {
        "ours": (references["ours"], IMPORT),
        "uv": (references["uv"], IMPORT),
        "warm": (warm, IMPORT),  # a container's first import meets every file for the first time, in any image
        "naive": (references["naive"], WARM),
        "start": (references["ours"], START, f"{call}:/call:ro"),
    }
    times: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(runs + 1):
        for name in random.sample(list(asked), len(asked)):
            times[name].append(float(docker.in_container(*asked[name])))
    found = {name: statistics.median(values[1:]) for name, values in times.items()}
    figures["import_of_warm_naive"] = found["ours"] / found["naive"]
    figures["import_of_first_warm_naive"] = found["ours"] / found["warm"]
    figures["import_of_first_uv"] = found["ours"] / found["uv"]
    figures["runner_start_ms"] = 1000 * found["start"]
    said = ", ".join(f"{name} {found[name]:.3f} s" for name in ("ours", "warm", "uv"))
    print(f"import pandas: first in a container, {said}; second, naive {found['naive']:.3f} s")
    print(f"runner to the user's first line: {1000 * found['start']:.0f} ms")


def project(folder: Path, environments: dict[str, list[str]]) -> None:
    folder.mkdir(exist_ok=True)
    tables = [f'[environments.{name}]\npython = "{docker.PYTHON}"\nrequirements = {json.dumps(lines)}\n'
              for name, lines in environments.items()]  # fmt: skip
    (folder / "k8s-venv.toml").write_text("\n".join(tables))


def built(folder: Path, *, place: str, forget: bool = False) -> tuple[float, str, str]:
    """Build and push; return the seconds, the image and its digest."""
    if forget:
        pushed = folder / "cache" / "pushed"
        pushed.rename(folder / "cache" / "forgotten")
    started = time.monotonic()
    (told,) = json.loads(k8s_venv(folder, "build-images", "--json", place=place))
    return time.monotonic() - started, told["reference"], told["digest"]


def k8s_venv(folder: Path, *arguments: str, place: str) -> str:
    """Run the command with a cache beside the project, empty at first."""
    environ: dict[str, Any] = {**os.environ, "K8S_VENV_REGISTRY": place, "K8S_VENV_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", "from k8s_venv.cli import main; main()", *arguments]
    ran = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
