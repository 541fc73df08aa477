"""A proxy in front of a real registry that fails on request, and asks for passwords."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_PASSED = ("accept", "content-type", "content-range", "host", "range")


@dataclasses.dataclass
class Fault:
    """What goes wrong, and how often.

    Args:
        method: with requests of this HTTP method, or of any when empty,
        pattern: to such paths,
        status: the proxy answers itself with this status (0: it hangs up),
        headers: and these headers,
        body: and this body;
        after: or hangs up after passing on so many bytes of the body;
        answered: or after so many bytes of the answer.
        times: how often that happens,
        skip: after so many requests for which it does not.
    """

    method: str
    pattern: str
    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    after: int | None = None
    answered: int | None = None
    times: int = 1
    skip: int = 0


class Proxy:
    """What happened, and what shall go wrong."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.received = self.sent = 0  # bytes of bodies
        self.users: dict[str, str] = {}  # whoever may push; everybody when empty
        self.scheme = "Bearer"
        self.identity_token = ""  # is exchanged for others, if there is one
        self.token_fields: dict[str, object] = {}  # of the token service's answers
        self.revoked = 0  # tokens issued before so many others are not taken any more
        self.issued = 0
        self.changed: Callable[[dict[str, str]], None] = lambda headers: None  # what becomes of an answer's headers
        self.heard: list[tuple[str, str, str]] = []  # the credentials that requests came with
        self.host = ""

    def revoke(self) -> None:
        """End the life of every token."""
        self.revoked = self.issued

    def count(self, method: str, pattern: str = "") -> int:
        return sum(1 for one, path, _ in self.requests if one == method and re.search(pattern, path))

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method in ("", method) and re.search(fault.pattern, path):
                fault.skip, fault.times = fault.skip - 1, fault.times - (fault.skip <= 0)
                return fault if fault.skip < 0 else None
        return None


@contextmanager
def registry_proxy(upstream: str, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy in front of a registry."""
    proxy = Proxy(upstream)

    class Handler(_Handler):
        state = proxy

    server = ThreadingHTTPServer(("", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    proxy.host = f"localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield proxy
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Proxy

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        state, length = self.state, int(self.headers.get("Content-Length") or 0)
        state.heard.append((self.command, self.path, self.headers.get("Authorization", "")))
        if urlsplit(self.path).path == "/token":
            fault = state.fault(self.command, self.path)
            form = self.rfile.read(length).decode()
            if fault:
                self.answer(fault.status, fault.headers, fault.body)
            else:
                self.give_token(form)
            return
        if state.users and not self.allowed():
            self.rfile.read(length)
            realm = f'realm="{"https" if isinstance(self.connection, ssl.SSLSocket) else "http"}://{state.host}/token"'
            challenge = f'{state.scheme} {realm},service="test"'
            self.answer(401, {"WWW-Authenticate": challenge}, b'{"errors":[{"message":"authentication required"}]}')
            return
        fault = state.fault(self.command, self.path)
        if fault and fault.after is None and fault.answered is None:
            if not fault.status:
                self.hang_up()
                return
            self.rfile.read(length)
            self.answer(fault.status, fault.headers, fault.body)
            return
        body = self.rfile.read(length if fault is None or fault.after is None else min(length, fault.after))
        state.received += len(body)
        status, headers, content = self.forward(body)
        if fault and fault.answered is None:
            self.hang_up()
            return
        state.changed(headers)
        if fault:
            self.answer(status, {**headers, "Content-Length": str(len(content))}, content[: fault.answered])
            self.hang_up()
            return
        self.answer(status, headers, content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 -- the library's names

    def hang_up(self) -> None:
        self.state.requests.append((self.command, self.path, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.state.upstream)
        headers = {name: value for name, value in self.headers.items() if name.lower() in _PASSED}
        connection.request(self.command, self.path, body=body, headers=headers)
        answer = connection.getresponse()
        content = answer.read()
        found = {name: value for name, value in answer.getheaders() if name.lower() != "transfer-encoding"}
        connection.close()
        return answer.status, found, content

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.state.requests.append((self.command, self.path, status))
        self.send_response(status)
        kept = {name: value for name, value in headers.items() if name.lower() not in ("date", "connection")}
        if self.command != "HEAD":
            kept.setdefault("Content-Length", str(len(content)))
        for name, value in kept.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.state.sent += len(content)
            self.wfile.write(content)

    def allowed(self) -> bool:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if self.state.scheme == "Basic":
            return kind == "Basic" and self.known(value)
        number, _, scope = (base64.b64decode(value).decode() if kind == "Bearer" else "0").partition(" ")
        if int(number) <= self.state.revoked:
            return False
        repository = re.sub(r"^/v2/(.+)/(blobs|manifests|tags)/.*$", r"\1", urlsplit(self.path).path)
        wanted = "pull,push" if self.command in ("POST", "PUT", "PATCH") else "pull"
        return any(
            one == f"repository:{repository}:{wanted}" or one == f"repository:{repository}:pull,push"
            for one in scope.split()
        )

    def give_token(self, form: str) -> None:
        state, given = self.state, self.headers.get("Authorization", "").partition(" ")[2]
        fields = parse_qs(form or urlsplit(self.path).query)
        known = fields.get("refresh_token") == [state.identity_token] if state.identity_token else self.known(given)
        if not known:
            self.answer(401, {}, b'{"errors":[{"message":"incorrect username or password"}]}')
            return
        state.issued += 1
        scopes = " ".join([str(state.issued), *fields.get("scope", [])])
        name = "access_token" if state.identity_token else "token"
        document = {name: base64.b64encode(scopes.encode()).decode(), **state.token_fields}
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def known(self, basic: str) -> bool:
        user, _, password = base64.b64decode(basic or "").decode().partition(":")
        return user in self.state.users and self.state.users[user] == password
