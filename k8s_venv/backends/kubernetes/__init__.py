"""The one pod engine: render a call's pod, watch it, read its result.

It needs the ``kubernetes`` client and nothing of Airflow.
"""
