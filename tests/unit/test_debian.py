"""What a failed compilation says it lacks, and the Debian package that has it."""

from __future__ import annotations

import pytest

from k8s_venv.locks.uv_errors import missing_packages


@pytest.mark.parametrize(
    ("log", "packages"),
    [
        ("psycopg/psycopg.h:36:10: fatal error: libpq-fe.h: No such file or directory", ["libpq-dev"]),
        ("Error: pg_config executable not found.", ["libpq-dev"]),
        ("c/_cffi_backend.c:15:10: fatal error: ffi.h: No such file or directory", ["libffi-dev"]),
        ("Modules/common.h:9:10: fatal error: Python.h: No such file or directory", ["python3-dev"]),
        ("src/x.h:1:10: fatal error: openssl/opensslv.h: No such file or directory", ["libssl-dev"]),
        ("src/x.c:1:10: fatal error: 'sql.h' file not found", ["unixodbc-dev"]),
        ("error: command 'gcc' failed: No such file or directory", ["build-essential"]),
        ("unable to execute 'x86_64-linux-gnu-gcc': No such file or directory", ["build-essential"]),
        ("/bin/sh: 1: gcc: not found", ["build-essential"]),
        ("error: [Errno 2] No such file or directory: 'cmake'", ["cmake"]),
        ("/usr/bin/ld: cannot find -lpq: No such file or directory", ["libpq-dev"]),
        (
            "/bin/sh: 1: pkg-config: not found\nTrying pkg-config --exists mysqlclient",
            [
                "default-libmysqlclient-dev",
                "pkg-config",
            ],
        ),
        (
            "'pkg-config' not found.\nCommand ['pkg-config', '--print-errors', '--exists', 'cairo >= 1.15.10']",
            [
                "libcairo2-dev",
                "pkg-config",
            ],
        ),
        ("No package 'libxml-2.0' found", ["libxml2-dev"]),
        ("Error: Please make sure the libxml2 and libxslt development packages are installed.", []),
        ("error: can't find Rust compiler\nerror: command 'cargo' failed: No such file or directory", ["cargo"]),
        ("src/own.c:1:10: fatal error: own_thing.h: No such file or directory", []),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'README.md'", []),
        ("", []),
    ],
)
def test_the_package_is_named(log: str, packages: list[str]) -> None:
    assert missing_packages(log) == packages
