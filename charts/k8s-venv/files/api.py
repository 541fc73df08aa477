"""Talk to the API server as the pod's own service account, with the standard library alone (Python 3.8+)."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, Optional

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATIENCE = 30  # seconds


class ApiError(Exception):
    """What the API server refused.

    Args:
        status: the HTTP status.
        message: the server's own sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"{message} ({status})")


class Api:
    """A connection to the API server of the cluster that the pod runs in.

    Args:
        server: its address, by default the one that every pod is told.
        account: the folder with the token, the certificate and the namespace.
    """

    def __init__(self, server: Optional[str] = None, account: Path = _ACCOUNT) -> None:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "")
        self._server = server or "https://{}:{}".format(f"[{host}]" if ":" in host else host, port)
        self._token = (account / "token").read_text("utf-8").strip()
        self._tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
        self.namespace = (account / "namespace").read_text("utf-8").strip()

    def request(self, method: str, path: str, body: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        """Make one request and return the answered object.

        Args:
            method: HTTP's.
            path: the path with its query.
            body: the object to send.

        Raises:
            ApiError: the server refused it.
        """
        request = urllib.request.Request(  # noqa: S310 -- the server's address is the cluster's own
            self._server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE, context=self._tls) as answer:  # noqa: S310
                found: Dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            try:
                message = str(json.loads(text)["message"])
            except (ValueError, KeyError, TypeError):
                message = text.strip() or str(error.reason)
            raise ApiError(error.code, message) from None
