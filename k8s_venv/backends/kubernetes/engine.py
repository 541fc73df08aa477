"""Run one call as one pod: create it, watch it, bring its result back, clean up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from k8s_venv.backends.kubernetes import diagnose, render, takeover, watch
from k8s_venv.backends.kubernetes.logs import LogFollower
from k8s_venv.backends.kubernetes.patience import is_conflict, patiently
from k8s_venv.backends.kubernetes.payload import Parcels, PodPayload
from k8s_venv.backends.kubernetes.stages import End, Judge, Timeouts, phases
from k8s_venv.calls import PackedCall, Result, parse_document
from k8s_venv.errors import BackendError
from k8s_venv.runner import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

Keep = Literal["delete_pod", "keep_pod", "delete_succeeded_pod", "delete_active_pod"]
# How long a pod that is being removed may take for it, beyond its own grace period, in seconds.
_LEAVING = 90.0
_LAST_LINES = 50


class PodRun:
    """One call in one pod.

    Args:
        client: a ``CoreV1Api``.
        pod: the pod to create, rendered whole; of one that is there already, its name and namespace are enough.
        call: the call that it runs.
        log: is called with each line that the task prints.
        say: is called with what happens to the pod.
        timeouts: how long it may take to start.
        follow_logs: whether the log is read at all.
    """

    def __init__(
        self,
        client: Any,
        pod: k8s.V1Pod,
        call: PackedCall,
        log: Callable[[str], None],
        say: Callable[[str], None],
        timeouts: Timeouts | None = None,
        *,
        follow_logs: bool = True,
    ) -> None:
        self._client = client
        self._request = pod
        self._call = call
        self._log = log
        self._say = say
        self._timeouts = timeouts or Timeouts()
        self._follow_logs = follow_logs
        self._first_name: str = pod.metadata.name
        self._name = self._first_name
        self._namespace: str = pod.metadata.namespace
        self._uid: str | None = pod.metadata.uid
        self._succeeded = False
        self._ended = False
        self._follower: LogFollower | None = None
        self._payload: PodPayload | None = None
        self.taken_over = False
        self.seen: dict[str, float] = {}

    # --- creating -----------------------------------------------------------------------------------------

    def create(self) -> k8s.V1Pod:
        """Create the pod, then the Secret that it waits for.

        A pod of the same name is this very task's, left by a worker that died. While it runs, or holds a result that
        nobody has read, it is taken over, so that a task never runs twice at once and no result is lost.

        Returns:
            The pod.

        Raises:
            BackendError: Kubernetes refused one of them; then neither is left.
            CallError: the call is larger than a Secret.
        """
        if self._payload is not None:
            self._payload.close()  # that of a pod which is gone
        parcels = Parcels(self._call, self._request)
        self.seen = {"created": time.time()}
        try:
            pod = self._create_or_take_over()
        except BaseException:
            parcels.withdraw()
            raise
        self._uid = pod.metadata.uid
        self._payload = PodPayload(self._client, pod, self._call, self._log)
        if self.taken_over and takeover.has_started(pod):
            parcels.withdraw()  # it has its own
            return pod
        try:
            made = [self._create_secret(secret) for secret in parcels.secrets(pod)]
        except BaseException:
            self._delete()
            parcels.withdraw()
            raise
        if self.taken_over and any(made) and not all(made):  # parts of two tries make no call
            self._say(f"The worker before died while it made the Secrets of pod {self._name}: starting anew.")
            self._delete()
            self._await_removal(pod)
            return self.create()
        return pod

    def _create_secret(self, secret: k8s.V1Secret) -> bool:
        """Create a Secret; one that exists was made by the worker whose pod this is, since its name is used once."""
        try:
            self._ask(lambda: self._client.create_namespaced_secret(self._namespace, secret), "secret")
        except _ExistsError:
            return False
        return True

    def _create_or_take_over(self) -> Any:
        number = 1
        attempt = (self._request.metadata.labels or {}).get(takeover.TRY)
        while True:
            self._name = self._request.metadata.name = self._first_name + (f"-{number}" if number > 1 else "")
            self.taken_over = False
            try:
                return self._ask(lambda: self._client.create_namespaced_pod(self._namespace, self._request), "pod")
            except _ExistsError:
                pass
            found = self._present()
            if found is None:
                continue
            fate = takeover.fate(found, attempt)
            if fate is takeover.Fate.CHECKED:
                number += 1
                continue
            if fate is takeover.Fate.TAKEN:
                if render.secret_names(found) == render.secret_names(self._request):
                    return found  # made by this very worker, whom the API server's answer did not reach
                self.taken_over = True
                earlier = (found.metadata.labels or {}).get(takeover.TRY, "an earlier one")
                self._say(f"Taking over pod {self._namespace}/{self._name} of try {earlier}: it is still there.")
                return found
            self._say(f"Pod {self._namespace}/{self._name} of an earlier try is there: {fate.value}.")
            if fate is takeover.Fate.FAILED:
                self._uid = found.metadata.uid
                self._delete()
            self._await_removal(found)

    def _present(self) -> Any:
        try:
            return self._ask(lambda: self._client.read_namespaced_pod(self._name, self._namespace), "look at the pod")
        except _GoneError:
            return None

    def _await_removal(self, pod: Any) -> None:
        deadline = time.monotonic() + (pod.metadata.deletion_grace_period_seconds or 30) + _LEAVING
        events = watch.pod_events(
            self._client, self._namespace, self._name, lambda: deadline - time.monotonic(), self._say
        )
        for kind, state in events:
            if kind == watch.DELETED or state.metadata.uid != pod.metadata.uid:
                return
            if time.monotonic() > deadline:
                raise BackendError(
                    self._call.environment.name,
                    f"the pod {self._name} of an earlier try is still being removed, and a task never runs twice at "
                    "once. Is its node gone?",
                )

    # --- waiting ------------------------------------------------------------------------------------------

    def wait(self) -> Result:
        """Wait until the call has ended and return its result.

        Raises:
            BackendError: it could not start, or ended without a result.
        """
        end = self._watch()
        while self.must_start_anew(end):
            self.create()
            end = self._watch()
        return self.collect(end)

    def must_start_anew(self, end: End) -> bool:
        """Say whether the pod was one of an earlier try, and was removed because that try was."""
        return end.why == "deleted" and self.taken_over and not diagnose.message(end.pod)

    def collect(self, end: End) -> Result:
        """Return the result of a call that has ended.

        Args:
            end: how it ended.

        Raises:
            BackendError: it could not start, or ended without a result.
        """
        environment, function = self._call.environment, self._call.function
        self._ended = end.why in ("ended", "deleted")
        if end.pod is not None:
            self._payload = PodPayload(self._client, end.pod, self._call, self._log)
        if end.why == "stuck":
            raise diagnose.startup_failure(end.pod, environment)
        if end.why == "late":
            raise diagnose.startup_timeout(end.pod, environment, end.allowed, self._last_warning())
        complete = self._finish_log()
        text = diagnose.message(end.pod)
        if not text:
            state = diagnose.container_state(end.pod) if end.pod is not None else None
            if end.why == "deleted" and not (state and state.terminated) and not diagnose.disruption(end.pod):
                raise diagnose.gone(environment, function)
            self._show_evidence(end.pod)
            raise diagnose.death(end.pod, environment, function)
        document = parse_document(text, environment.name)
        if document.outcome == protocol.FAILURE and diagnose.was_ended(end.pod):
            # What the function said when it was ended from outside is not why it ended.
            raise diagnose.death(end.pod, environment, function)
        if end.why == "deleted" and document.inline is None and not document.stored:
            raise diagnose.gone(environment, function, f"Its result ({document.size:,} bytes) went with it.")
        if not complete:
            self._say(f"The log of pod {self._name} could not be read to its end.")
        assert self._payload is not None  # noqa: S101 -- the pod has said how it ended
        result = self._payload.fetch(document)
        self._say(phases(end.seen, document.timings))
        self._succeeded = document.outcome in (protocol.VALUE, protocol.SKIP)
        return result

    def finish(self, action: Keep) -> None:
        """Remove what is not wanted any more.

        Args:
            action: ``KubernetesPodOperator``'s ``on_finish_action``.
        """
        if self._follower is not None:
            self._follower.stop()
        if self._payload is not None:
            self._payload.close()
        wanted = {
            "delete_pod": True,
            "delete_succeeded_pod": self._succeeded,
            "delete_active_pod": not self._ended,
            "keep_pod": False,
        }
        if wanted[action]:
            self._delete()
            return
        self._mark_checked()
        if self._payload is not None:
            self._payload.release()

    def _watch(self) -> End:
        judge = Judge(self._timeouts, self.seen)
        self._follower = LogFollower(self._client, self._namespace, self._name, render.BASE, self._log)
        uid = ""
        try:
            for kind, pod in watch.pod_events(self._client, self._namespace, self._name, judge.patience, self._say):
                uid = uid or (pod.metadata.uid if pod else "")
                replaced = pod is not None and pod.metadata.uid != uid
                end = judge.see(watch.DELETED, None) if replaced else judge.see(kind, pod)
                if end is not None:
                    return end
                if self._follow_logs and "running" in self.seen:
                    self._follower.start()
        except ApiException as error:
            raise self._refused(error, "watch on the pod") from None
        raise AssertionError("a watch never ends by itself")

    # --- reading ------------------------------------------------------------------------------------------

    def _finish_log(self) -> bool:
        if not self._follow_logs:
            return True
        if self._follower is None:
            self._follower = LogFollower(self._client, self._namespace, self._name, render.BASE, self._log)
        return self._follower.finish()

    def _show_evidence(self, pod: Any) -> None:
        """Log what the pod's end does not say itself: the last lines of what failed, where they are not logged yet."""
        failed = diagnose.failed_init_container(pod)
        container = failed.name if failed is not None else None if self._follow_logs else render.BASE
        if container is None:
            return
        try:
            text = self._client.read_namespaced_pod_log(
                self._name, self._namespace, container=container, tail_lines=_LAST_LINES, _preload_content=False
            ).data.decode("utf-8", "backslashreplace")
        except (ApiException, HTTPError, OSError):
            return
        for line in text.splitlines():
            self._log(line)

    def _last_warning(self) -> str:
        """Return what Kubernetes last complained about, if it may be asked."""
        try:
            events = self._client.list_namespaced_event(
                self._namespace, field_selector=f"involvedObject.name={self._name},type=Warning"
            ).items
        except (ApiException, HTTPError, OSError):
            return ""
        return f"{events[-1].reason}: {events[-1].message}" if events else ""

    # --- asking and cleaning up ---------------------------------------------------------------------------

    def _ask(self, ask: Callable[[], Any], what: str) -> Any:
        try:
            return patiently(ask, self._call.environment)
        except ApiException as error:
            if error.status == 409 and not is_conflict(error):
                raise _ExistsError from None
            if error.status == 404 and what.startswith("look"):
                raise _GoneError from None
            raise self._refused(error, what) from None

    def _delete(self) -> None:
        # Never a later try's pod, which has the same name.
        only = k8s.V1DeleteOptions(preconditions=k8s.V1Preconditions(uid=self._uid) if self._uid else None)

        def delete() -> None:
            try:
                self._client.delete_namespaced_pod(self._name, self._namespace, body=only)
            except ApiException as error:
                if error.status not in (404, 409):  # it is gone, or another one has its name
                    raise

        try:
            patiently(delete, self._call.environment)
        except (ApiException, BackendError) as error:
            self._say(f"The pod {self._name} could not be deleted: {getattr(error, 'reason', error)}")

    def _mark_checked(self) -> None:
        """Say on a kept pod that its result was read, so that no later try takes it over."""
        try:
            body = {"metadata": {"labels": {takeover.CHECKED: "True"}}}
            self._client.patch_namespaced_pod(self._name, self._namespace, body)
        except (ApiException, HTTPError, OSError) as error:
            if getattr(error, "status", None) != 404:
                reason = getattr(error, "reason", error)
                self._say(
                    f"The pod {self._name} is kept but could not be marked as read ({reason}); Airflow's account needs "
                    "the right to `patch` pods. A later try of this task would take its result."
                )

    def _refused(self, error: ApiException, what: str) -> BackendError:
        return diagnose.refused(error, self._call.environment, what, self._namespace)


class _ExistsError(Exception):
    """Something of that name is there already."""


class _GoneError(Exception):
    """Nothing of that name is there any more."""
