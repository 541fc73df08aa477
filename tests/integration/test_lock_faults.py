"""Faults planted in requirements and constraints: each gets one message that names it, and does no harm."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from tests.faults import Files, check_refused, plant, project_text, run
from tests.wheels import make_wheel

needs_index = pytest.mark.usefixtures("package_index")

IDNA_3_6 = "sha256:c05567e9c24a6b9faaa835c4821bad0590fbb9d5779e7caa6e1cc4978e7eb24f"
ZEROS = f"sha256:{'0' * 64}"


def requirements(text: str | bytes, **others: str | bytes | None) -> Files:
    return {"requirements.txt": text, **{name.replace("_", "."): content for name, content in others.items()}}


def with_project(text: str | bytes, python: str = "3.12", more: str = "", **others: str) -> Files:
    return {**requirements(text, **others), "k8s-venv.toml": project_text(python, more)}


# What stands in the files and cannot be locked, whatever an index has; and what is said.
WRONG_FILES: dict[str, tuple[Files, str]] = {
    "an editable install": (
        requirements("-e .\n"),
        r"'-e \.' in requirements\.txt:1 is an editable install\. .* \(pip wheel --no-deps -w wheels \.\)",
    ),
    "an editable install behind a byte order mark": (
        requirements(b"\xef\xbb\xbf-e .\n"),
        r"'-e \.' in requirements\.txt:1 is an editable install",
    ),
    "a repository": (
        requirements("idna\ngit+https://u:s3cret@example.com/x\n"),
        r"'git\+https://\*\*\*@example\.com/x' in requirements\.txt:2 is a repository",
    ),
    "a named repository in an included file": (
        requirements("-r a.txt\n", a_txt="\nx @ git+ssh://git@example.com/x@main\n"),
        r"in a\.txt:2 is a repository\. .* \(pip wheel --no-deps -w wheels git\+ssh://\*\*\*@example\.com/x@main\)",
    ),
    "a folder": (requirements("./lib\n", lib=None), r"'\./lib' in requirements\.txt:1 is a folder"),
    "a source distribution at a URL": (
        requirements("x @ https://example.com/x-1.0.tar.gz\n"),
        r"in requirements\.txt:1 is a source distribution",
    ),
    "a missing file": (
        requirements("-r a.txt\n", a_txt="-r b.txt\n"),
        r"b\.txt, which \S*a\.txt includes, cannot be read: No such file",
    ),
    "a missing constraints file": (requirements("-c no.txt\nidna\n"), r"no\.txt, which \S*requirements\.txt includes"),
    "a file that includes itself": (requirements("-r requirements.txt\n"), r"requirements\.txt includes itself"),
    "files that include each other by other names": (
        requirements("-r ./lib/../a.txt\n", a_txt="-r lib/../requirements.txt\n", lib=None),
        r"requirements\.txt includes itself",
    ),
    "a folder instead of a file": (
        requirements("-r lib\n", lib=None),
        r"lib, which \S*requirements\.txt includes, cannot be read: Is a directory",
    ),
    "an option without its value": (requirements("idna\n-r\n"), r"'-r' in requirements\.txt:2 lacks its value"),
    "Latin-1": (
        requirements("# größer\n".encode("latin-1")),
        r"requirements\.txt is not UTF-8 text: line 1 has 0xF6 \(invalid start byte\)\. Save it as UTF-8, or name",
    ),
    "Latin-1 in an included file, on its third line": (
        requirements("-r a.txt\n", a_txt="idna\r\n\r\n# größer\r\n".encode("latin-1")),
        r"a\.txt is not UTF-8 text: line 3 has 0xF6",
    ),
    "UTF-16 without a mark": (
        requirements("idna\n".encode("utf-16-le")),
        r"requirements\.txt is not UTF-8 text: it looks like UTF-16 or UTF-32 without a byte-order mark\. Save it as",
    ),
    "half a sign of UTF-16": (
        requirements("-r a.txt\n", a_txt=b"\xff\xfei\0d\0n\0a\0\n\0x"),
        r"a\.txt is not UTF-16-LE text, as its byte-order mark says: line 2 has 0x78 \(truncated data\)",
    ),
    "an encoding that does not exist": (
        requirements("idna\n# coding: latin-11\n"),
        r"requirements\.txt is not latin-11 text, as line 2 says: Python has no such encoding\. Save it as UTF-8",
    ),
    "another text than its cookie says": (
        requirements("# -*- coding: ascii -*-\n# größer\n"),
        r"requirements\.txt is not ascii text, as line 1 says: line 2 has 0xC3",
    ),
    "a backslash before spaces": (
        requirements("idna \\ \n    ==3.6\n"),
        r"'idna \\\\' in requirements\.txt:1 ends with a backslash that joins no lines, since spaces",
    ),
    "a conflict left from a merge": (
        requirements("<<<<<<< HEAD\nidna==3.6\n=======\nidna==3.7\n>>>>>>> theirs\n"),
        r"'<<<<<<< HEAD' in requirements\.txt:1 is left from a merge\. Resolve the conflict",
    ),
    "a misspelt option": (
        requirements("--index-ulr https://u:s3cret@example.com\nidna\n"),
        r"in requirements\.txt:1 is no option of requirements\. Did you mean '--index-url'\? Known: -r",
    ),
    "the file of another tool": (
        requirements("dependencies:\n  - python=3.8\n"),
        r"'- python=3\.8' in requirements\.tx",
    ),
    "packages to compile": (
        requirements("--no-binary :all:\nidna\n"),
        r"'--no-binary :all:' in requirements\.txt:1 asks for packages .* builder = \"buildkit\" in \[environm",
    ),
    "an index without a scheme": (
        requirements("--index-url pypi.example.com/simple\nidna\n"),
        r"in requirements\.txt:1 names no index: write its whole URL, such as https://",
    ),
    "an index of another protocol": (
        requirements("--extra-index-url=ftp://u:s3cret@pypi.example.com/simple\nidna\n"),
        r"in requirements\.txt:1 names no index: write its whole URL",
    ),
    "an index at a port that does not exist": (
        requirements("-i https://u:s3cret@pypi.example.com:99999/simple\nidna\n"),
        r"in requirements\.txt:1 names no index: port out of range",
    ),
    "a variable that is not set": (
        requirements("--index-url https://u:${NO_SUCH_TOKEN}@pypi.example.com/simple\nidna\n"),
        r"in requirements\.txt:1 names the variable NO_SUCH_TOKEN, which is not set here",
    ),
    "a variable in the place of a version": (
        requirements("idna==${NO_SUCH_VERSION}\n"),
        r"requirements\.txt:1 names the variable NO_SUCH_VERSION",
    ),
    "a hash that is too short": (
        requirements("idna==3.6 --hash=sha256:c05567\n"),
        r"requirements\.txt:1 has 'sha256:c05567', which is not a hash",
    ),
    "a hash of another kind": (requirements("idna==3.6 --hash=md5:00\n"), r"has 'md5:00', which is not a hash"),
    "an operator that is none": (
        requirements("\nidna=3.6\n"),
        r"requirements\.txt:2 cannot be locked (.|\n)*no such comparison operator \"=\"(.|\n)*idna=3\.6",
    ),
    "a version that is none": (
        requirements("idna==3.x\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*idna==3\.x",
    ),
    "a continuation into the next requirement": (
        requirements("idna==3.6 \\\ncertifi\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*Trailing `certifi` is not allowed",
    ),
    "a comment without a space before it": (
        requirements("idna==3.6#why\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*idna==3\.6#why",
    ),
    "a misspelt marker": (
        requirements("idna; python_versoin < '3'\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*xpected .* marker name, found `python_versoin`",
    ),
    "quotes of a word processor": (
        requirements("idna; python_version < “3.9”\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*: LEFT DOUBLE QUOTATION MARK, RIGHT DOUBLE QUOTATION MARK\.",
    ),
    "a letter of another alphabet": (
        requirements("\u0456dna==3.6\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*not plain ASCII: CYRILLIC SMALL LETTER",
    ),
    "a sign that nobody sees": (
        requirements("\u200bidna\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*not plain ASCII: ZERO WIDTH SPACE\.",
    ),
    "quotes around a line": (
        requirements('"idna==3.6"\n'),
        r"""requirements\.txt:1 cannot be locked (.|\n)*Unexpected '"'""",
    ),
    "two requirements on one line": (
        requirements("idna, certifi\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*idna, certifi",
    ),
    "a command": (
        requirements("pip install idna\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*pip install idna",
    ),
    "a NUL": (
        requirements(b"certifi\nidna\0==3.6\n"),
        r"requirements\.txt:2 cannot be locked (.|\n)*not plain ASCII: U\+0000\.",
    ),
    "a line for a shell": (
        requirements("idna; touch owned\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*idna; touch owned",
    ),
    "a substitution for a shell": (
        requirements("$(touch owned)\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*\$\(touch owned\)",
    ),
    "an escape for a terminal": (
        requirements("idna \x1b[2J\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*not plain ASCII: U\+001B\.",
    ),
    "options for an installer": (
        requirements("idna==3.6 --config-settings x=y\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*[Ee]xpected `--hash`",
    ),
    "a wheel that does not exist": (
        requirements("./own-1.0-py3-none-any.whl\n"),
        r"not found at: file:///\S*own-1\.0-py3-",
    ),
    "a wheel outside the project": (
        requirements("../../own-1.0-py3-none-any.whl\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*not found at: file:///\S*own-1\.0-py3-none-any\.whl",
    ),
    "a wheel that is none": (
        {**requirements("./own-1.0-py3-none-any.whl\n"), "own-1.0-py3-none-any.whl": b"garbage"},
        r"requirements\.txt:1 cannot be locked for Python 3\.12 on linux/amd64:\nerror: Failed to read `own @ file://",
    ),
    "a text file": (
        requirements("./a.txt\n", a_txt="idna\n"),
        r"looks like a requirements file .* Did you mean `-r \./a",
    ),
    "a folder of wheels that does not exist": (
        requirements("--find-links ./wheels\nidna\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*\nThere is no folder '\./wheels'\.",
    ),
    "two versions": (
        requirements("--no-index\nidna==3.6\nidna==3.7\n"),
        r"requirements\.txt:2 and requirements\.txt:3 cannot be locked (.|\n)*you require idna==3\.6 and idna==3\.7",
    ),
    "two versions of a name in two spellings": (
        requirements("--no-index\ntyping_extensions==4.9.0\nTyping-Extensions==4.10.0\n"),
        r"you require typing-extensions==4\.9\.0 and typing-extensions==4\.10\.0",
    ),
    "a constraint against a requirement": (
        with_project("--no-index\nidna>=3.7\n", more='constraints = "limits.txt"\n', limits_txt="idna<3.5\n"),
        r"you require idna>=3\.7 and idna<3\.5",
    ),
    "a constraints file that is not text": (
        {**with_project("idna\n", more='constraints = "limits.txt"\n'), "limits.txt": b"\xff"},
        r"limits\.txt is not UTF-8 text",
    ),
    "an editable install in a list": (
        {"k8s-venv.toml": '[environments.etl]\npython = "3.12"\nrequirements = ["idna", "certifi\\n-e ."]\n'},
        r"'-e \.' in `requirements` of \[environments\.etl\] is an editable install",
    ),
}


@pytest.mark.parametrize(("files", "sentence"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_fault_in_the_files_is_named_with_its_line(tmp_path: Path, files: Files, sentence: str) -> None:
    plant(tmp_path, files)

    check_refused(tmp_path, rf"^Error: Environment 'etl': (.|\n)*{sentence}".replace("^", "(?m:^)", 1))


# What only an index can tell.
WRONG_FOR_THE_INDEX: dict[str, tuple[Files, str]] = {
    "a misspelt package": (
        requirements("idna\nreqeusts\n"),
        r"requirements\.txt:2 cannot be locked (.|\n)*reqeusts was not found in the package registry",
    ),
    "a misspelt package in an included file with Windows line ends": (
        requirements(b"-r a.txt\r\n", a_txt=b"idna\r\n\treqeusts # why\r\n"),
        r"a\.txt:2 cannot be locked (.|\n)*reqeusts was not found in the package registry",
    ),
    "a version that does not exist": (requirements("idna==99\n"), r"Because there is no version of idna==99"),
    "a conflict through a third package": (
        requirements("requests==2.25.1\nurllib3>=2\n"),
        r"Because requests==2\.25\.1 depends on urllib3>=1\.21\.1,<1\.27 and you require requests==2\.25\.1",
    ),
    "a Debian package": (
        requirements("idna\nlibpq-dev\n"),
        r"requirements\.txt:2 cannot be locked (.|\n)*Debian packages belong .*: packages = \[\"libpq-dev\"\]",
    ),
    "Python itself": (
        requirements("python==3.12\n"),
        r"The Python version belongs in `python` of \[environments\.etl\]",
    ),
    "a module of Python": (
        requirements("sqlite3\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*'sqlite3' is a module of Python itself: leave the line out",
    ),
    "wheels for Windows alone": (
        requirements("pywin32==306\n"),
        r"requirements\.txt:1 cannot be locked for Python 3\.12 on linux/amd64:(.|\n)*pywin32==306 has no wheels "
        r"(.|\n)*`win_amd64`",
    ),
    "a source distribution alone": (
        requirements("pyspark[sql]==3.5.0\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*no usable wheels(.|\n)*If pyspark may .*: builder = \"buildkit\"",
    ),
    "a package for newer Pythons": (
        with_project("pandas==3.0.0\n", python="3.8"),
        r"requirements\.txt:1 cannot be locked for Python 3\.8 on linux/amd64:(.|\n)*pandas==3\.0\.0 ",
    ),
    "a pure package for newer Pythons": (
        with_project("requests==2.33.0\n", python="3.8"),
        r"does not satisfy Python>=3\.10 (.|\n)*hint: The `--python-version` value \(>=3\.8\) includes",
    ),
    "a package for older Pythons": (
        requirements("numpy==1.19.5\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*numpy==1\.19\.5 has no usable wheels",
    ),
    "the hash of another file": (
        requirements(f"idna==3.6 \\\n  --hash={ZEROS}\n"),
        r"no file of idna 3\.6 for Python 3\.12 has a hash that requirements\.txt:1 allows",
    ),
    "hashes for some": (
        requirements(f"--require-hashes\nidna==3.6 --hash={IDNA_3_6}\ncertifi==2024.2.2\n"),
        r"requirements\.txt:1 asks for hashes, and no line gives one for 'certifi'",
    ),
    "a wheel at a URL that is gone": (
        requirements("own @ https://files.pythonhosted.org/packages/own-1.0-py3-none-any.whl\n"),
        r"requirements\.txt:1 cannot be locked (.|\n)*https://files\.pythonhosted\.org/packages/own-1\.0-py3-none-any\.whl(.|\n)*404",
    ),
    "the wheel of another package": (
        requirements("certifi @ https://files.pythonhosted.org/packages/x/idna-3.6-py3-none-any.whl\n"),
        r"package name `certifi` does not match `idna` in the distribution filename",
    ),
    "a name of 100,000 letters": (requirements(f"idna{'x' * 100_000}\n"), r"requirements\.txt:1 cannot be locked "),
}


@needs_index
@pytest.mark.parametrize(("files", "sentence"), WRONG_FOR_THE_INDEX.values(), ids=WRONG_FOR_THE_INDEX)
def test_what_the_index_does_not_have_is_named(tmp_path: Path, files: Files, sentence: str) -> None:
    plant(tmp_path, files)

    check_refused(tmp_path, sentence)


@needs_index
def test_a_source_distribution_behind_a_third_package_is_named_with_the_way_out(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "own-top", requires=["pyspark==3.5.0"])
    plant(tmp_path, requirements("--find-links ./wheels\nown-top\n"))

    check_refused(
        tmp_path,
        r"own-top depend on pyspark==3\.5\.0(.|\n)*If pyspark may be compiled: builder = \"buildkit\" in \[env",
    )


# What can be locked, but hardly as it was meant; and the note.
SUSPECT: dict[str, tuple[Files, str]] = {
    "an extra that does not exist": (
        requirements("idna[nope]==3.6\n"),
        r"`idna==3\.6` does not have an extra named `nope`\.",
    ),
    "a version that was taken back": (requirements("urllib3==2.0.0\n"), r"`urllib3==2\.0\.0` is yanked \(reason: "),
    "markers that exclude everything": (
        requirements("idna; python_version < '3'\ncertifi; sys_platform == 'win32'\n"),
        r"requirements\.txt asks for no package on Python 3\.12\.",
    ),
    "an empty file": (requirements(""), r"requirements\.txt asks for no package on Python 3\.12\."),
    "comments alone": (requirements("# idna\n\n"), r"requirements\.txt asks for no package on Python 3\.12\."),
    "a package named like a module of Python": (
        requirements("certifi\ntyping\n"),
        r"requirements\.txt:2 asks for 'typing', which is a module of Python 3\.12 itself",
    ),
    "an option for pip alone": (
        requirements("--use-feature=fast-deps\nidna\n"),
        r"'--use-feature=fast-deps' in requirements\.txt:1 has no effect on a lock\.",
    ),
}


@needs_index
@pytest.mark.parametrize(("files", "note"), SUSPECT.values(), ids=SUSPECT)
def test_what_was_hardly_meant_is_noted(tmp_path: Path, files: Files, note: str) -> None:
    plant(tmp_path, files)

    ran = run(tmp_path, "lock")

    assert ran.exit_code == 0, ran.output
    (said,) = [line for line in ran.stderr.splitlines() if line.startswith("Note: etl: ")]
    assert re.search(note, said)


# What looks odd and is right.
HARMLESS: dict[str, str | bytes] = {
    "a byte order mark": b"\xef\xbb\xbfidna==3.6\n",
    "Windows line ends": b"# why\r\nidna==3.6\r\n",
    "tabs and comments": "\tidna\t==\t3.6\t# why\n",
    "the line twice": "idna==3.6\nIDNA==3.6\n",
    "its hash": f"idna==3.6 --hash={ZEROS} \\\n    --hash={IDNA_3_6}\n",
    "hashes for all": f"--require-hashes\nidna==3.6 --hash={IDNA_3_6}\n",
    "options that wheels need not": "--prefer-binary\n--only-binary :all:\nidna==3.6\n",
    "UTF-16, as PowerShell writes it": "# größer\r\nidna==3.6\r\n".encode("utf-16"),
    "UTF-16 of the other order": b"\xfe\xff" + "idna==3.6\n".encode("utf-16-be"),
    "UTF-32": "idna==3.6\n".encode("utf-32"),
    "a coding cookie": "#!/usr/bin/env pip\n# vim: set fileencoding=latin-1 :\n# größer\nidna==3.6\n".encode("latin-1"),
    "a version on the next line": "idna \\\n    ==3.6 \\\n    # via requests\n",
    "a name on two lines": "id\\\nna==\\\n3.6",
    "a backslash at the end of the file": "idna==3.6 \\",
    "form feeds": "\fidna==3.6\f\f# why\n\f",
    "line ends of an old Mac": "# why\ridna==3.6\r",
    "no line end at the end": "idna==3.6",
    "10 MB of comments": f"# {'why' * 33}\n" * 100_000 + "idna==3.6\n",
}


@needs_index
@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_what_only_looks_odd_is_locked(tmp_path: Path, text: str | bytes) -> None:
    plant(tmp_path, requirements(text))

    ran = run(tmp_path, "lock")

    assert ran.exit_code == 0, ran.output
    assert "Note: etl" not in ran.stderr
    assert 'name = "idna"\nversion = "3.6"' in (tmp_path / "pylock.etl.toml").read_text("utf-8")


def test_a_hash_in_the_requirements_leaves_only_its_file(tmp_path: Path) -> None:
    wheels = [make_wheel(tmp_path / "wheels", "own-lib", tag=tag) for tag in ("py3-none-any", "cp312-none-any")]
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    plant(tmp_path, requirements("--no-index\n--find-links ./wheels\nown-lib\n"))
    assert run(tmp_path, "lock").exit_code == 0
    assert (tmp_path / "pylock.etl.toml").read_text("utf-8").count("\nsha256 = ") == 2

    plant(tmp_path, requirements(f"--no-index\n--find-links ./wheels\nown-lib==1.0 --hash=sha256:{digest}\n"))

    assert run(tmp_path, "lock").exit_code == 0
    held = (tmp_path / "pylock.etl.toml").read_text("utf-8")
    assert held.count("\nsha256 = ") == 1
    assert f'sha256 = "{digest}"' in held


@pytest.mark.parametrize(
    "line", ["./wheels/own_lib-1.0-py3-none-any.whl", "own-lib @ ./wheels/own_lib-1.0-py3-none-any.whl"]
)
def test_a_wheel_beside_the_project_is_held_to_its_hash(tmp_path: Path, line: str) -> None:
    wheel = make_wheel(tmp_path / "wheels", "own-lib")
    plant(tmp_path, requirements(f"--no-index\n{line} --hash={ZEROS}\n"))

    check_refused(tmp_path, r"no file of own-lib .*for Python 3\.12 has a hash that requirements\.txt:2 allows")

    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    plant(tmp_path, requirements(f"--no-index\n{line} --hash=sha256:{digest}\n"))
    assert run(tmp_path, "lock").exit_code == 0


@pytest.mark.parametrize(("line", "version"), [("", "1.0"), ("--pre\n", "2.0rc1")])
def test_versions_before_a_release_are_taken_on_request(tmp_path: Path, line: str, version: str) -> None:
    for each in ("1.0", "2.0rc1"):
        make_wheel(tmp_path / "wheels", "own-lib", each)
    plant(tmp_path, requirements(f"{line}--no-index\n--find-links ./wheels\nown-lib\n"))

    assert run(tmp_path, "lock", "--upgrade").exit_code == 0
    assert f'version = "{version}"' in (tmp_path / "pylock.etl.toml").read_text("utf-8")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_file_that_must_not_be_read_is_named(tmp_path: Path) -> None:
    plant(tmp_path, requirements("idna\n"))
    (tmp_path / "requirements.txt").chmod(0)

    ran = run(tmp_path, "lock")

    assert ran.exit_code == 1
    assert "requirements.txt cannot be read: Permission denied" in ran.stderr


# Requirements of which a newer version fits that has no wheels, and the note.
PASSED_OVER: dict[str, tuple[str, str]] = {
    "its own wheels": (
        "pendulum<3\n",
        r"pendulum is locked at 0\.\d+, and 2\.1\.2 fits as well \(requirements\.txt:1\), but has no wheel for Python "
        r"3\.12 on linux/amd64\. To have it, set python = \"3\.9\", for which there are wheels, or let the image"
        r"'s build compile it, with builder = \"buildkit\" in \[environments\.etl\]\.",
    ),
    "those of what it needs": (
        "hydra-core<1.3.3\n",
        r"hydra-core is locked at 0\.\S+, and 1\.3\.2 fits as well .* but needs antlr4-python3-runtime, which has",
    ),
}


@needs_index
@pytest.mark.parametrize(("text", "note"), PASSED_OVER.values(), ids=PASSED_OVER)
def test_a_newer_version_without_wheels_is_noted_once(tmp_path: Path, text: str, note: str) -> None:
    plant(tmp_path, requirements(text))

    first, again = run(tmp_path, "lock"), run(tmp_path, "lock")

    assert first.exit_code == again.exit_code == 0, first.output
    (said,) = [line for line in first.stderr.splitlines() if line.startswith("Note: etl: ")]
    assert re.search(note, said)
    assert "Note: etl: " not in again.stderr


@pytest.mark.parametrize(
    ("python", "tag", "way"),
    [
        ("3.12", "cp38-none-any", ' To have it, set python = "3.8", for which there are wheels.'),
        ("3.8", "cp312-none-any", ' To have it, set python = "3.12", for which there are wheels.'),
        ("3.12", "cp312-cp312-win_amd64", ""),
    ],
)
def test_a_newer_version_with_wheels_for_others_alone_is_noted(tmp_path: Path, python: str, tag: str, way: str) -> None:
    make_wheel(tmp_path / "wheels", "own-new", "1.0")
    make_wheel(tmp_path / "wheels", "own-new", "2.0", tag=tag)
    plant(tmp_path, with_project("--no-index\n--find-links wheels\nown-new\n", python=python))

    ran = run(tmp_path, "lock")

    said = [line for line in ran.stderr.splitlines() if line.startswith("Note: etl: ")]
    assert said == [
        "Note: etl: own-new is locked at 1.0, and 2.0 fits as well (requirements.txt:3), but has no wheel for Python "
        f"{python} on linux/amd64.{way}"
    ]


@needs_index
@pytest.mark.parametrize("text", ["idna<3.5\n", "requests==2.25.1\nidna\n", "pandas<2.1\nnumpy\n"])
def test_a_version_that_is_old_for_another_reason_gets_no_note(tmp_path: Path, text: str) -> None:
    plant(tmp_path, with_project(text, python="3.11"))

    ran = run(tmp_path, "lock")

    assert ran.exit_code == 0, ran.output
    assert "fits as well" not in ran.stderr
