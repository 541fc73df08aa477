"""Amounts of memory and CPU."""

from __future__ import annotations

import pytest

from k8s_venv.backends.pod_options import amount, check_resources
from k8s_venv.errors import K8sVenvError


@pytest.mark.parametrize(
    ("quantity", "meant"),
    [("500m", 0.5), ("2", 2), (2, 2), (".5", 0.5), ("1k", 1000), ("2Gi", 2 * 2**30), ("1.5G", 1.5e9), ("1e3", 1000)],
)
def test_a_quantity_of_kubernetes_is_understood(quantity: object, meant: float) -> None:
    assert amount(quantity) == pytest.approx(meant)


@pytest.mark.parametrize("quantity", ["1 GB", "1GB", "2gi", "", "lots", "1.2.3", "1e", None])
def test_what_kubernetes_cannot_read_is_refused_with_its_place(quantity: object) -> None:
    with pytest.raises(K8sVenvError, match=r"^Task 'load': .* is not a quantity, such as 500m or 2Gi\.$"):
        check_resources({"requests": {"memory": quantity}}, "Task 'load'")


def test_what_a_template_fills_in_is_left_to_it() -> None:
    check_resources({"limits": {"memory": "{{ var.value.memory }}"}}, "Task 'load'")
    check_resources("{{ resources }}", "Task 'load'")
