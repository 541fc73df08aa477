"""Delete pods of isolated tasks that no worker cleaned up, never a running one (Python 3.8+, standard library).

A worker deletes its pod when the task ends. Pods stay when a worker was killed for good, or was told to keep them.
Their Secrets belong to them, so the cluster removes both.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import urllib.parse
from typing import TYPE_CHECKING, Any, Dict, Iterator, Optional

from api import FAILURES, Api, ApiError

if TYPE_CHECKING:
    from typing import List

_PAGE = 500


def main(arguments: Optional[List[str]] = None) -> int:
    """Clean up the pod's own namespace once.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        The process's exit code: 0 when everything that was to go is gone.
    """
    parser = argparse.ArgumentParser(description="Delete finished pods of isolated tasks.")
    parser.add_argument("--label", required=True, help="what selects the tasks' pods")
    parser.add_argument("--finished-after-hours", type=float, required=True, help="how long a finished pod is kept")
    parser.add_argument("--pending-after-hours", type=float, required=True, help="how long an unstarted pod is kept")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    options = parser.parse_args(arguments)
    try:
        return _clean(Api(), options)
    except FAILURES as error:
        print(f"The pods could not be listed: {error}", file=sys.stderr)
        return 1


def reason_to_delete(
    pod: Dict[str, Any], now: datetime.datetime, finished_hours: float, pending_hours: float
) -> Optional[str]:
    """Return why a pod is to go, or None while it has to stay.

    Args:
        pod: the pod, as the API server describes it.
        now: the present time.
        finished_hours: how long a pod stays after its end.
        pending_hours: how long one stays that never started.
    """
    status = pod.get("status", {})
    statuses = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    states = [container.get("state", {}) for container in statuses]
    if "deletionTimestamp" in pod["metadata"] or any("running" in state for state in states):
        return None
    created = pod["metadata"]["creationTimestamp"]
    if status.get("phase") == "Pending":
        hours = _hours(created, now)
        return f"has not started for {hours:.1f} h" if hours >= pending_hours else None
    if status.get("phase") not in ("Succeeded", "Failed"):
        return None
    ends = [state["terminated"].get("finishedAt") for state in states if "terminated" in state]
    # An evicted pod has no containers any more, but says when it last changed.
    ends += [condition.get("lastTransitionTime") for condition in status.get("conditions", ())]
    hours = _hours(max([end for end in ends if end] or [created]), now)
    return f"{status['phase'].lower()} {hours:.1f} h ago" if hours >= finished_hours else None


def _clean(api: Api, options: argparse.Namespace) -> int:
    now = datetime.datetime.now(datetime.timezone.utc)
    found, failed = 0, 0
    for pod in _pods(api, options.label):
        reason = reason_to_delete(pod, now, options.finished_after_hours, options.pending_after_hours)
        if reason is None:
            continue
        found += 1
        print("{} {}: it {}".format("Would delete" if options.dry_run else "Deleting", pod["metadata"]["name"], reason))
        if not options.dry_run and not _delete(api, pod):
            failed += 1
    print(f"{found} pods to delete, {failed} of them could not be.")
    return 1 if failed else 0


def _pods(api: Api, label: str) -> Iterator[Dict[str, Any]]:
    query = {"labelSelector": label, "limit": str(_PAGE)}
    while True:
        page = api.request("GET", f"/api/v1/namespaces/{api.namespace}/pods?{urllib.parse.urlencode(query)}")
        yield from page["items"]
        if not page["metadata"].get("continue"):
            return
        query["continue"] = page["metadata"]["continue"]


def _delete(api: Api, pod: Dict[str, Any]) -> bool:
    """Delete a pod as it was seen; one that changed meanwhile, or is gone, is left alone."""
    metadata = pod["metadata"]
    seen = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
    try:
        api.request("DELETE", f"/api/v1/namespaces/{api.namespace}/pods/{metadata['name']}", {"preconditions": seen})
    except ApiError as error:
        if error.status not in (404, 409):
            print(f"{metadata['name']} could not be deleted: {error}", file=sys.stderr)
            return False
    return True


def _hours(since: str, now: datetime.datetime) -> float:
    moment = datetime.datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    return (now - moment).total_seconds() / 3600


if __name__ == "__main__":
    sys.exit(main())
