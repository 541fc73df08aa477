"""What a build needs to reach package indexes, handed over as secret mounts.

BuildKit keeps these files in no layer, no cache, no history and no provenance; they are there for single lines of the
Dockerfile (https://docs.docker.com/build/building/secrets/). Certificates are no secrets, but not the image's either.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from k8s_venv.errors import BuildError, without_credentials
from k8s_venv.locks import uv
from k8s_venv.locks.requirements import index_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s_venv.config.environment import Environment

_LARGEST = 500_000  # bytes; BuildKit takes no larger secret
_PROXIES = re.compile(r"(HTTP|HTTPS|ALL|NO)_PROXY", re.IGNORECASE)
_OWN = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1|0\.0\.0\.0")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# A URL with a user and without a password, whose password a keyring may know.
_USER_ALONE = re.compile(r"(https?://)([^\s/:@,]+)@([^\s,]+)")
_TIMEOUT = 60  # seconds; a keyring may ask its user


class Secrets:
    """The indexes, passwords, certificates and proxies of one environment's build.

    Args:
        environment: what is built.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._given = uv.environ(index_settings(environment))
        self._indexes = uv.index_variables(self._given)
        self._proxies = {name: value for name, value in self._given.items() if _PROXIES.fullmatch(name) and value}
        for name, value in list(self._proxies.items()):
            if _OWN.fullmatch(_host(value)):  # that of a container is another one
                del self._proxies[name]

    @property
    def own_addresses(self) -> list[str]:
        """Return the indexes and proxies that only this machine reaches, without passwords."""
        values = [
            value for name, value in self._given.items() if _PROXIES.fullmatch(name) and name.upper() != "NO_PROXY"
        ]
        urls = [url for value in self._indexes.values() for url in re.findall(r"https?://[^\s,]+", value)]
        return sorted({without_credentials(url) for url in [*urls, *values] if _OWN.fullmatch(_host(url))})

    def options(self, folder: Path) -> list[str]:
        """Write what are no files yet, readable for this user alone, and return buildx's options.

        Args:
            folder: a folder of this user's own.

        Raises:
            BuildError: one is too large for BuildKit.
        """
        indexes = {
            name: _with_passwords(value) if shutil.which("keyring") else value for name, value in self._indexes.items()
        }
        files = {
            "indexes": _written(folder / "indexes", _exports({**indexes, **_for_pip(indexes)})),
            "proxies": _written(folder / "proxies", _exports(_of_both_cases(self._proxies))),
            "netrc": Path(os.environ.get("NETRC") or Path.home() / ".netrc"),
            "certificates": _written(folder / "certificates", _certificates(self._given)),
            "client-certificate": Path(self._given.get("SSL_CLIENT_CERT", "")),
        }
        files = {name: path for name, path in files.items() if path.is_file() and path.stat().st_size}
        for name, path in files.items():
            if path.stat().st_size > _LARGEST:
                raise BuildError(
                    self._environment.name,
                    f"its {name} ({path}) is larger than the {_LARGEST // 1000} kB that BuildKit hands to a build.",
                )
        return [f"--secret=id={name},src={path}" for name, path in files.items()]


def _written(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text, "utf-8")
    return path


def _exports(variables: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _certificates(given: Mapping[str, str]) -> str:
    """Return what OpenSSL's variables name, each certificate once, since a folder has most under several names."""
    folders = [Path(folder) for folder in given.get("SSL_CERT_DIR", "").split(os.pathsep) if folder]
    paths = [Path(given.get("SSL_CERT_FILE", "")), *(path for folder in folders for path in sorted(folder.glob("*")))]
    texts = [path.read_text("utf-8", "replace") for path in paths if path.is_file()]
    found = dict.fromkeys(certificate for text in texts for certificate in _CERTIFICATE.findall(text))
    return "".join(f"{certificate}\n" for certificate in found)


def _for_pip(indexes: Mapping[str, str]) -> dict[str, str]:
    """Return the indexes for pip, which fetches uv; pip knows no names for them (``name=https://…``)."""
    default = indexes.get("UV_DEFAULT_INDEX") or indexes.get("UV_INDEX_URL") or ""
    extra = indexes.get("UV_INDEX") or indexes.get("UV_EXTRA_INDEX_URL") or ""
    hosts = indexes.get("UV_INSECURE_HOST") or ""
    settings = {"PIP_INDEX_URL": default, "PIP_EXTRA_INDEX_URL": extra, "PIP_TRUSTED_HOST": hosts}
    return {name: re.sub(r"(^|\s)[\w-]+=(?=https?://)", r"\1", value) for name, value in settings.items() if value}


def _of_both_cases(proxies: Mapping[str, str]) -> dict[str, str]:
    """Return proxies under the names that apt reads, too."""
    return {each: value for name, value in proxies.items() for each in (name.upper(), name.lower())}


def _with_passwords(urls: str) -> str:
    """Give URLs with a user alone the password from the keyring, which no build's container has; uv asks it alike."""

    def complete(url: re.Match[str]) -> str:
        scheme, user, rest = url.groups()
        for service in (f"{scheme}{rest}", rest.partition("/")[0]):
            asked = subprocess.run(
                [str(shutil.which("keyring")), "get", service, user],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT,
            )
            if password := asked.stdout.strip("\r\n"):
                return f"{scheme}{user}:{quote(password, safe='')}@{rest}"
        return url[0]

    return _USER_ALONE.sub(complete, urls)


def _host(url: str) -> str:
    return urlsplit(url if "://" in url else f"http://{url}").hostname or ""
