"""How long the parts of a call may take, and which refusals of the Kubernetes API are retried."""

from __future__ import annotations

# The seconds after which the cluster ends a pod whose task names no limit. A sender that dies between creating the pod
# and its Secret leaves a pod that waits: never longer than this. URLs signed for a bucket live as long.
POD_DEADLINE = 7 * 24 * 3600
# The seconds that a pod has beyond its task's `execution_timeout`: Airflow ends it before.
POD_DEADLINE_SLACK = 600
# The seconds between the request to end and the end of a process, and of a container that ends with its sender.
END_GRACE = 10
# The seconds that a node may take to be found for a pod, and then for the pod to run.
SCHEDULE_TIMEOUT = 120.0
STARTUP_TIMEOUT = 120.0

# A request to Kubernetes: seconds to connect, and to wait for an answer, for which admission webhooks may take 30.
REQUEST_TIMEOUT = (10, 60)
# Answers that pass: too many requests, and those of a server that starts, stops or is overloaded.
RETRIED_STATUSES = frozenset((429, 500, 502, 503, 504))
# The seconds for which a request is retried, and between two attempts.
RETRY_FOR = 60.0
RETRY_PAUSE = 1.0
