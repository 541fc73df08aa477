"""Written without k8s-venv in mind: imports, constants and helpers at module level, code beside the DAG."""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from airflow.sdk import dag, task
from shared_code import discounted

log = logging.getLogger(__name__)
SIZES = {"small": 1, "large": 3}
SIZES["medium"] = 2
PATTERN = re.compile(r"(\w+)-(\d+)")
START = datetime(2026, 1, 1)


def parse(code: str) -> tuple[str, int]:
    match = PATTERN.fullmatch(code)
    if match is None:
        raise ValueError(f"not an order: {code!r}")
    return match[1], int(match[2])


def weight(code: str) -> int:
    size, count = parse(code)
    return SIZES[size] * count


def summary(frame: pd.DataFrame, factor: float = 1.5) -> dict[str, object]:
    log.info("summing on %s", sys.version.split()[0])
    return {
        "python": ".".join(str(part) for part in sys.version_info[:2]),
        "weights": [weight(code) for code in frame["order"]],
        "sizes": dict(Counter(parse(code)[0] for code in frame["order"])),
        "last": START + timedelta(days=int(frame["day"].max())),
        "scaled": (np.asarray(frame["day"]) * factor).tolist(),
        "price": discounted(100, "gold"),
        "frame": frame.assign(weight=frame["order"].map(weight)),
    }


@dag(schedule=None, params={"factor": 2.0})
def orders():
    prefix = "order "

    def label(text: str) -> str:
        return prefix + text

    @task
    def make() -> pd.DataFrame:
        return pd.DataFrame({"order": ["small-2", "large-1", "medium-5"], "day": [1, 2, 3]})

    @task.isolated("legacy")
    def on_legacy(frame, params=None, ds=None, ti=None):
        return {**summary(frame, params["factor"]), "label": label("old"), "ds": ds, "task": ti.task_id}

    @task.isolated("current")
    def on_current(frame, params=None, ds=None, ti=None):
        return {**summary(frame, params["factor"]), "label": label("new"), "ds": ds, "task": ti.task_id}

    @task.isolated("legacy")
    def broken_on_legacy():
        return weight("huge")

    @task.isolated("current")
    def broken_on_current():
        return weight("huge")

    frame = make()
    on_legacy(frame)
    on_current(frame)
    broken_on_legacy()
    broken_on_current()


orders()
