"""Wheels made by hand, and a package index that serves them over HTTP, with a password if wanted."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ssl
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    tag: str = "py3-none-any",
    requires: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a wheel with one module, whose `VERSION` is the wheel's, or other files, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        **({f"{module}.py": f"VERSION = {version!r}\n"} if files is None else files),
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in requires),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    path = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(zipfile.ZipInfo(file), text)
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


class Index:
    """A running package index (PEP 503).

    Args:
        address: host and port.
        scheme: `http` or `https`.
        folder: holds its wheels; more can be added while it runs.
        requests: what it was asked for, path by path.
    """

    def __init__(self, address: str, folder: Path, scheme: str) -> None:
        self.address = address
        self.scheme = scheme
        self.folder = folder
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        """Return the address of the index itself, without user and password."""
        return f"{self.scheme}://{self.address}/simple"

    def url_with(self, credentials: str) -> str:
        """Return the address with a user and a password in it, as people write it."""
        return f"{self.scheme}://{credentials}@{self.address}/simple"


@contextlib.contextmanager
def serve(
    folder: Path, credentials: str | None = None, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[Index]:
    """Serve a folder of wheels as a package index.

    Args:
        folder: holds the wheels.
        credentials: the user and password that it asks for, as `user:password`.
        context: serves over TLS.
        host: the address to serve on.
    """
    expected = credentials and "Basic " + base64.b64encode(credentials.encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.requests.append(self.path)
            if expected and self.headers.get("Authorization") != expected:
                self._answer(401, b"", "text/plain")
                return
            kind, _, name = self.path.strip("/").partition("/")
            if kind == "files" and (folder / name).is_file():
                self._answer(200, (folder / name).read_bytes(), "application/octet-stream")
            elif kind == "simple" and (found := _wheels(folder, name)):
                self._answer(200, _page(found).encode(), "text/html")
            else:
                self._answer(404, b"", "text/plain")

        do_HEAD = do_GET  # noqa: N815 -- the library's name

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="wheels"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer((host, 0), Handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        index = Index(f"{host}:{server.server_port}", folder, "https" if context else "http")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield index
        finally:
            server.shutdown()


def _wheels(folder: Path, name: str) -> list[Path]:
    return sorted(path for path in folder.glob("*.whl") if path.name.partition("-")[0].replace("_", "-") == name)


def _page(wheels: list[Path]) -> str:
    links = (
        f'<a href="../../files/{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>'
        for path in wheels
    )
    return "<!DOCTYPE html><html><body>" + "\n".join(links) + "</body></html>"
