"""What a task asks of Airflow and does not get in its environment, with the option that delivers it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from k8s_venv.check.airflow_uses import Kind, Use, uses_of_airflow
from k8s_venv.wire.protocol import AIRFLOW_SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from k8s_venv.calls.capturing import Captured

_KINDS: tuple[Kind, Kind] = ("connection", "variable")
# Pod options that may bring environment variables of which nothing is known here.
_HIDE_VARIABLES = {"configmaps", "env_from", "full_pod_spec", "pod_template_dict", "pod_template_file", "secrets"}


@dataclasses.dataclass(frozen=True)
class Declared:
    """What a task names of what it needs.

    Args:
        names: the connections and variables that it names, by option, such as ``optional_variables``.
        pod: its pod options, with those of its environment.
        keywords: the names of its keyword arguments, as far as they are known.
    """

    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    pod: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keywords: frozenset[str] = frozenset()

    def brings(self, use: Use) -> bool:
        """Return whether a connection or variable is there when the task runs, as far as that can be known.

        Args:
            use: where it is asked for.
        """
        if any(use.name in self.names.get(f"{prefix}{use.kind}s", ()) for prefix in ("", "optional_")):
            return True
        variable = f"AIRFLOW_{'CONN' if use.kind == 'connection' else 'VAR'}_{use.name.upper()}"
        return use.by_airflow and (self.has_own_airflow or variable in self._variables)

    @property
    def has_own_airflow(self) -> bool:
        """Return whether the environment may reach a secrets backend, or Airflow's database, by itself."""
        return bool(self.pod.keys() & _HIDE_VARIABLES) or bool(self._variables & set(AIRFLOW_SOURCES))

    @property
    def _variables(self) -> set[str]:
        given = self.pod.get("env_vars") or ()
        if hasattr(given, "keys"):
            return set(given)
        return {str(each.get("name") if hasattr(each, "get") else getattr(each, "name", "")) for each in given}


def undelivered(captured: Captured, declared: Declared) -> Iterator[tuple[Use, str]]:
    """Yield what of Airflow a task's source asks for and does not get, each with a sentence.

    Args:
        captured: what travels.
        declared: what the task says.
    """
    uses = uses_of_airflow(captured, declared.keywords)
    for kind in _KINDS:
        yield from _not_named(kind, [use for use in uses if use.kind == kind and not declared.brings(use)], declared)
    for use in uses:
        if use.kind == "refused" and not (use.name.startswith("Variable.") and declared.has_own_airflow):
            yield use, f"asks for {use.name}, which needs Airflow itself. {use.instead}"


def _not_named(kind: Kind, uses: list[Use], declared: Declared) -> Iterator[tuple[Use, str]]:
    required = {use.name for use in uses if not use.optional}
    optional = {use.name for use in uses} - required
    for use in uses:
        option, lacking = (f"{kind}s", required) if use.name in required else (f"optional_{kind}s", optional)
        names = list(dict.fromkeys((*declared.names.get(option, ()), *sorted(lacking))))
        yield (
            use,
            f"uses the {kind} {use.name!r}, which the task does not name, so it does not arrive. Give the task "
            f"{option}={json.dumps(names, ensure_ascii=False)}.",
        )
