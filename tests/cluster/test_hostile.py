"""What a pod may do to its worker and to the log: nothing."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.kubernetes import payload
from k8s_venv.wire.protocol import HAND_OVER_LIMIT, MESSAGE_LIMIT
from tests.cluster.conftest import RunFile
from tests.cluster.direct import Cluster

# In the place of Python beside the task; each hands something over that has no end, or ends nothing.
DRIP = "while :; do printf x; sleep 1; done"
CHATTER = "while :; do echo 'not yet' >&2; sleep 1; done"


def announce(document: str) -> None:
    import os
    from pathlib import Path

    Path("/dev/termination-log").write_text(document)
    os._exit(0)


def document(size: int) -> str:
    return (
        f'{{"protocol": 1, "outcome": "value", "size": {size}, "sha256": "{"0" * 64}", "python": "3.12.1", '
        '"timings": {}}'
    )


def with_sidecar(cluster: Cluster, script: str) -> Any:
    """Return a pod whose sidecar has another program for its `python`."""
    name = f"sidecar-{uuid.uuid4().hex[:8]}"
    program = f'#!/bin/sh\ncase "$*" in *--read*) {script};; *) sleep 300;; esac\n'
    cluster.client.create_namespaced_config_map(
        cluster.namespace, {"metadata": {"name": name}, "data": {"python": program}}
    )
    pod = cluster.pod()
    pod.spec.volumes.append({"name": "other", "configMap": {"name": name, "defaultMode": 0o755}})
    sidecar = pod.spec.containers[1]
    sidecar.volume_mounts.append({"name": "other", "mountPath": "/other"})
    sidecar.env = [{"name": "PATH", "value": "/other:/usr/local/bin:/usr/bin:/bin"}]
    return pod


def test_a_result_that_is_announced_too_large_is_refused_before_a_byte_is_read(cluster: Cluster) -> None:
    outcome = cluster.run(with_sidecar(cluster, "cat /dev/zero"), cluster.call(announce, document(HAND_OVER_LIMIT + 1)))

    assert f"{HAND_OVER_LIMIT:,} bytes are read through `pods/exec`" in str(outcome.error)


@pytest.mark.parametrize("script", [DRIP, CHATTER], ids=["a byte a second", "talk"])
def test_a_result_that_never_ends_is_given_up(cluster: Cluster, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "_STALLED", 8.0)

    outcome = cluster.run(with_sidecar(cluster, script), cluster.call(announce, document(100_000)))

    assert "announce() (100,000 bytes) could not be read from its pod: it comes too slowly" in str(outcome.error)
    assert len(outcome.lines) < 30


def leave_message(text: str) -> None:
    import os
    from pathlib import Path

    Path("/dev/termination-log").write_text(text)
    os._exit(3)


def test_a_termination_message_that_is_no_result_is_shown_as_such(cluster: Cluster) -> None:
    outcome = cluster.run(cluster.pod(), cluster.call(leave_message, "disk quota\x1b[2J exceeded"))

    assert "its process left with exit code 3" in str(outcome.error)
    assert r"Another program wrote the container's termination message: 'disk quota\x1b[2J exceeded'" in str(
        outcome.error
    )


def test_a_result_that_was_cut_off_in_the_message_is_told(cluster: Cluster) -> None:
    outcome = cluster.run(cluster.pod(), cluster.call(leave_message, document(5)[:MESSAGE_LIMIT][:-10]))

    assert "the call's result cannot be read" in str(outcome.error)


def test_no_line_of_the_log_can_be_forged(project: Path, run_file: RunFile, capfd: pytest.CaptureFixture[str]) -> None:
    state, tasks = run_file(project / "hostile.py")

    printed = capfd.readouterr().out
    assert state == "failed"
    assert r"printed\x1b[2J\x1eERROR - forged\u2028\u202e\x00" in printed
    assert r"raised\x1b[2J\x1eERROR - forged\u2028\u202e\x00\x3a:group::" in printed
    assert r"noted\x1b[2J" in printed
    assert not set("\x1e\u2028\u202e\0") & set(printed)
    assert "\x1b[2J" not in printed
    assert r"raised\x1b[2J" in tasks["fails"].error
