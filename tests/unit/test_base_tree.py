"""The files of a base image, as its layers leave them."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest
import zstandard

from k8s_venv.builders.base import Tree

MODULES = re.compile(r"(.*/)?lib/python3\.12/.*")
LIBRARY = "usr/local/lib/python3.12"


def layer(*entries: tuple[str, str | bytes | None], hard: bool = False) -> bytes:
    """Return a layer of files (bytes), symbolic links or hard links (str) and folders (None)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
                continue
            entry.type = tarfile.DIRTYPE if content is None else tarfile.LNKTYPE if hard else tarfile.SYMTYPE
            entry.linkname, entry.mode = content or "", 0o755
            archive.addfile(entry)
    return stream.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(MODULES, tmp_path / "files", (".py",))


def add(tree: Tree, *layers: bytes) -> dict[str, bytes | None]:
    for one in layers:
        tree.add(io.BytesIO(one), "application/vnd.oci.image.layer.v1.tar")
    return {name: path.read_bytes() if path else None for name, path in tree.files.items()}


def test_a_layer_that_writes_every_module_again_keeps_them_apart(tree: Tree) -> None:
    """As `RUN chown -R` does."""
    modules = [(f"{LIBRARY}/{name}/__init__.py", name.encode()) for name in ("email", "json", "xml")]

    found = add(tree, layer(*modules), layer(*modules))

    assert found == dict(modules)


def test_a_whiteout_hides_lower_layers_alone_wherever_it_stands(tree: Tree) -> None:
    lower = layer((f"{LIBRARY}/old.py", b"old"), (f"{LIBRARY}/kept.py", b"old"))
    upper = layer((f"{LIBRARY}/kept.py", b"new"), (f"{LIBRARY}/.wh..wh..opq", b""))

    assert add(tree, lower, upper) == {f"{LIBRARY}/kept.py": b"new"}


def test_a_folder_that_becomes_a_link_hides_what_was_in_it(tree: Tree) -> None:
    lower = layer((LIBRARY, None), (f"{LIBRARY}/a.py", b"old"))
    upper = layer((LIBRARY, "/opt/lib/python3.12"), ("opt/lib/python3.12/a.py", b"new"))

    found = add(tree, lower, upper)

    assert found == {LIBRARY: None, "opt/lib/python3.12/a.py": b"new"}
    assert tree.resolve(f"/{LIBRARY}/a.py") == "opt/lib/python3.12/a.py"


def test_hard_links_have_their_target_s_content(tree: Tree) -> None:
    found = add(tree, layer((f"{LIBRARY}/a.py", b"text")), layer((f"{LIBRARY}/b.py", b"other")))
    twice = layer((f"{LIBRARY}/c.py", b"both"))
    linked = layer((f"{LIBRARY}/d.py", f"{LIBRARY}/a.py"), hard=True)

    found = add(tree, twice, linked)

    assert found[f"{LIBRARY}/c.py"] == b"both"
    assert found[f"{LIBRARY}/d.py"] is None  # its target is in a lower layer
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w") as archive:
        entry = tarfile.TarInfo(f"{LIBRARY}/e.py")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"once"))
        entry = tarfile.TarInfo(f"{LIBRARY}/f.py")
        entry.type, entry.linkname = tarfile.LNKTYPE, f"{LIBRARY}/e.py"
        archive.addfile(entry)
    assert add(tree, stream.getvalue())[f"{LIBRARY}/f.py"] == b"once"


@pytest.mark.parametrize(
    ("links", "path", "leads"),
    [
        ([("bin", "usr/bin")], "/bin/python3.12", "usr/bin/python3.12"),
        ([("usr/local/bin/python3.12", "../../../opt/python/bin/python3")], "/usr/local/bin/python3.12",
         "opt/python/bin/python3"),
        ([("a", "/b"), ("b", "c/d")], "/a/e", "c/d/e"),
    ],
)  # fmt: skip
def test_links_are_followed(tree: Tree, links: list[tuple[str, str]], path: str, leads: str) -> None:
    add(tree, layer(*links))

    assert tree.resolve(path) == leads


def test_links_in_a_circle_end(tree: Tree) -> None:
    add(tree, layer(("a", "b"), ("b", "a")))

    assert tree.resolve("/a/python") not in tree.files


def test_layers_may_be_compressed_with_zstd(tree: Tree) -> None:
    packed = zstandard.compress(layer((f"./{LIBRARY}/a.py", b"text")))

    tree.add(io.BytesIO(packed), "application/vnd.oci.image.layer.v1.tar+zstd")

    assert set(tree.files) == {f"{LIBRARY}/a.py"}
