"""Amounts of memory and CPU, as Kubernetes writes them.

DAG files are checked with this as they load, which is too often to import the Kubernetes client and its parser.
See the `specification of quantities
<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>`_.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from k8s_venv.errors import K8sVenvError

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_QUANTITY = re.compile(rf"({_NUMBER})(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?")
_FACTORS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_FACTORS |= {f"{letter}i": 1024.0 ** (power + 1) for power, letter in enumerate("KMGTPE")}


def amount(quantity: object) -> float:
    """Return what a quantity stands for.

    Args:
        quantity: such as ``500m`` or ``2Gi``.

    Raises:
        ValueError: it is not a quantity.
    """
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} in `container_resources` is not a quantity, such as 500m or 2Gi.")
    return float(found[1]) * (10.0 ** int(found[3]) if found[3] else _FACTORS.get(found[2], 1.0))


def amounts(given: Any, kind: str) -> Mapping[str, Any]:
    """Return a container's limits or requests.

    Args:
        given: the option ``container_resources``, in either of the ways to write it.
        kind: ``limits`` or ``requests``.
    """
    found = given.get(kind) if hasattr(given, "get") else getattr(given, kind, None)
    return found if isinstance(found, Mapping) else {}


def check_resources(given: Any, where: str) -> None:
    """Refuse amounts that Kubernetes cannot read.

    Args:
        given: the option ``container_resources``; what a template will fill in is left alone.
        where: whose it is, for messages.

    Raises:
        K8sVenvError: one cannot be read.
    """
    for kind in ("limits", "requests"):
        for quantity in amounts(given, kind).values():
            try:
                if "{{" not in str(quantity) and "{%" not in str(quantity):
                    amount(quantity)
            except ValueError as error:
                raise K8sVenvError(f"{where}: {error}") from None
