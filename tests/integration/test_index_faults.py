"""Package indexes that answer wrongly or not at all: each is named, no password is shown or given away."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest
import trustme

from tests.faults import SECRET, check_refused, plant, run
from tests.faulty_index import answering
from tests.wheels import make_wheel, serve


def index_line(url: str) -> str:
    return f"--index-url {url.replace('://', f'://u:{SECRET}@')}/simple\nown-lib\n"


HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
PLACE = r"requirements\.txt:2 cannot be locked for Python 3\.12 on linux/amd64:\n(.|\n)*"
NOT_ALLOWED = (
    rf"{PLACE}http://127\.0\.0\.1:\d+/simple(.|\n)*\nGive the user and the password where pip finds them, too: in "
    r"~/\.netrc \(machine 127\.0\.0\.1\), .* https://\$\{USER\}:\$\{PASSWORD\}@"
)
URL = r"\nIs this the URL of a package index\? They often end in /simple\."
NO_FILES = rf"{PLACE}there are no versions of own-lib(.|\n)*{URL}"
NO_ANSWER = rf"cannot be locked for (.|\n)*{URL}"
UNREACHED = rf"{PLACE}Failed to fetch: `?http://127\.0\.0\.1:\d+/simple/own-lib/`?(.|\n)*"

ANSWERS: dict[str, tuple[int, bytes, Mapping[str, str], str]] = {
    "401": (401, b"", {"WWW-Authenticate": 'Basic realm="x"'}, NOT_ALLOWED),
    "403": (403, b"no", {}, NOT_ALLOWED),
    "404": (404, b"", {}, rf"{PLACE}own-lib was not found"),
    "410": (410, b"", {}, rf"{UNREACHED}410 Gone"),
    "429": (429, b"", {}, rf"{UNREACHED}429 Too Many Requests"),
    "500": (500, b"<html>Oops", HTML, rf"{UNREACHED}500 Internal Server Error"),
    "503": (503, b"", {}, rf"{UNREACHED}503 Service Unavailable"),
    "a page to log in": (200, b"<html>\x1b[2JLog in</html>", HTML, NO_FILES),
    "an empty page": (200, b"", HTML, NO_FILES),
    "another content": (200, b"\xff\xfe\0", {"Content-Type": "application/octet-stream"}, NO_ANSWER),
    "no content type": (200, b"<html>", {}, NO_ANSWER),
    "JSON of something else": (200, b"{}", JSON, NO_ANSWER),
    "a page that breaks off": (200, b"<html>", {**HTML, "Content-Length": "5000"}, rf"{UNREACHED}end of file before"),
    "a page in the place of a wheel": (
        200,
        b"<html><a href='own_lib-1.0-py3-none-any.whl'>x</a>",
        HTML,
        r"cannot be locked for .*\nerror: Failed to download `own-lib==1\.0`\n(.|\n)*Invalid zip file structure",
    ),
    "a redirect to itself": (302, b"", {"Location": "/simple/own-lib/"}, NO_ANSWER),
    "a redirect to a file": (307, b"", {"Location": "file:///etc/passwd"}, rf"{UNREACHED}is not a valid HTTP URI"),
}


@pytest.mark.parametrize(("status", "body", "headers", "sentence"), ANSWERS.values(), ids=ANSWERS)
def test_what_an_index_answers_wrongly_is_said(
    tmp_path: Path, status: int, body: bytes, headers: Mapping[str, str], sentence: str
) -> None:
    with answering(status, body, headers) as (url, _):
        plant(tmp_path, {"requirements.txt": index_line(url)})

        check_refused(tmp_path, sentence)


# Files that requirements name by URL: the answer, and what is said.
REMOTE = {
    "a page to log in": (
        200,
        b"<html>Log in</html>",
        r"cannot be locked (.|\n)*Unexpected '<'.* http://\S+/limits\.txt:1:1",
    ),
    "a requirement that is none": (
        200,
        b"idna\nx y z\n",
        r"cannot be locked (.|\n)*in `http://\S+/limits\.txt`(.|\n)*x y z",
    ),
    "nothing": (404, b"", r"remote requirements file: `?http://\S+/limits\.txt"),
}


@pytest.mark.parametrize(("status", "body", "sentence"), REMOTE.values(), ids=REMOTE)
def test_a_file_at_a_url_is_named(tmp_path: Path, status: int, body: bytes, sentence: str) -> None:
    with answering(status, body, {"Content-Type": "text/plain"}) as (url, _):
        plant(tmp_path, {"requirements.txt": f"-c {url}/limits.txt\n"})

        check_refused(tmp_path, sentence)


def test_a_file_that_cannot_be_fetched_is_named_without_its_password(tmp_path: Path) -> None:
    plant(tmp_path, {"requirements.txt": f"-r http://u:{SECRET}@127.0.0.1:1/more.txt\n"})

    check_refused(tmp_path, r"file: `?http://\*\*\*@127\.0\.0\.1:1/more\.txt(.|\n)*Connection refused")


def test_an_index_that_is_down_is_named(tmp_path: Path) -> None:
    plant(tmp_path, {"requirements.txt": index_line("http://127.0.0.1:1")})

    check_refused(tmp_path, rf"{PLACE}http://127\.0\.0\.1:1/simple/own-lib/(.|\n)*Connection refused")


def test_a_password_does_not_follow_a_redirect_to_another_host(tmp_path: Path) -> None:
    with answering(200, b"", HTML) as (other, asked_of_other):
        elsewhere = other.replace("127.0.0.1", "localhost")
        with answering(302, b"", {"Location": f"{elsewhere}/simple/own-lib/"}) as (url, asked):
            plant(tmp_path, {"requirements.txt": index_line(url)})

            check_refused(tmp_path, NO_FILES)

    assert [request.partition(" Basic ")[2] != "" for request in asked] == [True]
    assert asked_of_other == ["/simple/own-lib/"]


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("127.0.0.1", False, r"invalid peer certificate: UnknownIssuer(.|\n)* goes into SSL_CERT_FILE or PIP_CERT\."),
        ("example.com", True, r"invalid peer certificate: certificate not valid for name \"127\.0\.0\.1\""),
    ],
)
def test_a_wrong_certificate_is_named(tmp_path: Path, name: str, known: bool, sentence: str) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    with answering(200, b"", HTML, context) as (url, asked):
        plant(tmp_path, {"requirements.txt": index_line(url)})

        check_refused(tmp_path, sentence, **({"SSL_CERT_FILE": str(tmp_path / "authority.pem")} if known else {}))

    assert asked == []


URL_OF_USER = "https://${USER_}:${PASSWORD_}@x.invalid"


# Passwords that make the URL around them another one, so that nothing shows where they end.
@pytest.mark.parametrize(
    ("line", "password", "sentence"),
    [
        (f"own @ {URL_OF_USER}/own-1-py3-none-any.whl", f"{SECRET}/{SECRET}@y", r"\$\{PASSWORD_\}@x"),
        (f"--extra-index-url {URL_OF_USER}/simple\nidna", f"{SECRET} y", r"\$\{PASSWORD_\}@x"),
        (f"--index-url {URL_OF_USER}/simple\nidna", f"{SECRET}/y", r"its port is no number\. In a user"),
    ],
)
def test_a_password_in_a_variable_is_never_shown(tmp_path: Path, line: str, password: str, sentence: str) -> None:
    plant(tmp_path, {"requirements.txt": f"{line}\n"})

    check_refused(tmp_path, sentence, USER_="somebody", PASSWORD_=password)


SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    "an index of uv at no port": (
        {"UV_INDEX_URL": "http://u:s3cret@x:99999/"},
        r"'http://\*\*\*@x:99999/' (.|\n)*\nThe value is from the variables of uv or pip",
    ),
    "an index of pip without a scheme": (
        {"PIP_INDEX_URL": "x.example.com/simple"},
        r"PIP_INDEX_URL names no index, 'x\.",
    ),
    "a certificate of pip that is not there": (
        {"PIP_CERT": "/no.pem"},
        r"PIP_CERT names a certificate that does not exist",
    ),
    "a timeout that is no number": (
        {"PIP_TIMEOUT": "soon"},
        r"The variable UV_HTTP_TIMEOUT, or pip's setting for it, is 'so",
    ),
    "retries that are no number": (
        {"UV_HTTP_RETRIES": "many"},
        r"The variable UV_HTTP_RETRIES, .* is 'many', which uv can",
    ),
    "a proxy that is down": (
        {"HTTPS_PROXY": "http://u:s3cret@127.0.0.1:1"},
        r"Failed to fetch: `?https://pypi\.example\.",
    ),
}


@pytest.mark.parametrize(("environ", "sentence"), SETTINGS.values(), ids=SETTINGS)
def test_a_wrong_setting_of_this_machine_is_named(tmp_path: Path, environ: dict[str, str], sentence: str) -> None:
    line = "--index-url https://pypi.example.invalid/simple\n" if "HTTPS_PROXY" in environ else ""
    plant(tmp_path, {"requirements.txt": f"{line}idna\n"})

    check_refused(tmp_path, sentence, **environ)


# What the wheels of an index can have wrong, each by the requirement that meets it.
WHEELS = {
    "own-cut": r"own-cut==1\.0 has an invalid package format",
    "own-top": r"only own-lib==1\.0 is available and all versions of own-top depend on own-lib>=2",
    "own-git": r"`own-git==1\.0`\n(.|\n)*URL dependencies must be expressed as direct requirements",
    "own-bad": r"Metadata for `own-bad` \(v1\.0\) could not be parsed(.|\n)*no such comparison operator \">>\"",
    "own-old": rf"{PLACE}own-old==1\.0 has no wheels (.|\n)*`cp38`(.|\n)*builder = \"buildkit\"",
    "own-win": rf"{PLACE}own-win==1\.0 has no wheels (.|\n)*`win_amd64`",
    "own-pre<1": r"only own-pre==1\.0rc1 is available and you require own-pre<1",
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "own-lib")
    cut = make_wheel(folder, "own-cut")
    cut.write_bytes(cut.read_bytes()[:100])
    make_wheel(folder, "own-top", requires=["own-lib>=2"])
    make_wheel(folder, "own-git", requires=[f"own-lib @ git+https://u:{SECRET}@example.com/x"])
    make_wheel(folder, "own-bad", requires=["own-lib >> 2"])
    make_wheel(folder, "own-old", tag="cp38-cp38-manylinux_2_17_x86_64")
    make_wheel(folder, "own-win", tag="py3-none-win_amd64")
    make_wheel(folder, "own-pre", "1.0rc1")
    return folder


@pytest.mark.parametrize(("requirement", "sentence"), WHEELS.items(), ids=WHEELS)
def test_what_is_wrong_with_a_wheel_is_said(tmp_path: Path, wheels: Path, requirement: str, sentence: str) -> None:
    with serve(wheels) as index:
        plant(tmp_path, {"requirements.txt": f"--index-url {index.url}\n{requirement}\n"})

        check_refused(tmp_path, sentence)


def test_a_host_can_be_trusted_in_the_requirements(tmp_path: Path, wheels: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serve(wheels, context=context) as index:
        lines = f"--index-url {index.url}\n--trusted-host {index.address}\nown-lib\n"
        plant(tmp_path, {"requirements.txt": lines})

        ran = run(tmp_path, "lock")

    assert ran.exit_code == 0, ran.output
    assert re.search(r'name = "own-lib"\nversion = "1\.0"', (tmp_path / "pylock.etl.toml").read_text("utf-8"))
