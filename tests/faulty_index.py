"""A package index that answers everything in one wrong way."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def answering(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, context: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Serve one answer, and give the index's address and the list of what it is asked for, with passwords.

    Args:
        status: the HTTP status of every answer.
        body: its body.
        headers: its headers, beside the length.
        context: serves over TLS.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization', '')}".strip())
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 -- the library's name

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http{'s' * bool(context)}://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
