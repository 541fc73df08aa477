"""Run a call as one pod: render the pod, watch it, read its result.

It needs the ``kubernetes`` client and nothing of Airflow.
"""
