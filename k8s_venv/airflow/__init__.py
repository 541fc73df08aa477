"""The Airflow provider: ``@task.isolated``, ``IsolatedOperator`` and what they run on.

This is the only package that imports Airflow, and only at execution does it import the Kubernetes provider.
"""
