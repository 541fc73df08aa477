"""Where large values are kept: a folder, and a bucket of a real S3-compatible server."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_venv.calls import PackedCall, PayloadTransfer, parse_document, secret_contents
from k8s_venv.calls.packed import Spool
from k8s_venv.calls.references import MARK, load
from k8s_venv.calls.transfer import location_at
from k8s_venv.config.environment import Environment
from k8s_venv.config.value_settings import ValueSettings
from k8s_venv.errors import CallError, K8sVenvError
from k8s_venv.runner import transfer
from k8s_venv.runner.opening import beside
from k8s_venv.wire import protocol
from k8s_venv.wire.errors import DeliveryError
from k8s_venv.wire.values import dumps, loads


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "folder" else str(request.getfixturevalue("bucket"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "payload"
    path.write_bytes(os.urandom(3_000_000))
    return path


def entry(payload: Path, **where: Any) -> dict[str, Any]:
    spool = Spool([payload.read_bytes()])
    return {"size": spool.size, "sha256": spool.sha256, **where}


def test_a_value_goes_in_and_comes_back(url: str, file: Path, tmp_path: Path) -> None:
    location = location_at(url)

    location.put("work.arguments", file)
    inside = transfer.fetch("", entry(file, **location.entry("work.arguments")), str(tmp_path), "its arguments")
    transfer.store(location.entry("work.result", writing=True), str(file))

    content = file.read_bytes()
    assert bytes(inside) == bytes(location.fetch("work.result", len(content))) == content
    assert location.start("work.result", 10) == content[:10]


def test_what_is_deleted_is_gone(url: str, file: Path) -> None:
    location = location_at(url)
    location.put("work.result", file)

    location.delete("work.result")
    location.delete("work.result")

    with pytest.raises(CallError, match=r"no work\.result in"):
        location.fetch("work.result", 3_000_000)


def test_a_value_that_is_not_as_long_as_announced_is_not_read(url: str, file: Path) -> None:
    location = location_at(url)
    location.put("work.result", file)

    assert bytes(location.fetch("work.result", 10)) == b""


def test_altered_arguments_are_refused_inside(url: str, file: Path, tmp_path: Path) -> None:
    location = location_at(url)
    location.put("work.arguments", file)
    altered = entry(file, **location.entry("work.arguments")) | {"sha256": "0" * 64}

    with pytest.raises(DeliveryError, match="did not arrive as they were sent"):
        transfer.fetch("", altered, str(tmp_path), "its arguments")


def test_missing_arguments_are_told_without_the_url(url: str, file: Path, tmp_path: Path) -> None:
    missing = entry(file, **location_at(url).entry("nothing"))

    with pytest.raises(DeliveryError, match="its arguments cannot be read") as caught:
        transfer.fetch("", missing, str(tmp_path), "its arguments")

    assert "Signature" not in str(caught.value)


def test_urls_are_signed_in_the_way_that_every_store_takes(bucket: str) -> None:
    assert "X-Amz-Signature" in location_at(bucket).entry("work.result", writing=True)["url"]


@pytest.mark.parametrize("planted", ["link", "pipe"])
def test_what_a_pod_plants_in_a_folder_is_not_followed(tmp_path: Path, planted: str) -> None:
    (tmp_path / "secret").write_text("secret")
    if planted == "link":
        (tmp_path / "work.result").symlink_to(tmp_path / "secret")
    else:
        os.mkfifo(tmp_path / "work.result")

    with pytest.raises(CallError, match="cannot be used"):
        location_at(str(tmp_path)).fetch("work.result", 6)


# --- in parcels -------------------------------------------------------------------------------------------


def call(tmp_path: Path, data: bytes, **settings: Any) -> PackedCall:
    environment = Environment(name="x", root=tmp_path, python="3.12", values=ValueSettings(**settings))
    return PackedCall(
        environment=environment,
        function="work",
        transport="source",
        archive=b"zip",
        arguments=Spool([data]),
    )


def unpacked(parcels: list[dict[str, bytes]], folder: Path) -> bytes:
    for parcel in parcels:
        for name, data in parcel.items():
            (folder / name).write_bytes(data)
    said = beside(f"{folder}/call.pyz", "delivery.json")["arguments"]
    return bytes(transfer.fetch(str(folder), said, str(folder), "its arguments"))


@given(
    data=st.binary(min_size=1, max_size=300) | st.integers(1, 60_000).map(os.urandom),
    size=st.integers(12_000, 20_000),
)
def test_parcels_are_put_together_again(data: bytes, size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("call")

    parcels = secret_contents(call(folder, data), "work", size, 8)

    assert all(sum(map(len, parcel.values())) <= size for parcel in parcels)
    assert unpacked(parcels, folder) == data


def test_a_lost_or_altered_parcel_is_told(tmp_path: Path) -> None:
    parcels = secret_contents(call(tmp_path, os.urandom(50_000)), "work", 20_000, 8)
    parcels[1]["arguments.1"] = parcels[1]["arguments.1"][:-1] + b"?"

    with pytest.raises(DeliveryError, match="its arguments"):
        unpacked(parcels, tmp_path)
    (tmp_path / "arguments.1").unlink()
    with pytest.raises(DeliveryError, match="No such file"):
        transfer.fetch(
            str(tmp_path), beside(f"{tmp_path}/call.pyz", "delivery.json")["arguments"], str(tmp_path), "its arguments"
        )


def test_what_parcels_do_not_hold_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"more than 8 Secrets hold .* Name a `location` under \[values\]"):
        secret_contents(call(tmp_path, os.urandom(200_000)), "work", 20_000, 8)


def test_what_is_above_the_threshold_goes_to_the_location(tmp_path: Path) -> None:
    data, folder = os.urandom(50_000), tmp_path / "kept"
    folder.mkdir()
    packed = call(tmp_path, data, location=str(folder), above=10_000)

    parcels = secret_contents(packed, "work", 20_000, 8)

    assert len(parcels) == 1
    assert unpacked(parcels, tmp_path) == data
    PayloadTransfer(packed, "work").close()
    assert not list(folder.iterdir())


def test_settings_of_a_pod_without_exec_and_status(tmp_path: Path) -> None:
    parcels = secret_contents(call(tmp_path, b"x", location=str(tmp_path), exec=False, status=False), "work", 9999, 1)

    (tmp_path / protocol.DELIVERY).write_bytes(parcels[0][protocol.DELIVERY])
    said = beside(f"{tmp_path}/call.pyz", "delivery.json")
    assert said["hand_over"] is said["inline"] is False
    assert said["result"] == {"above": 1024 * 1024, "path": f"{tmp_path}/work.result"}


# --- documents --------------------------------------------------------------------------------------------

ANYTHING = st.none() | st.integers() | st.text(max_size=20) | st.lists(st.text(max_size=3), max_size=2)


@given(
    location=ANYTHING | st.sampled_from(["/", "/etc", "http://127.0.0.1:9", "file:///etc", "s3:/x", "//x"]),
    name=ANYTHING | st.sampled_from(["passwd", "../passwd", "/etc/passwd", "a/b", "", ".", ".."]),
    size=ANYTHING | st.sampled_from([-1, 10**15, True]),
    sha256=ANYTHING | st.just("0" * 64),
    version=ANYTHING | st.just(2),
)
def test_a_document_of_any_shape_is_an_error_of_ours(
    location: Any, name: Any, size: Any, sha256: Any, version: Any
) -> None:
    document = {MARK: version, "location": location, "name": name, "size": size, "sha256": sha256}

    with pytest.raises(K8sVenvError):
        load(document)


def test_a_document_is_opened_where_its_value_is_kept(url: str, tmp_path: Path) -> None:
    payload = dumps({"a": [1, 2]})
    spool, location = Spool([payload]), location_at(url)
    location.put("v.result", spool.path)
    document = {MARK: 2, "location": url, "name": "v.result", "size": spool.size, "sha256": spool.sha256}

    assert load(document) == {"a": [1, 2]}
    with pytest.raises(CallError, match=r"There is no w\.result in .* any more"):
        load({**document, "name": "w.result"})


# --- what earlier versions wrote --------------------------------------------------------------------------

GOLDEN = Path(__file__).parent.parent / "golden" / "documents"
VALUE = {"rows": [1, 2.5, "three", None]}


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text("utf-8"))


def test_documents_of_earlier_versions_are_read(tmp_path: Path) -> None:
    kept = golden("reference-2.json")
    (tmp_path / kept["name"]).write_bytes((GOLDEN / "value.bin").read_bytes())

    assert load(golden("reference-1.json")) == VALUE
    assert load({**kept, "location": str(tmp_path)}) == VALUE
    assert parse_document(json.dumps(golden("result-stored.json")), "x").stored


def test_deliveries_of_earlier_versions_are_read(tmp_path: Path) -> None:
    said = beside(f"{GOLDEN}/call.pyz", "delivery.json")

    for place in (said["arguments"], *said["references"].values()):
        assert loads(transfer.fetch(str(GOLDEN), place, str(tmp_path), "its arguments")) == VALUE


def test_a_location_that_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    registry = pytest.importorskip("fsspec.registry", reason="fsspec is not installed")
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)

    with pytest.raises(CallError, match=r"pip install 'k8s-venv\[s3\]'"):
        location_at("s3://nowhere-installed/x")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    from tests.object_store import object_store

    with object_store() as url:
        yield url


class _CutsShort(http.server.BaseHTTPRequestHandler):
    """Ends the first answers before their end, as a proxy does that restarts."""

    protocol_version = "HTTP/1.1"
    answers: ClassVar = [b"half of", b"", b"half of it all"]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "14")
        self.end_headers()
        self.wfile.write(self.answers.pop(0))
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def test_a_download_that_is_cut_short_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PAUSE", 0.01)
    with http.server.HTTPServer(("127.0.0.1", 0), _CutsShort) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        whole = hashlib.sha256(b"half of it all").hexdigest()
        place = {"size": 14, "sha256": whole, "url": f"http://127.0.0.1:{server.server_port}/x?signature=hidden"}
        try:
            assert bytes(transfer.fetch("", place, str(tmp_path), "its arguments")) == b"half of it all"
        finally:
            server.shutdown()


@pytest.mark.parametrize("url", ["nonsense:x?signature=hidden", "http://127.0.0.1:9/a b?signature=hidden"])
def test_a_signed_url_is_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(transfer, "_PAUSE", 0.01)

    with pytest.raises(DeliveryError) as caught:
        transfer.fetch("", {"size": 1, "sha256": "", "url": url}, str(tmp_path), "its arguments")

    assert "hidden" not in str(caught.value)
