"""What a project file may say, and what it gets told when it says something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8s_venv.backends import choose_backend
from k8s_venv.config.environment import NAME
from k8s_venv.config.project import find_project, load_project
from k8s_venv.errors import K8sVenvError, ProjectError, UnknownEnvironmentError
from tests.conftest import ProjectWriter

pytestmark = pytest.mark.usefixtures("no_settings")


def test_a_project_file_declares_environments(write_project: ProjectWriter) -> None:
    project = write_project(
        """
        registry = "registry.example.com/airflow"

        [environments.snowpark]
        python = "3.8"
        requirements = "snowpark.txt"

        [environments.training]
        python = "3.12"
        requirements = ["scikit-learn", "pandas"]
        packages = ["libgomp1"]
        pod = { container_resources = { requests = { memory = "2Gi" } } }

        [environments.bare]
        python = "3.13"
        """,
        snowpark_txt="snowflake-snowpark-python",
    )

    assert list(project.environments) == ["snowpark", "training", "bare"]
    assert project.environment("snowpark").requirements_file == project.root / "snowpark.txt"
    assert project.environment("training").requirements == ("scikit-learn", "pandas")
    assert project.environment("training").base_image == "python:3.12-slim-bookworm"
    assert project.environment("bare").requirements is None
    assert project.require_registry() == "registry.example.com/airflow"


def test_environments_say_what_pods_have_otherwise(write_project: ProjectWriter) -> None:
    project = write_project(
        """
        [pod]
        namespace = "tasks"
        kubernetes_conn_id = "prod"
        node_selector = { pool = "batch" }

        [environments.training]
        python = "3.12"
        pod = { node_selector = { pool = "gpu" }, service_account_name = "trainer" }

        [environments.bare]
        python = "3.13"
        """
    )

    assert project.environment("bare").pod == {
        "namespace": "tasks",
        "kubernetes_conn_id": "prod",
        "node_selector": {"pool": "batch"},
    }
    assert project.environment("training").pod == {
        "namespace": "tasks",
        "kubernetes_conn_id": "prod",
        "node_selector": {"pool": "gpu"},
        "service_account_name": "trainer",
    }


def test_a_transport_for_all_functions_is_said_once_and_an_environment_can_say_another(
    write_project: ProjectWriter,
) -> None:
    project = write_project(
        """
        transport = "cloudpickle"

        [environments.plain]
        python = "3.12"

        [environments.exact]
        python = "3.12"
        transport = "source"
        """
    )

    assert project.environment("plain").transport == "cloudpickle"
    assert project.environment("exact").transport == "source"


def test_pods_options_are_a_table(write_project: ProjectWriter) -> None:
    with pytest.raises(ProjectError, match=r"k8s-venv.toml:1: `pod` of the project: must be a table of options"):
        write_project('pod = "tasks"\n[environments.x]\npython = "3.12"\n')


def test_pyproject_toml_can_be_the_project_file(write_project: ProjectWriter, tmp_path: Path) -> None:
    project = write_project(
        '[project]\nname = "x"\n[tool.k8s-venv.environments.etl]\npython = "3.12"\n', file="pyproject.toml"
    )

    assert find_project(tmp_path) == project.path
    assert project.environment("etl").lock_path == tmp_path / "pylock.etl.toml"


def test_two_project_files_in_a_folder_are_one_too_many(write_project: ProjectWriter, tmp_path: Path) -> None:
    write_project('[tool.k8s-venv.environments.etl]\npython = "3.12"\n', file="pyproject.toml")
    write_project("")

    with pytest.raises(ProjectError, match=r"k8s-venv.toml: \[tool.k8s-venv\] in pyproject.toml beside this file is"):
        find_project(tmp_path)


def test_a_project_file_that_is_written_later_is_found(write_project: ProjectWriter, tmp_path: Path) -> None:
    far, nearer = write_project("").path, tmp_path / "dags" / "k8s-venv.toml"
    nearer.parent.mkdir()

    assert find_project(nearer.parent) == far
    nearer.write_text("")
    assert find_project(nearer.parent) == nearer
    nearer.unlink()
    assert find_project(nearer.parent) == far


def test_the_nearest_project_file_upwards_is_found(write_project: ProjectWriter, tmp_path: Path) -> None:
    project = write_project("")
    (tmp_path / "dags" / "team").mkdir(parents=True)
    (tmp_path / "dags" / "pyproject.toml").write_text("[tool.ruff]\n")

    assert find_project(tmp_path / "dags" / "team") == project.path


def test_a_pyproject_toml_that_is_not_text_is_passed_over(write_project: ProjectWriter, tmp_path: Path) -> None:
    project = write_project("")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "pyproject.toml").write_bytes(b"\xff\xfe")

    assert find_project(tmp_path / "dags") == project.path


def test_the_environment_variable_names_the_file_or_its_folder(
    write_project: ProjectWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project("")
    for value in (tmp_path, project.path):
        monkeypatch.setenv("K8S_VENV_PROJECT", str(value))
        assert find_project(Path("/")) == project.path


def test_a_variable_that_points_nowhere_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_VENV_PROJECT", str(tmp_path / "nowhere"))

    with pytest.raises(ProjectError, match=r"nowhere: K8S_VENV_PROJECT names no project file"):
        find_project(tmp_path)


def test_without_any_project_file_the_error_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"No k8s-venv\.toml .*`k8s-venv init` writes one"):
        find_project(tmp_path)


def test_an_edited_project_file_is_read_again(write_project: ProjectWriter) -> None:
    project = write_project('[environments.a]\npython = "3.12"\n')
    project.path.write_text('[environments.b]\npython = "3.12"\n')
    os.utime(project.path, ns=(1, 1))

    assert list(load_project(project.path).environments) == ["b"]


def test_an_unknown_environment_gets_the_nearest_name(write_project: ProjectWriter) -> None:
    project = write_project('[environments.snowpark]\npython = "3.8"\n')

    with pytest.raises(
        UnknownEnvironmentError, match=r"There is no environment 'snowprak'\. Did you mean 'snowpark'\?"
    ):
        project.environment("snowprak")


def test_a_project_without_environments_says_how_to_add_one(write_project: ProjectWriter) -> None:
    with pytest.raises(ProjectError, match=r"No environment is declared\. Add \[environments\.NAME\]"):
        write_project("").select(())


def test_no_registry_is_an_error_only_where_one_is_needed(write_project: ProjectWriter) -> None:
    project = write_project("")

    with pytest.raises(ProjectError, match=r"No registry is configured\. Add registry = .* or set K8S_VENV_REGISTRY"):
        project.require_registry()


def test_the_registry_can_come_from_outside(write_project: ProjectWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_VENV_REGISTRY", "localhost:5000/x")

    assert write_project('registry = "registry.example.com"').require_registry() == "localhost:5000/x"


@pytest.mark.parametrize("registry", ["registry.example.com", "10.0.0.5:5000/airflow", "[::1]:5000/x", "[fd00::5]/x"])
def test_a_registry_is_a_host_with_or_without_port_and_path(write_project: ProjectWriter, registry: str) -> None:
    assert write_project(f'registry = "{registry}"').require_registry() == registry


def test_a_registry_from_outside_is_checked_too(write_project: ProjectWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_VENV_REGISTRY", "https://localhost:5000")

    with pytest.raises(ProjectError, match=r"^K8S_VENV_REGISTRY: .* is not a registry"):
        write_project("").require_registry()


# Each wrong file, the line that is named, and what is said.
WRONG = {
    "an unknown key": ('[environments.etl]\npython = "3.12"\nrequirement = []', 3, "Did you mean 'requirements'?"),
    "an unknown key of the project": ('registri = "x"', 1, "Unknown key 'registri' in the project. Did you mean 're"),
    "an unknown key in pyproject": ('[tool.k8s-venv]\nfoo = 1\nregistri = "x"', 2, "Unknown key 'foo' in the project."),
    "a key that is ours alone": ('[environments.etl]\npython = "3.12"\nname = "x"', None, "Unknown key 'name'"),
    "the project's own place": ('path = "/"', None, "Unknown key 'path' in the project."),
    "an unknown transport": (
        '[environments.etl]\npython = "3.12"\ntransport = "pickle"',
        3,
        "'cloudpickle'? Known: so",
    ),
    "an unknown transport of the project": ('transport = "sources"', 1, "Unknown transport 'sources'. Did you mean"),
    "a number as the version": ("[environments.etl]\npython = 3.10", 2, 'such as python = "3.12" (without them, 3.10'),
    "a version that is too old": ('[environments.etl]\npython = "3.7"', 2, "must be 3.8 or a newer Python 3"),
    "Python 2": ('[environments.etl]\npython = "2.7"', 2, "must be 3.8 or a newer Python 3"),
    "a patch version": ('[environments.etl]\npython = "3.12.1"', 2, "must be a minor version such as"),
    "no version": ("[environments.etl]\nrequirements = []", 1, '[environments.etl] lacks `python`, such as python = "'),
    "a dot in a name": ('[environments."my.etl"]\npython = "3.12"', 1, "How about 'my-etl'?"),
    "capitals in a name": ('[environments.MyETL]\npython = "3.12"', 1, "How about 'myetl'?"),
    "a name of signs alone": ('[environments."_"]\npython = "3.12"', 1, "'_' cannot be an environment's name"),
    "a name that is too long": (f'[environments.{"a" * 64}]\npython = "3.12"', 1, "up to 63 small letters"),
    "no table": ('environments = { etl = "3.12" }', None, "`etl` must be a table: [environments.etl]."),
    "no tables": ('environments = ["etl"]', 1, "`environments` must be tables"),
    "a missing requirements file": (
        '[environments.etl]\npython = "3.12"\nrequirements = "requirments.txt"',
        3,
        "The requirements file 'requirments.txt' of environment 'etl' does not exist",
    ),
    "a requirement for a file": (
        '[environments.etl]\npython = "3.12"\nrequirements = "pandas>=2"',
        3,
        'A requirement itself goes into a list: requirements = ["pandas>=2"].',
    ),
    "requirements of another type": (
        '[environments.etl]\npython = "3.12"\nrequirements = 5',
        3,
        'must be the name of a file ("requirements.txt") or a list of requirements (["pandas>=2"]), not 5.',
    ),
    "a name too long for a file": (
        f'[environments.etl]\npython = "3.12"\nrequirements = "{"x" * 5000}"',
        3,
        "of environment 'etl' does not exist",
    ),
    "a missing constraints file": (
        '[environments.etl]\npython = "3.12"\nconstraints = "limits.txt"',
        3,
        "The constraints file 'limits.txt' of environment 'etl' does not exist",
    ),
    "an unknown platform": (
        '[environments.etl]\npython = "3.12"\nplatforms = ["linux/arm"]',
        3,
        "'linux/arm' is not a platform. Did you mean 'linux/arm64'? Known: linux/amd64, linux/arm64, macos/",
    ),
    "no platform for images": ('[environments.etl]\npython = "3.12"\nplatforms = []', 3, "one that images run on"),
    "a platform as text": (
        '[environments.etl]\npython = "3.12"\nplatforms = "linux/arm64"',
        3,
        "must be a list of platforms, such as",
    ),
    "packages as text": (
        '[environments.etl]\npython = "3.12"\npackages = "libpq5"',
        3,
        "must be a list of Debian packages",
    ),
    "a package with a shell line": (
        '[environments.etl]\npython = "3.12"\npackages = ["libpq5; reboot"]',
        3,
        "'libpq5; reboot' is not a Debian package's name",
    ),
    "an unknown spelling of a key": (
        '[environments.etl]\npython = "3.12"\nsystem_site_packages = true',
        1,
        "Unknown key 'system_site_packages' in [environments.etl]. Did you mean 'system-site-packages'?",
    ),
    "a flag that is none": (
        '[environments.etl]\npython = "3.12"\nsystem-site-packages = "yes"',
        3,
        "`system-site-packages` of [environments.etl]: must be true or false, not 'yes'",
    ),
    "two interpreters": (
        '[environments.etl]\npython = "3.12"\ninterpreter = "/x"\nsystem-site-packages = true',
        4,
        "has no meaning with `interpreter`, which is used as it is. Leave one of them out",
    ),
    "an unknown backend": (
        'backend = "locl"',
        1,
        "Unknown backend 'locl'. Did you mean 'local'? Known: kubernetes, docker",
    ),
    "a registry with a scheme": ('registry = "https://registry.example.com"', 1, "without https:// and without a tag"),
    "a registry of another type": ("registry = 5", 1, "`registry` of the project: must be text"),
    "a base that is no image": (
        '[environments.etl]\npython = "3.12"\nbase = "python 3.12"',
        3,
        "`base` of [environments.etl]: 'python 3.12' is not the name of an image, such as python:3.12-slim",
    ),
    "a folder of requirements": (
        '[environments.etl]\npython = "3.12"\nrequirements = "."',
        3,
        "The requirements file '.' of environment 'etl' is a folder.",
    ),
    "a key of a newer version": (
        "colour = 1",
        1,
        "Unknown key 'colour' in the project. Does a newer k8s-venv know it?",
    ),
    "a conflict of a merge": (
        'backend = "local"\n<<<<<<< HEAD\n=======\n>>>>>>> theirs',
        2,
        "A conflict of a merge is left in this file. Resolve it.",
    ),
    "a key twice": (
        'backend = "local"\nbackend = "docker"',
        None,
        "This file is not valid TOML: Cannot overwrite a value",
    ),
    "an environment twice": (
        '[environments.etl]\npython = "3.12"\n[environments.etl]\npython = "3.11"',
        None,
        "This file is not valid TOML: Cannot declare",
    ),
    "nesting without end": (f"x = {'[' * 9999}", None, "This file is nested too deeply."),
    "a NUL": ('backend = "loc\0al"', None, "This file is not valid TOML: "),
    "broken TOML": ('[environments.etl]\npython = "3.12\n', 2, "This file is not valid TOML: "),
}


@pytest.mark.parametrize(("text", "line", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_with_its_line(
    write_project: ProjectWriter, text: str, line: int | None, sentence: str
) -> None:
    file = "pyproject.toml" if "[tool." in text else "k8s-venv.toml"

    with pytest.raises(ProjectError) as raised:
        write_project(text, file=file)

    assert sentence in str(raised.value)
    assert raised.value.line == line or line is None
    assert str(raised.value).startswith(str(raised.value.path))


def test_an_unknown_backend_gets_the_nearest_name_and_where_it_was_said(
    write_project: ProjectWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K8S_VENV_BACKEND", "kubernets")

    with pytest.raises(K8sVenvError, match=r"^K8S_VENV_BACKEND: .* 'kubernets'\. Did you mean 'kubernetes'\?"):
        choose_backend(None, write_project(""))


def test_nothing_but_a_choice_leads_away_from_kubernetes(
    write_project: ProjectWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, local = write_project(""), write_project('backend = "local"', file="local.toml")

    assert choose_backend(None, plain) == "kubernetes"
    assert choose_backend(None, local) == "local"
    assert choose_backend(None, local, "kubernetes") == "kubernetes"
    assert choose_backend("local", plain, "kubernetes") == "local"
    monkeypatch.setenv("K8S_VENV_BACKEND", "kubernetes")
    assert choose_backend(None, local, "local") == "kubernetes"


def test_a_missing_requirements_file_gets_the_nearest_name(write_project: ProjectWriter) -> None:
    text = '[environments.etl]\npython = "3.12"\nrequirements = "requirments.txt"'

    with pytest.raises(ProjectError, match=r"Did you mean 'requirements\.txt'\?"):
        write_project(text, requirements_txt="")


@pytest.mark.parametrize(("mark", "end"), [(b"\xef\xbb\xbf", b"\n"), (b"", b"\r\n")])
def test_a_file_from_windows_is_read(tmp_path: Path, mark: bytes, end: bytes) -> None:
    path = tmp_path / "k8s-venv.toml"
    path.write_bytes(mark + end.join([b"[environments.etl]", b'python = "3.12"', b""]))

    assert list(load_project(path).environments) == ["etl"]


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "k8s-venv.toml"
    path.write_bytes('# Größe\nregistry = "x"'.encode("latin-1"))

    with pytest.raises(ProjectError, match=r"k8s-venv\.toml: This file is not UTF-8 text"):
        load_project(path)


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError, match=r"This file cannot be read: "):
        load_project(tmp_path / name)


@pytest.mark.parametrize("text", ["", "tool = 5", "[tool]\nk8s-venv = 5"])
def test_a_pyproject_toml_without_our_table_is_no_project(write_project: ProjectWriter, text: str) -> None:
    with pytest.raises(ProjectError, match=r"This file has no table \[tool\.k8s-venv\]"):
        write_project(text, file="pyproject.toml")


@given(name=st.text(max_size=70))
def test_whatever_is_an_environments_name_is_one_for_files_images_and_labels(name: str) -> None:
    if NAME.fullmatch(name):
        assert 0 < len(name) <= 63
        assert name.isascii()
        assert name[0].isalnum()
        assert name[-1].isalnum()
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-_")


_KEYS = ["python", "requirements", "constraints", "platforms", "packages", "base", "pod", "name"]
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab.[]{}= \n\"'#", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["python", "x", "pod"]), inner),
    max_leaves=6,
)


@given(table=st.dictionaries(st.sampled_from(_KEYS), _VALUES))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_stands_in_an_environment_it_is_read_or_refused_in_one_sentence(
    write_project: ProjectWriter, table: dict[str, object]
) -> None:
    text = "[environments.etl]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())

    try:
        said = f"{write_project(text).environment('etl').python}."
    except ProjectError as error:
        said = str(error)

    assert said.endswith((".", "?"))


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return str(value).lower().replace("none", '"none"')
