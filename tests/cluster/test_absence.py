"""An API server that is away for a while: bridged, and said once."""

from __future__ import annotations

import copy
import logging
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes

from tests.cluster.direct import Cluster, sleep
from tests.gate import Gate


def behind(gate: Gate, client: Any) -> Any:
    """Return a client like another one that goes through a gate; the default one may be of another test's account."""
    configuration = copy.deepcopy(client.api_client.configuration)
    configuration.tls_server_name = urlsplit(configuration.host).hostname
    configuration.host = f"https://127.0.0.1:{gate.port}"
    return kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))


def test_an_absence_of_the_api_server_is_said_in_one_sentence(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(cluster.client.api_client.configuration.host)
    gate = Gate(address.hostname or "", address.port or 443)

    def leave() -> None:
        gate.shut()
        time.sleep(8)
        gate.open()

    with caplog.at_level(logging.INFO):
        outcome = cluster.run(
            cluster.pod(),
            cluster.call(sleep, 60),
            client=behind(gate, cluster.client),
            while_running=threading.Thread(target=leave).start,
        )

    assert outcome.value == "slept"
    assert outcome.lines == [f"second {number}" for number in range(60)]
    told = [said for said in outcome.said if "API server" in said]
    assert ["does not answer" in said for said in told] == [True, False], outcome.said
    assert [record for record in caplog.records if record.name.startswith("urllib3")] == []
