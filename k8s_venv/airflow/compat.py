"""Every difference between Airflow's versions that we support; today there is one line of them, 3.3."""

from __future__ import annotations

from airflow.sdk import BaseHook, BaseOperator
from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException

__all__ = [
    "KNOWN_CONTEXT_KEYS",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSkipException",
    "BaseHook",
    "BaseOperator",
    "Context",
    "DecoratedOperator",
    "TaskDecorator",
    "conf",
    "task_decorator_factory",
]
