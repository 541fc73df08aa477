"""What the triggerer loads for a deferred task: next to nothing.

The Kubernetes provider and its client take seconds to import, in which the triggerer's one event loop would serve no
other trigger. So they are imported in a thread, and do the waiting: see ``pod_wait``.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from k8s_venv.airflow.pod_wait import PodWait


class IsolatedPodTrigger(BaseTrigger):
    """Fire when a pod has ended, is gone, or cannot start, with the reason.

    Args:
        options: those of ``PodWait``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._options = options
        self._wait: PodWait | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments of this trigger."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self._options

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait until the pod has ended, and fire."""
        wait = await self._imported()
        async for event in wait.run():
            yield event

    async def on_kill(self) -> None:
        """Remove the pod of a task that somebody cleared or marked while it was deferred."""
        await (await self._imported()).on_kill()

    async def cleanup(self) -> None:
        """Remove the pod of a task that was killed while it was deferred, or whose time is over."""
        await (await self._imported()).cleanup()

    async def _imported(self) -> PodWait:
        if self._wait is None:
            module: Any = await asyncio.to_thread(importlib.import_module, "k8s_venv.airflow.pod_wait")
            if self._wait is None:  # no other coroutine made it meanwhile
                self._wait = module.PodWait(**self._options)
                self._wait.task_instance = self.task_instance
        assert self._wait is not None  # noqa: S101 -- it was just made
        return self._wait
