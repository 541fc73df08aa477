"""What uv says when it cannot resolve requirements: where it comes from, and what to do that uv does not say."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from k8s_venv.locks import uv
from k8s_venv.locks.requirements import in_python

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.requirements import Line, Requirements, UvInput

_AT_BYTE = re.compile(r" in `([^`]+)` at position (\d+)")
_AT_LINE = re.compile(r" (\S+):(\d+):\d+$", re.MULTILINE)
_NOT_FOUND = re.compile(r"\b(\S+) was not found in the (?:package registry|provided package locations)")
_NO_WHEEL = re.compile(r"^hint: Wheels are required for `([^`]+)`", re.MULTILINE)
_NO_MATCH = re.compile(r"\b([\w.-]+)(?:\[[^\]]*\])?(?:[=<>]=?[\w.*]+)? has no (?:usable )?wheels\b")
_NO_FOLDER = re.compile(r"Invalid URL in [^\n]*: `?([^`\s]+)`?\n(?:.*\n)?.*relative URL")
_NOT_ALLOWED = re.compile(r"lack of valid authentication|\b40[13] (?:Unauthorized|Forbidden)")
# An index's page without any file, or no index's page at all.
_NO_INDEX = re.compile(
    r"there are no versions of \S+ and|(?:Unsupported|Missing) `Content-Type`|Received some unexpected (?:JSON|HTML)"
)
_URL = re.compile(r"https?://[^\s`)]+")
# Names that Debian gives and the package index hardly ever: headers, libraries with their ABI's number, and tools.
_DEBIAN_NAME = re.compile(
    r"lib[a-z0-9.+-]*\d|.*-dev|build-essential|(openjdk|default|postgresql|mysql)-.*|unixodbc|g\+\+|gcc|make"
)
_MOST_PLACES = 3
_LOG_LINES = 20  # of a failed build
_LONGEST_LINE = 1000  # characters

# What builds ask for, by the Debian package that has it: headers (packages.debian.org, "Search the contents of
# packages"), folders of headers, programs, and pkg-config's names where they are not the package's.
_CONTENTS = {
    "build-essential": "cc c++ g++ gcc make",
    "cargo": "cargo",
    "cmake": "cmake",
    "default-libmysqlclient-dev": "mysql.h mysql/mysql.h mysql_config libmariadb mariadb mysqlclient",
    "firebird-dev": "ibase.h",
    "freetds-dev": "sqlfront.h",
    "gfortran": "gfortran",
    "git": "git",
    "libbz2-dev": "bzlib.h",
    "libcairo2-dev": "cairo.h cairo",
    "libcurl4-openssl-dev": "curl/curl.h libcurl",
    "libdbus-1-dev": "dbus/dbus.h dbus-1",
    "libexpat1-dev": "expat.h",
    "libffi-dev": "ffi.h libffi",
    "libfreetype-dev": "ft2build.h freetype2",
    "libgdal-dev": "gdal.h gdal-config",
    "libgeos-dev": "geos_c.h geos-config",
    "libgirepository1.0-dev": "gobject-introspection-1.0",
    "libgmp-dev": "gmp.h",
    "libhdf5-dev": "hdf5.h hdf5",
    "libjpeg-dev": "jpeglib.h",
    "libkrb5-dev": "gssapi.h gssapi/gssapi.h krb5.h krb5-config",
    "libldap2-dev": "lber.h ldap.h",
    "libleveldb-dev": "leveldb/c.h",
    "liblz4-dev": "lz4.h",
    "liblzma-dev": "lzma.h",
    "libmagic-dev": "magic.h",
    "libmariadb-dev": "mariadb_config",
    "libmpfr-dev": "mpfr.h",
    "libncurses-dev": "curses.h ncurses.h",
    "libpcap-dev": "pcap.h",
    "libpng-dev": "png.h",
    "libpq-dev": "libpq-fe.h pg_config libpq",
    "libproj-dev": "proj.h",
    "librdkafka-dev": "librdkafka/rdkafka.h",
    "libreadline-dev": "readline/readline.h",
    "libsasl2-dev": "sasl/",
    "libsnappy-dev": "snappy-c.h",
    "libsodium-dev": "sodium.h",
    "libsqlite3-dev": "sqlite3.h",
    "libssl-dev": "openssl openssl/",
    "libsystemd-dev": "systemd/sd-daemon.h libsystemd",
    "libvirt-dev": "libvirt",
    "libxml2-dev": "xml2-config libxml-2.0 libxml/",
    "libxmlsec1-dev": "xmlsec1",
    "libxslt1-dev": "xslt-config libxslt libxslt/",
    "libyaml-dev": "yaml.h",
    "libzmq3-dev": "zmq.h libzmq",
    "libzstd-dev": "zstd.h",
    "llvm-dev": "llvm-config",
    "ninja-build": "ninja",
    "pkg-config": "pkg-config",
    "portaudio19-dev": "portaudio.h",
    "python3-dev": "Python.h",
    "rustc": "rustc",
    "swig": "swig",
    "unixodbc-dev": "sql.h sqlext.h",
    "uuid-dev": "uuid/uuid.h",
    "zlib1g-dev": "zlib.h zlib",
}
_PACKAGE_OF = {name: package for package, names in _CONTENTS.items() for name in names.split()}
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


def explain(requirements: Requirements, platform: str, given: Mapping[str, UvInput], output: str) -> str:
    """Return why requirements cannot be resolved: where they stand, what uv says, and what to do beside that.

    Args:
        requirements: what the environment asks for.
        platform: for which platform.
        given: what uv read, by the name that it calls each file.
        output: uv's output.
    """
    environment = requirements.environment
    line = _line_at_fault(given, output)
    places = [line.place] if line else _places_of_named(requirements, output)
    output = _printable(output)
    place = " and ".join(places) if 0 < len(places) <= _MOST_PLACES else environment.requirements_place
    remedies = [*(_unseen_characters(line) if line else ()), *_remedies(environment, output)]
    shown = _without_long_log(output)
    return "\n".join(
        [f"{place} cannot be locked for Python {environment.python} on {platform}:", shown, *dict.fromkeys(remedies)]
    )


def packages_without_wheels(output: str) -> list[str]:
    """Return the packages of which uv says that they have no wheels for what was asked.

    Args:
        output: uv's output.
    """
    return sorted({*_NO_WHEEL.findall(output), *_NO_MATCH.findall(output)})


def _printable(text: str) -> str:
    """Return uv's output without what an index or a file could do to a terminal, and without endless lines."""
    lines = ["".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line) for line in text.split("\n")]
    return "\n".join(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…" for line in lines)


def _without_long_log(output: str) -> str:
    """Return uv's output, of the log of a failed build only the end."""
    lines = output.splitlines()
    if not uv.failed_build(output) or len(lines) <= _LOG_LINES:
        return output
    return "\n".join([lines[0], "  …", *lines[-_LOG_LINES:]])


def _line_at_fault(given: Mapping[str, UvInput], output: str) -> Line | None:
    """Return the line that uv could not read, or None where that is not the fault."""
    if (found := _AT_BYTE.search(output)) and found[1] in given:
        return given[found[1]].line_at_byte(int(found[2]))
    if (found := _AT_LINE.search(output)) and found[1] in given:
        return given[found[1]].line_at(int(found[2]))
    return None


def _places_of_named(requirements: Requirements, output: str) -> list[str]:
    """Return the places of the lines whose packages uv names."""
    output = output.lower().replace("_", "-")

    def is_named(package: str) -> bool:
        return re.search(rf"(?<![\w.-]){re.escape(package)}(?!\w|-[a-z])", output) is not None

    return list(dict.fromkeys(line.place for line in requirements.lines if line.package and is_named(line.package)))


def _unseen_characters(line: Line) -> Iterator[str]:
    """Yield the names of characters that look like others, or like nothing."""
    strange = [sign for sign in line.text if not (sign.isascii() and sign.isprintable())]
    if strange:
        names = (unicodedata.name(sign, "") or f"U+{ord(sign):04X}" for sign in dict.fromkeys(strange))
        yield f"The line has characters that are not plain ASCII: {', '.join(names)}."


def _remedies(environment: Environment, output: str) -> Iterator[str]:
    """Yield what to do, where uv does not say it."""
    table = f"[environments.{environment.name}]"
    for name in _NOT_FOUND.findall(output):
        yield from _remedy_for_name(environment, name)
    if without := packages_without_wheels(output):
        yield (
            f"A lock takes nothing that would have to be compiled. If {', '.join(without)} may be compiled: "
            f'builder = "buildkit" in {table} lets the image\'s build do it, with the Debian packages in `packages`.'
        )
    if failed := uv.failed_build(output):
        debian = ", ".join(missing_packages(failed[1]))
        yield (
            f"{failed[0]} has no wheel, so its build is asked what it requires. Choose a version that has a wheel, or "
            f"install what the build needs{debian and f' ({debian})'} on this machine as well (the image gets it from "
            f"`packages` of {table})."
        )
    if _NOT_ALLOWED.search(output):
        url = _URL.search(output)
        machine = f" (machine {urlsplit(url[0]).hostname})" if url else ""
        yield (
            f"Give the user and the password where pip finds them, too: in ~/.netrc{machine}, in keyring, in "
            "UV_INDEX_URL or PIP_INDEX_URL, or as https://${USER}:${PASSWORD}@… among the requirements, with both "
            "variables set."
        )
    if "invalid peer certificate: UnknownIssuer" in output:
        yield "The file with your authority's certificate goes into SSL_CERT_FILE or PIP_CERT."
    if _NO_INDEX.search(output):
        yield "Is this the URL of a package index? They often end in /simple."
    if folder := _NO_FOLDER.search(output):
        yield f"There is no folder {folder[1]!r}."
    if re.search(r"invalid value .* for '--(?:default-|extra-)?index", output):
        yield "The value is from the variables of uv or pip, or from pip.conf."


def _remedy_for_name(environment: Environment, name: str) -> Iterator[str]:
    """Yield what to do about a name that no index has."""
    table = f"[environments.{environment.name}]"
    if _DEBIAN_NAME.fullmatch(name):
        yield f'Debian packages belong in `packages` of {table}: packages = ["{name}"].'
    elif name == "python":
        yield f"The Python version belongs in `python` of {table}."
    elif in_python(name, environment.python):
        yield f"{name!r} is a module of Python itself: leave the line out."


def missing_packages(log: str) -> list[str]:
    """Return the Debian packages that a failed compilation most likely lacked.

    Args:
        log: what it printed.
    """
    named = [*_MODULE.findall(log), *_PROGRAM.findall(log), *_NO_FILE.findall(log)]
    for header in _HEADER.findall(log):
        named += [header, f"{header.partition('/')[0]}/"]
    for library in _LIBRARY.findall(log):
        named.append(f"{library}.h")
        named += [name for name in (f"lib{library}-dev", f"lib{library}2-dev") if name in _CONTENTS]
    return sorted({_PACKAGE_OF.get(name, name) for name in named if name in _PACKAGE_OF or name in _CONTENTS})
