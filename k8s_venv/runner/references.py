"""A value that is handed on still encoded: it is decoded by the environment that takes it."""

from __future__ import annotations

from typing import NamedTuple

from k8s_venv.runner.values import loads, register


class Reference(NamedTuple):
    """An encoded value among a call's arguments; the function receives the value itself.

    Args:
        payload: what ``values.dumps`` wrote.
    """

    payload: bytes


register(Reference, "reference", lambda reference: reference.payload, loads)
