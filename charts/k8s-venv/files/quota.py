"""What resource quotas leave for warm pods, as pure functions (Python 3.8+, standard library)."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterable, List, Optional, Tuple

# In thousandths of a resource's unit, so that sums are exact.
Amounts = Dict[str, int]

_QUANTITY = re.compile(r"([0-9.]+(?:[eE][-+]?[0-9]+)?)(n|u|m|k|[KMGTPE]i?)?")
_DECIMAL = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_UNITS = {"": 1.0, **_DECIMAL, **{f"{name}i": 1024.0**power for power, name in enumerate("KMGTPE", 1)}}
# A quota names these with or without `requests.`.
_PLAIN = ("cpu", "memory", "ephemeral-storage")
# Waiting pods have no deadline, and their result container always has requests.
_FOREIGN_SCOPES = {"Terminating", "BestEffort"}


def thousandths(quantity: object) -> int:
    """Return a quantity, such as ``100m`` or ``2Gi``, in thousandths of its unit.

    Args:
        quantity: as it stands in a manifest.

    Raises:
        ValueError: it is not a quantity.
    """
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} is not a quantity of Kubernetes.")
    return round(float(found[1]) * _UNITS[found[2] or ""] * 1000)


def needs(spec: Dict[str, Any]) -> Amounts:
    """Return what a pod takes of quotas, by the names that quotas use.

    Init containers count as if they ran beside the others: rather too much than too little.

    Args:
        spec: the pod's.
    """
    total: Amounts = {"pods": 1000, "count/pods": 1000}
    for container in [*spec["containers"], *spec.get("initContainers", ())]:
        resources = container.get("resources") or {}
        limits = resources.get("limits") or {}
        requests = {**limits, **(resources.get("requests") or {})}
        named = [(f"limits.{name}", size) for name, size in limits.items()]
        named += [(f"requests.{name}", size) for name, size in requests.items()]
        named += [(name, size) for name, size in requests.items() if name in _PLAIN]
        for name, size in named:
            total[name] = total.get(name, 0) + thousandths(size)
    return total


class Room:
    """What the quotas of a namespace leave: a tenth, and one more pod, always stay free for tasks.

    Args:
        quotas: the namespace's ResourceQuotas.
    """

    def __init__(self, quotas: Iterable[Dict[str, Any]]) -> None:
        self._quotas: List[Tuple[Dict[str, Any], Amounts, Amounts]] = []
        for quota in quotas:
            status = quota.get("status") or {}
            hard = status.get("hard") or quota["spec"].get("hard") or {}
            self._quotas.append((quota, _amounts(hard), _amounts(status.get("used") or {})))

    def take(self, wanted: Amounts, priority_class: str = "") -> Optional[str]:
        """Take room for one pod; return why there is not enough, or None.

        Args:
            wanted: what the pod needs.
            priority_class: that of the pod.
        """
        applying = [each for each in self._quotas if _applies(each[0], priority_class)]
        for quota, hard, used in applying:
            for name, need in wanted.items():
                if need and name in hard and used.get(name, 0) + need + max(need, hard[name] // 10) > hard[name]:
                    free = f"{_shown(used.get(name, 0))} of {_shown(hard[name])} {name} are used"
                    return f"the quota {quota['metadata']['name']!r} has no room for more, since {free}"
        for _, _, used in applying:
            for name, need in wanted.items():
                used[name] = used.get(name, 0) + need
        return None


def _amounts(quantities: Dict[str, Any]) -> Amounts:
    return {name: thousandths(size) for name, size in quantities.items()}


def _shown(size: int) -> str:
    return f"{size / 1000:,.12g}"


def _applies(quota: Dict[str, Any], priority_class: str) -> bool:
    """Return whether a quota counts a waiting pod; one whose scope is not understood does."""
    spec = quota["spec"]
    if _FOREIGN_SCOPES & set(spec.get("scopes") or ()):
        return False
    for rule in (spec.get("scopeSelector") or {}).get("matchExpressions", ()):
        scope, operator = rule["scopeName"], rule["operator"]
        if scope in _FOREIGN_SCOPES:
            return False
        named = priority_class in rule.get("values", ())
        chosen = {"In": named, "NotIn": not named, "Exists": bool(priority_class), "DoesNotExist": not priority_class}
        if scope == "PriorityClass" and not chosen.get(operator, True):
            return False
    return True
