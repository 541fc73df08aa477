"""The objects of Airflow's context that travel, with the plain attributes that they have inside an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTEXT_OBJECTS: Mapping[str, tuple[str, ...]] = {
    "dag": ("dag_id", "description", "tags"),
    "dag_run": (
        *("dag_id", "run_id", "run_type", "conf", "logical_date", "run_after", "start_date"),
        *("data_interval_start", "data_interval_end"),
    ),
    "task": ("task_id", "owner", "retries"),
    "ti": ("dag_id", "task_id", "run_id", "try_number", "map_index", "max_tries"),
}
CONTEXT_ALIASES = {"task_instance": "ti"}
