"""Large values between tasks, through a folder that pods and workers share."""

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, task
from kubernetes.client import models as k8s

from k8s_venv import runtime

FOLDER = os.environ.get("TEST_FOLDER", "/nowhere")
CLAIM = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=Path(FOLDER).name)
SHARED = {
    "values": {"location": FOLDER, "exec": False, "status": False},
    "volumes": [k8s.V1Volume(name="values", persistent_volume_claim=CLAIM)],
    "volume_mounts": [k8s.V1VolumeMount(name="values", mount_path=FOLDER)],
}

for dag_id, deferrable in (("bulk", False), ("bulk_deferred", True)):
    with DAG(dag_id, schedule=None):

        @task.isolated("current", deferrable=deferrable, result="reference", **SHARED)
        def rows():
            import pandas

            return pandas.DataFrame({"n": range(300_000)})

        @task.isolated("current", deferrable=deferrable, **SHARED)
        def text(frame, letters):
            return letters[: len(frame)]

        @task
        def letters():
            return "0123456789" * 200_000

        @task
        def size(text):
            return len(text)

        size(text(rows(), letters()))

for dag_id, deferrable in (("bulk_late", False), ("bulk_late_deferred", True)):
    with DAG(dag_id, schedule=None):

        @task
        def many_letters():
            return "0123456789" * 200_000

        @task.isolated(
            "current",
            deferrable=deferrable,
            execution_timeout=timedelta(seconds=int(os.environ.get("TEST_SECONDS", "10"))),
            connections=["warehouse"],
            **SHARED,
        )
        def never_ends(letters):
            import subprocess
            import time

            password = runtime.get_connection("warehouse").password
            subprocess.run(["echo", f"{len(letters):,} letters for {password}"], check=True)
            time.sleep(200)

        never_ends(many_letters())
