"""Which Debian packages a compilation lacked, by what it said."""

from __future__ import annotations

import re

# Headers, by the Debian package that has them (packages.debian.org, "Search the contents of packages").
_HEADERS = {
    "Python.h": "python3-dev",
    "bzlib.h": "libbz2-dev",
    "cairo.h": "libcairo2-dev",
    "curl/curl.h": "libcurl4-openssl-dev",
    "curses.h": "libncurses-dev",
    "dbus/dbus.h": "libdbus-1-dev",
    "expat.h": "libexpat1-dev",
    "ffi.h": "libffi-dev",
    "ft2build.h": "libfreetype-dev",
    "gdal.h": "libgdal-dev",
    "geos_c.h": "libgeos-dev",
    "gmp.h": "libgmp-dev",
    "gssapi.h": "libkrb5-dev",
    "gssapi/gssapi.h": "libkrb5-dev",
    "hdf5.h": "libhdf5-dev",
    "ibase.h": "firebird-dev",
    "jpeglib.h": "libjpeg-dev",
    "krb5.h": "libkrb5-dev",
    "lber.h": "libldap2-dev",
    "ldap.h": "libldap2-dev",
    "leveldb/c.h": "libleveldb-dev",
    "libpq-fe.h": "libpq-dev",
    "librdkafka/rdkafka.h": "librdkafka-dev",
    "libxml/xmlversion.h": "libxml2-dev",
    "libxslt/xslt.h": "libxslt1-dev",
    "lz4.h": "liblz4-dev",
    "lzma.h": "liblzma-dev",
    "magic.h": "libmagic-dev",
    "mpfr.h": "libmpfr-dev",
    "mysql.h": "default-libmysqlclient-dev",
    "mysql/mysql.h": "default-libmysqlclient-dev",
    "ncurses.h": "libncurses-dev",
    "openssl/ssl.h": "libssl-dev",
    "pcap.h": "libpcap-dev",
    "png.h": "libpng-dev",
    "portaudio.h": "portaudio19-dev",
    "proj.h": "libproj-dev",
    "readline/readline.h": "libreadline-dev",
    "sasl/sasl.h": "libsasl2-dev",
    "snappy-c.h": "libsnappy-dev",
    "sodium.h": "libsodium-dev",
    "sql.h": "unixodbc-dev",
    "sqlext.h": "unixodbc-dev",
    "sqlfront.h": "freetds-dev",
    "sqlite3.h": "libsqlite3-dev",
    "systemd/sd-daemon.h": "libsystemd-dev",
    "uuid/uuid.h": "uuid-dev",
    "yaml.h": "libyaml-dev",
    "zlib.h": "zlib1g-dev",
    "zmq.h": "libzmq3-dev",
    "zstd.h": "libzstd-dev",
}
# Headers of one folder that all come from one package.
_FOLDERS = {"openssl": "libssl-dev", "libxml": "libxml2-dev", "libxslt": "libxslt1-dev", "sasl": "libsasl2-dev"}
_PROGRAMS = {
    "cargo": "cargo",
    "cc": "build-essential",
    "c++": "build-essential",
    "cmake": "cmake",
    "g++": "build-essential",
    "gcc": "build-essential",
    "gdal-config": "libgdal-dev",
    "geos-config": "libgeos-dev",
    "gfortran": "gfortran",
    "git": "git",
    "krb5-config": "libkrb5-dev",
    "llvm-config": "llvm-dev",
    "make": "build-essential",
    "mariadb_config": "libmariadb-dev",
    "mysql_config": "default-libmysqlclient-dev",
    "ninja": "ninja-build",
    "pg_config": "libpq-dev",
    "pkg-config": "pkg-config",
    "rustc": "rustc",
    "swig": "swig",
    "xml2-config": "libxml2-dev",
    "xslt-config": "libxslt1-dev",
}
# What pkg-config knows them by, where that is neither a header's name nor its package's.
_MODULES = {
    "cairo": "libcairo2-dev",
    "dbus-1": "libdbus-1-dev",
    "freetype2": "libfreetype-dev",
    "gobject-introspection-1.0": "libgirepository1.0-dev",
    "hdf5": "libhdf5-dev",
    "libcurl": "libcurl4-openssl-dev",
    "libffi": "libffi-dev",
    "libmariadb": "default-libmysqlclient-dev",
    "libpq": "libpq-dev",
    "libsystemd": "libsystemd-dev",
    "libvirt": "libvirt-dev",
    "libxml-2.0": "libxml2-dev",
    "libxslt": "libxslt1-dev",
    "libzmq": "libzmq3-dev",
    "mariadb": "default-libmysqlclient-dev",
    "mysqlclient": "default-libmysqlclient-dev",
    "openssl": "libssl-dev",
    "xmlsec1": "libxmlsec1-dev",
    "zlib": "zlib1g-dev",
}
_HEADER = re.compile(r"(?:fatal error: |error: )['\"]?([\w./+-]+\.h(?:pp)?)['\"]?:? (?:No such file|file not found)")
_MODULE = re.compile(
    r"(?:No package '|Package '?|pkg-config.{0,40}?--exists'?,? '?|dependency )([\w.+-]+?)'?(?=[\s',]|$)(?! \(found)"
)
_LIBRARY = re.compile(r"cannot find -l(\w+)")
# What shells, compilers, build backends and setup scripts say when a program is missing.
_PROGRAM = re.compile(
    r"(?:^|[\s'\"/`])(?:x86_64-linux-gnu-|aarch64-linux-gnu-)?([\w+-]+)['\"`]?"
    r"(?::? (?:command )?not found|: No such file or directory| failed: No such file or directory"
    r"| executable not found| (?:was|is|could) not (?:be )?(?:found|installed))"
)
_NO_FILE = re.compile(r"No such file or directory: '([\w+-]+)'")


def missing_packages(log: str) -> list[str]:
    """Return the Debian packages that a failed compilation most likely lacked.

    Args:
        log: what it printed.
    """
    found = [_of_header(header) for header in _HEADER.findall(log)]
    found += [_of_library(library) for library in _LIBRARY.findall(log)]
    found += [_MODULES.get(module, "") for module in _MODULE.findall(log)]
    found += [_PROGRAMS.get(program, "") for program in [*_PROGRAM.findall(log), *_NO_FILE.findall(log)]]
    return sorted({package for package in found if package})


def _of_header(header: str) -> str:
    return _HEADERS.get(header) or _FOLDERS.get(header.partition("/")[0], "")


def _of_library(library: str) -> str:
    names = (f"{library}.h", f"lib{library}-dev", f"lib{library}2-dev")
    known = set(_HEADERS.values())
    return _HEADERS.get(names[0]) or next((name for name in names[1:] if name in known), "")
