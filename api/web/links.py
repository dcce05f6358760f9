"""Says what can be done with an answer, as OpenAPI links: for people who read the document, and for
tests that go from one request to the next.
"""

from __future__ import annotations

from typing import Any, Final

_BILLING: Final = "/api/v1/org-billing"
_OF_ORG: Final = {"org_id": "$response.body#/subscription/org_id"}
_SAME_ORG: Final = {"org_id": "$request.path.org_id"}

# What can be done with an answer: route -> name of a link -> (route, its parameters, its body).
LINKS: Final[dict[str, dict[str, tuple[str, dict[str, str], dict[str, str] | None]]]] = {
    f"POST {_BILLING}/subscriptions": {
        "subscription": (f"GET {_BILLING}/subscriptions/{{org_id}}", _OF_ORG, None),
        "upgrade": (f"PUT {_BILLING}/subscriptions/{{org_id}}/upgrade", _OF_ORG, None),
        "cancel": (f"DELETE {_BILLING}/subscriptions/{{org_id}}", _OF_ORG, None),
        "pool": (f"GET {_BILLING}/credits/{{org_id}}", _OF_ORG, None),
        "add_credits": (f"POST {_BILLING}/credits/{{org_id}}/add", _OF_ORG, None),
        "allocate": (
            f"POST {_BILLING}/credits/{{org_id}}/allocate",
            _OF_ORG,
            {"user_id": "$request.body#/user_id", "credits": "$request.body#/initial_credits"},
        ),
        "usage": (f"GET {_BILLING}/credits/{{org_id}}/usage", _OF_ORG, None),
        "history": (f"GET {_BILLING}/{{org_id}}/history", _OF_ORG, None),
        "add_member": (f"POST {_BILLING}/orgs/{{org_id}}/members", _OF_ORG, None),
        "create_key": (f"POST {_BILLING}/orgs/{{org_id}}/keys", _OF_ORG, None),
    },
    f"POST {_BILLING}/orgs/{{org_id}}/members": {
        "remove": (
            f"DELETE {_BILLING}/orgs/{{org_id}}/members/{{user_id}}",
            {**_SAME_ORG, "user_id": "$response.body#/member/user_id"},
            None,
        ),
    },
    f"POST {_BILLING}/orgs/{{org_id}}/keys": {
        "revoke": (
            f"DELETE {_BILLING}/orgs/{{org_id}}/keys/{{key_id}}",
            {**_SAME_ORG, "key_id": "$response.body#/api_key/key_id"},
            None,
        ),
    },
    f"POST {_BILLING}/credits/{{org_id}}/allocate": {
        "deallocate": (
            f"POST {_BILLING}/credits/{{org_id}}/deallocate",
            _SAME_ORG,
            {
                "user_id": "$response.body#/allocation/user_id",
                "credits": "$response.body#/allocation/remaining_credits",
            },
        ),
        "allocations": (f"GET {_BILLING}/credits/{{org_id}}/allocations", _SAME_ORG, None),
    },
}


def add_links(document: dict[str, Any], operation: dict[str, Any], route: str) -> None:
    """Add the links of `route` (`METHOD path`) to its operation, in place."""
    for name, (target, parameters, body) in LINKS.get(route, {}).items():
        method, _, path = target.partition(" ")
        link: dict[str, Any] = {
            "operationId": document["paths"][path][method.lower()]["operationId"],
            "parameters": parameters,
        }
        if body is not None:
            link["requestBody"] = body
        operation["responses"]["200"].setdefault("links", {})[name] = link
