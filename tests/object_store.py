"""A bucket of an S3-compatible server of our own."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def object_store(host: str = "127.0.0.1") -> Iterator[str]:
    """Start a server, let fsspec find it, and give the URL of a new bucket.

    Args:
        host: the address under which it is reached.
    """
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer("0.0.0.0", 0)
    import fsspec
    import s3fs

    server.start()
    endpoint = f"http://{host}:{server.get_host_and_port()[1]}"
    options = {"endpoint_url": endpoint, "key": "testing", "secret": "testing"}
    before = dict(fsspec.config.conf.get("s3", {}))
    fsspec.config.conf["s3"] = options
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"values-{uuid.uuid4().hex[:8]}"
    try:
        fsspec.filesystem("s3").mkdir(name)
        yield f"s3://{name}/airflow"
    finally:
        fsspec.config.conf["s3"] = before
        server.stop()
