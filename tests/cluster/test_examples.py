"""The examples on a real cluster, from images that `k8s-venv build-images` made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.conftest import RunFile


def test_conflicting_requests(examples: Path, run_file: RunFile) -> None:
    state, tasks = run_file(examples / "dags" / "conflicting_requests.py")

    assert state == "success"
    assert tasks["old"].value == "2.25.1"
    assert tasks["new"].value > "2.25.1"


def test_clean_and_train_by_reference(examples: Path, run_file: RunFile) -> None:
    state, tasks = run_file(examples / "dags" / "clean_and_train.py")

    assert state == "success"
    assert tasks["train"].value > 0.99


def test_snowpark_frame_crosses_from_python_3_8(
    examples: Path, run_file: RunFile, capfd: pytest.CaptureFixture[str]
) -> None:
    state, tasks = run_file(examples / "dags" / "snowpark.py")

    assert state == "success"
    frame = tasks["products"].value
    assert frame.to_dict("list") == {
        "ID": [1, 2, 3, 4],
        "PARENT_ID": [0, 1, 1, 0],
        "CATEGORY_ID": [5, 5, 5, 10],
        "NAME": ["Product 1", "Product 1A", "Product 1B", "Product 2"],
    }
    printed = capfd.readouterr().out
    assert "Snowpark runs on Python 3.8" in printed
    assert "Airflow runs on Python 3.1" in printed
    assert "Product 1A" in printed
