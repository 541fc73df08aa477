"""``k8s-venv build-images``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from k8s_venv import cache
from k8s_venv.cli.console import (
    aligned,
    console,
    counted,
    environments_argument,
    interruptible,
    megabytes,
    open_project,
    progress,
    show_error,
)
from k8s_venv.cli.lock import lock_missing

if TYPE_CHECKING:
    from k8s_venv.builders.plan import Step, Volume
    from k8s_venv.builders.run import Done


@click.command("build-images")
@environments_argument
@click.option("--jobs", "-j", type=click.IntRange(1), default=4, show_default=True, help="Images to build at once.")
@click.option("--dry-run", is_flag=True, help="Show what would be built, and build nothing.")
@click.option("--check", is_flag=True, help="Build nothing; exit with 1 when an image is missing from the registry.")
@click.option(
    "--builder",
    type=click.Choice(["layers", "buildkit"]),
    help="Build with this one instead of what an environment needs.",
)
@click.option("--load", is_flag=True, help="Load the images into Docker Engine instead of pushing them.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the images into one OCI archive instead of pushing them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan, and what became of it, as JSON.")
@click.pass_obj
def build_images(
    given: Path | None,
    environments: tuple[str, ...],
    jobs: int,
    dry_run: bool,
    check: bool,
    builder: str | None,
    load: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Build the environments' images and push them.

    All of the project's environments, or the named ones. An image's tag is a digest of its environment and lock, so an
    image that the registry has is skipped, and an interrupted build continues where it stopped. Environments that were
    never locked are locked first. Standard output gets one line for each image: the environment's name and the
    reference.

    \b
    Examples:
        k8s-venv build-images --dry-run           what would be built, how, and how much it uploads
        k8s-venv build-images etl training        these two alone
        k8s-venv build-images --check             before a deployment: is every image there?
        k8s-venv build-images --output img.tar    for `kind load image-archive`, `ctr images import`, `docker load`

    Images that need only wheels are made from layers, without Docker: each package is packed once and shared by all
    images. Debian packages need BuildKit, that is a running Docker Engine with buildx. The registry is `registry` in
    k8s-venv.toml, or K8S_VENV_REGISTRY; its credentials are those of `docker login`. Registries on this machine, and
    the hosts in K8S_VENV_PLAIN_HTTP, are reached by plain HTTP.
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    import isal  # noqa: F401 -- else a build fails only when it packs the first layer

    from k8s_venv.builders.plan import make_plan, volumes

    _check_usage(check=check, load=load, output=output)
    elsewhere = bool(load or output)
    click.get_current_context().with_resource(interruptible())
    project = open_project(given)
    click.get_current_context().with_resource(cache.shared_lock(cache.layers_folder()))
    selected = project.select(environments)
    chosen = [environment for environment in selected if environment.image is None]
    project.require_registry()
    if not check:
        lock_missing(chosen)
    for environment in selected:
        if environment.image is not None:
            own = f"{environment.name} is not built: it has an image of its own, {environment.image}"
            console().print(own)
    steps = make_plan(project, chosen, builder, details=not check, rebuild=elsewhere, load=load)
    sizes = {} if elsewhere else volumes(steps)
    _show(steps, sizes)
    if check or dry_run:
        _print(steps, {}, sizes, as_json)
        failed = _report(steps, check)
    else:
        ended = _build(steps, jobs, output or ("load" if load else "push"))
        _print(steps, {done.step.environment.name: done for done in ended}, {}, as_json)
        failed = any(done.error for done in ended)
    raise click.exceptions.Exit(1 if failed else 0)


def _check_usage(*, check: bool, load: bool, output: Path | None) -> None:
    if load and output:
        raise click.UsageError("Choose one of --load and --output.")
    if check and (load or output):
        raise click.UsageError("--check asks the registry: leave out --load and --output.")
    if output and not os.access(output.absolute().parent, os.W_OK):
        raise click.UsageError(f"--output: there is no folder {output.absolute().parent} that can be written to.")


def _report(steps: list[Step], check: bool) -> bool:
    """Print the problems of a plan and, for a check, the missing images; return whether there are any."""
    for step in steps:
        if step.problem:
            show_error(step.problem)
    missing = [step.environment.name for step in steps if not step.exists and not step.problem]
    if check and missing:
        console().print(
            f"Missing: {len(missing)} of {len(steps)}. `k8s-venv build-images {' '.join(missing)}` builds them."
        )
    return any(step.problem or (check and not step.exists) for step in steps)


def _show(steps: list[Step], sizes: dict[str, Volume]) -> None:
    for step in steps:
        if not step.lock.base:
            console().print(
                f"Note: {step.environment.name}: its lock does not pin the base {step.environment.base_image}; "
                f"`k8s-venv lock {step.environment.name}` does.",
            )
    rows = []
    for step in steps:
        size = sizes.get(step.environment.name)
        rows.append(
            (
                step.environment.name,
                step.environment.python,
                str(step.packages),
                f"{step.builder} ({step.why})" if step.why else step.builder,
                _upload(size.upload, size.unmade, size.unmade_bytes) if size else "",
                megabytes(size.shared) if size else "",
                "cannot be built" if step.problem and step.state != "denied" else step.state,
            )
        )
    header = ("environment", "Python", "packages", "builder", "to upload", "shared", "image")
    console().print(aligned(header, rows))


def _upload(upload: int, unmade: int, unmade_bytes: int | None) -> str:
    if unmade_bytes is not None:
        return megabytes(upload + unmade_bytes)
    packages = f"{counted(unmade, 'package')} not packed yet"
    return f"{megabytes(upload)} and {packages}" if upload else packages


def _build(steps: list[Step], jobs: int, destination: Any) -> list[Done]:
    """Build the missing images, and show the outcome of each."""
    from k8s_venv.builders.run import Run

    missing = [step for step in steps if not step.exists]
    with progress([step.environment.name for step in missing]) as (report, finished):

        def done(one: Done) -> None:
            what = {"push": f"pushed, {megabytes(one.sent)} sent" if one.step.parts else "pushed", "load": "loaded"}
            finished(one.step.environment.name, "failed" if one.error else what.get(str(destination), "built"))

        def sent(step: Step, number: int) -> None:
            if console().is_terminal:
                report(step.environment.name, f"pushing, {megabytes(number)} sent")

        run = Run(destination, lambda step, text: report(step.environment.name, text), sent, done)
        ended = run.all(missing, jobs)
    for one in ended:
        if one.error:
            show_error(one.error)
    return ended


def _print(steps: list[Step], ended: dict[str, Done], sizes: dict[str, Volume], as_json: bool) -> None:
    """Print the references of the images that can be used, or everything as JSON."""
    if not as_json:
        for step in steps:
            done = ended.get(step.environment.name)
            if not (done.error if done else step.problem):
                click.echo(f"{step.environment.name} {step.reference}")
        return
    click.echo(json.dumps([_document(step, ended.get(step.environment.name), sizes) for step in steps], indent=2))


def _document(step: Step, done: Done | None, sizes: dict[str, Volume]) -> dict[str, Any]:
    size = sizes.get(step.environment.name)
    error = done.error if done else step.problem
    return {
        "environment": step.environment.name,
        "python": step.environment.python,
        "platforms": list(step.environment.image_platforms),
        "packages": step.packages,
        "reference": step.reference,
        "digest": step.digest or (done.digest if done else None) or None,
        "exists": step.exists,
        "state": "failed" if error else "built" if done else step.state,
        "builder": step.builder or None,
        "why": step.why or None,
        "upload": (done.sent if done.step.parts else None) if done else size.upload if size else None,
        "shared": size.shared if size else None,
        "new_packages": size.unmade if size else None,
        "error": str(error) if error else None,
    }
