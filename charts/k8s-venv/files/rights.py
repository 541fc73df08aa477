"""Ask the API server whether Airflow's accounts may do what isolated tasks need (Python 3.8+, standard library)."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, Iterator, List, NamedTuple

from api import FAILURES, Api


class Right(NamedTuple):
    """One thing that an account may do.

    Args:
        group: the API group.
        resource: the resource, with its subresource after a slash.
        verb: what is done with it.
    """

    group: str
    resource: str
    verb: str


def main() -> int:
    """Check every right of every account in the pod's own namespace.

    Returns:
        The process's exit code: 0 when none is missing.
    """
    accounts = json.loads(os.environ["K8S_VENV_ACCOUNTS"])
    rights = list(expand(json.loads(os.environ["K8S_VENV_RULES"])))
    api = Api()
    missing = 0
    try:
        for account in accounts:
            name = f"{account['namespace']}/{account['name']}"
            refused = [right for right in rights if not _may(api, account, right)]
            for right in refused:
                print(f"{name} may not {right.verb} {right.resource} in {api.namespace}.")
            if not refused:
                print(f"{name} may do what isolated tasks need in {api.namespace}.")
            if _may(api, account, Right("", "secrets", "get")):
                print(f"{name} may also read Secrets in {api.namespace}, which k8s-venv never needs.")
            missing += len(refused)
    except FAILURES as error:
        print(f"The API server could not be asked: {error}")
        return 1
    return 1 if missing else 0


def expand(rules: List[Dict[str, Any]]) -> Iterator[Right]:
    """Yield the single rights of a Role's rules.

    Args:
        rules: as they stand in the Role.
    """
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield Right(group, resource, verb)


def _may(api: Api, account: Dict[str, str], right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {"namespace": api.namespace, "group": right.group, "resource": resource, "verb": right.verb}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "LocalSubjectAccessReview",
        "metadata": {"namespace": api.namespace},
        "spec": {
            "user": f"system:serviceaccount:{account['namespace']}:{account['name']}",
            "groups": [
                "system:serviceaccounts",
                f"system:serviceaccounts:{account['namespace']}",
                "system:authenticated",
            ],
            "resourceAttributes": {**attributes, "subresource": subresource},
        },
    }
    path = f"/apis/authorization.k8s.io/v1/namespaces/{api.namespace}/localsubjectaccessreviews"
    return bool(api.request("POST", path, review)["status"]["allowed"])


if __name__ == "__main__":
    sys.exit(main())
