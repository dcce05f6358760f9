"""Lists what the surfaces refuse besides the refusals of the meter (`refusals`): who asks, how a
request is made, and parts that are away. Both are one table: docs/errors.md is made of them.

Where a surface has better words for one case (which header, whose organisation), it says those with
the status and the code that stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from taximeter.meter.wire.refusals import FAMILY, Said

REFUSED: Final = "taximeter.refusal"
"""Where an ASGI application leaves in the scope of a request why it was refused, in the word of its
row in one of the two tables.
"""

HttpCause = Literal[
    "another_installation",
    "archive_away",
    "body_too_large",
    "body_too_slow",
    "busy",
    "database_away",
    "draining",
    "expiry_conflict",
    "identity_provider",
    "in_the_way",
    "internal",
    "invalid_field",
    "invitations_blocked",
    "last_admin",
    "makes_no_sense",
    "method_not_allowed",
    "model_not_found",
    "no_connection_free",
    "no_expiry",
    "no_subscription",
    "not_json",
    "not_there",
    "organization_deleted",
    "payment_provider",
    "permission_denied",
    "personal_organization",
    "prices_not_known",
    "rate_limited",
    "senseless_requests",
    "shutting_down",
    "subscription_canceled",
    "suspended",
    "too_many_invitations",
    "too_many_keys",
    "too_much_in_progress",
    "unauthorized",
    "unknown_request",
    "unpriced_model",
    "upstream_failed",
    "upstream_not_configured",
    "upstream_rate_limit",
    "upstream_refused",
    "upstream_resting",
    "upstream_silent",
    "requests_without_credentials",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRefusal:
    """A refusal on each surface, None on those that never meet it. `retry` says that the same
    request may succeed a little later; `why` is the reason for what differs between surfaces.
    """

    when: str
    retry: bool = False
    admin: Said | None = None
    llm: Said | None = None
    sidecar: Said | None = None
    gate: Said | None = None
    why: str = ""


def _everywhere(when: str, said: Said, *, retry: bool = False) -> HttpRefusal:
    return HttpRefusal(when=when, retry=retry, admin=said, llm=said, sidecar=said, gate=said)


def _of_api(when: str, said: Said, *, retry: bool = False) -> HttpRefusal:
    return HttpRefusal(when=when, retry=retry, admin=said, llm=said)


def _of_admin_api(when: str, said: Said, *, retry: bool = False) -> HttpRefusal:
    return HttpRefusal(when=when, retry=retry, admin=said)


def _of_llm_route(when: str, said: Said, *, retry: bool = False) -> HttpRefusal:
    return HttpRefusal(when=when, retry=retry, llm=said)


_NO_PATH: Final = "There is no such path; /openapi.json lists them all."
_DENIED: Final = Said(403, "PERMISSION_DENIED", "The caller may not do this")
_SUSPENDED: Final = Said(403, "ORGANIZATION_SUSPENDED", "This organization is suspended")
_KEY_NEEDED: Final = Said(401, "UNAUTHORIZED", "A valid API key is needed: Authorization: Bearer.")
_FIELD: Final = Said(422, "VALIDATION_ERROR", "{field}: {limit}")
_SIDECAR_FIELD: Final = Said(400, "INVALID_REQUEST", "{field} must be {limit}")
_TOO_LARGE: Final = Said(413, "PAYLOAD_TOO_LARGE", "The body must be at most {bytes_max} bytes")
_TOO_SLOW: Final = Said(408, "REQUEST_TIMEOUT", "The body did not arrive in time")
_NOT_JSON: Final = Said(
    415,
    "UNSUPPORTED_MEDIA_TYPE",
    "The body must be JSON: send the header Content-Type: application/json",
)
_UNPRICED: Final = Said(400, "UNPRICED_MODEL", "This model has no known price.")
_DRAINING: Final = Said(
    503,
    "DRAINING",
    "This sidecar is stopping: it ends holds but takes no new credits. Ask another one.",
)
_KEYS_UNAVAILABLE: Final = Said(
    503,
    "KEYS_UNAVAILABLE",
    "The key is not known here yet, and who keeps the keys does not answer.",
)
_COPY: Final = Said(
    503,
    "ANOTHER_INSTALLATION",
    "This may be a copy of another installation: no credits are taken until an operator has said"
    " what it is. Nothing was done; holds can still be ended.",
)
_DATABASE: Final = Said(
    503, "SERVICE_UNAVAILABLE", "The database is unavailable", "database_unavailable"
)

HTTP_REFUSALS: Final[dict[HttpCause, HttpRefusal]] = {
    # Who asks.
    "unauthorized": HttpRefusal(
        when="nobody is known by what was sent: a token, a key, a cookie",
        admin=Said(401, "UNAUTHORIZED", "Log in first: no session token was sent"),
        llm=Said(401, "UNAUTHORIZED", "The API key is not valid"),
        sidecar=_KEY_NEEDED,
        gate=_KEY_NEEDED,
    ),
    "permission_denied": _everywhere("the caller has no right to it", _DENIED),
    "suspended": HttpRefusal(
        when="the organisation is suspended",
        admin=_SUSPENDED,
        llm=_SUSPENDED,
        sidecar=_KEY_NEEDED,
        gate=_KEY_NEEDED,
        why="Its keys open nothing until that is lifted, so a gateway is told what any key that has"
        " ended tells it. Whoever holds a session belongs to it and may know why.",
    ),
    "not_there": _everywhere(
        "there is no such path or thing, or it is not the caller's to see",
        Said(404, "NOT_FOUND", _NO_PATH),
    ),
    "unknown_request": HttpRefusal(
        when="a request id is looked up that is neither open nor remembered",
        llm=Said(404, "NOT_FOUND", "There is no such request of yours"),
        sidecar=Said(
            404,
            "UNKNOWN_REQUEST",
            "This request_id is neither open nor remembered; the ledger knows older ones.",
        ),
        why="The LLM route looks into the ledger as well, and says the same of what is another's.",
    ),
    # How a request is made.
    "method_not_allowed": HttpRefusal(
        when="the path takes another method: the header Allow has it",
        admin=Said(405, "METHOD_NOT_ALLOWED", "Method Not Allowed"),
        llm=Said(405, "METHOD_NOT_ALLOWED", "Method Not Allowed"),
        sidecar=Said(405, "METHOD_NOT_ALLOWED", "This path takes {allow}."),
    ),
    "invalid_field": HttpRefusal(
        when="a field, header or parameter is missing, unknown, given twice or outside its limit",
        admin=_FIELD,
        llm=_FIELD,
        sidecar=_SIDECAR_FIELD,
        gate=_SIDECAR_FIELD,
        why="As for InvalidRequest. The LLM route is served by the same framework.",
    ),
    "makes_no_sense": _of_admin_api(
        "fields that are each as they must be do not go together, or not with what is there",
        Said(400, "INVALID_REQUEST", "{field}: {limit}"),
    ),
    "in_the_way": _of_admin_api(
        "what is there already is in the way of it", Said(409, "ALREADY_EXISTS", "{why}")
    ),
    "body_too_slow": HttpRefusal(
        when="the body did not arrive in time", admin=_TOO_SLOW, llm=_TOO_SLOW, sidecar=_TOO_SLOW
    ),
    "body_too_large": HttpRefusal(
        when="the body is over its limit: nothing more of it is read",
        admin=_TOO_LARGE,
        llm=_TOO_LARGE,
        sidecar=_TOO_LARGE,
    ),
    "not_json": HttpRefusal(
        when="the Content-Type is not that of JSON", admin=_NOT_JSON, sidecar=_NOT_JSON
    ),
    "unpriced_model": HttpRefusal(
        when="the model, or its service tier, has no price", llm=_UNPRICED, sidecar=_UNPRICED
    ),
    "model_not_found": _of_llm_route(
        "no upstream serves a model of this name",
        Said(404, "model_not_found", "The model '{model}' is not served here"),
    ),
    # Too much.
    "rate_limited": _of_admin_api(
        "the caller has made as many requests of this kind as one may",
        Said(
            429,
            "RATE_LIMITED",
            "At most {count} requests of this kind ({kind}) in {window_s} s; try again in"
            " {wait_s} s",
        ),
        retry=True,
    ),
    "too_much_in_progress": _of_api(
        "as much of the caller, the organisation or all is in progress as may be",
        Said(
            429,
            "RATE_LIMITED",
            "Too many {unit} of {whose} are in progress",
            "too_much_in_progress",
        ),
        retry=True,
    ),
    "requests_without_credentials": _everywhere(
        "too many requests of this address came without valid credentials",
        Said(429, "RATE_LIMITED", "Too many requests of this address without valid credentials"),
        retry=True,
    ),
    "senseless_requests": _everywhere(
        "too many requests of this caller made no sense, so a large body is not read",
        Said(
            429,
            "RATE_LIMITED",
            "Too many requests of this caller made no sense; bodies over 16 kB are not read for a"
            " while",
        ),
        retry=True,
    ),
    # Parts that are away.
    "database_away": HttpRefusal(
        when="Postgres does not answer",
        retry=True,
        admin=_DATABASE,
        llm=_DATABASE,
        sidecar=_KEYS_UNAVAILABLE,
        gate=_KEYS_UNAVAILABLE,
        why=FAMILY + " The sidecar asks Postgres about keys that it does not know yet, and else"
        " goes on without.",
    ),
    "archive_away": _of_admin_api(
        "a month that is asked for lies in the archive, and its files are away or altered, or take"
        " too long to read",
        Said(503, "SERVICE_UNAVAILABLE", "The archive cannot be read: {why}", "archive_away"),
    ),
    "identity_provider": _of_api(
        "the keys of the identity provider cannot be fetched",
        Said(503, "SERVICE_UNAVAILABLE", "Sessions cannot be checked now", "identity_provider"),
        retry=True,
    ),
    "busy": _of_api(
        "others change the same credits, again and again; nothing was changed",
        Said(
            503,
            "SERVICE_UNAVAILABLE",
            "Others are changing the same credits; nothing was changed, try again",
            "busy",
        ),
        retry=True,
    ),
    "prices_not_known": HttpRefusal(
        when="the process has not read yet which price list is in force",
        retry=True,
        llm=Said(
            503,
            "SERVICE_UNAVAILABLE",
            "Which price list is in force is not known here yet. Nothing was sent",
            "prices_not_known",
        ),
        sidecar=Said(
            503,
            "PRICES_NOT_KNOWN",
            "Which price list is in force is not known here yet. Nothing was done: give an amount,"
            " or ask again.",
        ),
        why=FAMILY,
    ),
    "another_installation": HttpRefusal(
        when="the database may be a copy of another installation's: until an operator has said what"
        " it is, nothing is held, charged or sent to a provider",
        llm=Said(
            503,
            "SERVICE_UNAVAILABLE",
            "This may be a copy of another installation: no credits are taken until an operator has"
            " said what it is. Nothing was sent",
            "another_installation",
        ),
        sidecar=_COPY,
        gate=_COPY,
        why=FAMILY,
    ),
    "payment_provider": _of_admin_api(
        "a payment cannot be verified now; nothing was added",
        Said(
            503,
            "SERVICE_UNAVAILABLE",
            "The payment cannot be verified now; nothing was added",
            "payment_provider_unavailable",
        ),
        retry=True,
    ),
    "draining": HttpRefusal(
        when="the sidecar is stopping: it ends holds and takes no new credits",
        retry=True,
        sidecar=_DRAINING,
        gate=_DRAINING,
    ),
    "shutting_down": _everywhere(
        "the process ended before the answer began: ask again with the same id",
        Said(
            503,
            "SHUTTING_DOWN",
            "This process is stopping; nothing is known of the outcome, ask again with the same id",
            "shutting_down",
        ),
        retry=True,
    ),
    "internal": HttpRefusal(
        when="a defect of ours: the log has it, and nothing of the inside is said",
        admin=Said(500, "INTERNAL_ERROR", "Something went wrong on our side"),
        llm=Said(500, "INTERNAL_ERROR", "Something went wrong on our side"),
        sidecar=Said(500, "INTERNAL_ERROR", "The sidecar failed; its log says why."),
        gate=Said(500, "INTERNAL_ERROR", "The sidecar failed; its log says why."),
    ),
    # Providers.
    "upstream_refused": _of_llm_route(
        "the provider refused the request, also with 404, 413 or 422",
        Said(400, "UPSTREAM_REFUSED", "The provider refused the request: {message}"),
    ),
    "upstream_rate_limit": _of_llm_route(
        "the provider limits requests: Retry-After is its own",
        Said(429, "RATE_LIMITED", "The provider is limiting requests", "upstream_rate_limit"),
        retry=True,
    ),
    "no_connection_free": _of_llm_route(
        "no connection to the provider that the caller may have became free",
        Said(
            429,
            "RATE_LIMITED",
            "All connections to the provider that you may have are in use",
            "no_connection_free",
        ),
        retry=True,
    ),
    "upstream_failed": _of_llm_route(
        "the provider failed or broke off", Said(502, "UPSTREAM_ERROR", "The provider failed")
    ),
    "upstream_silent": _of_llm_route(
        "the provider did not answer in time",
        Said(504, "UPSTREAM_ERROR", "The provider did not answer in time"),
    ),
    "upstream_resting": _of_llm_route(
        "the provider has failed again and again, and is not asked for a while",
        Said(
            503,
            "SERVICE_UNAVAILABLE",
            "The provider has failed repeatedly and is given a pause",
            "upstream_resting",
        ),
        retry=True,
    ),
    "upstream_not_configured": _of_llm_route(
        "no provider is configured",
        Said(
            503,
            "SERVICE_UNAVAILABLE",
            "No provider is configured (TAXIMETER_UPSTREAM_BASE_URL or TAXIMETER_UPSTREAMS_FILE)",
            "upstream_not_configured",
        ),
    ),
    # What organisations and subscriptions do not let happen.
    "organization_deleted": _of_admin_api(
        "the organisation was deleted",
        Said(409, "ORGANIZATION_DELETED", "This organization was deleted"),
    ),
    "personal_organization": _of_admin_api(
        "an organisation of individual credits is its user's for ever",
        Said(
            409,
            "PERSONAL_ORGANIZATION",
            "This is a personal organization: it is its user's for ever",
        ),
    ),
    "last_admin": _of_admin_api(
        "an organisation keeps an admin",
        Said(409, "LAST_ADMIN", "An organization keeps at least one admin"),
    ),
    "no_subscription": _of_admin_api(
        "the organisation has no subscription",
        Said(409, "NO_SUBSCRIPTION", "billing_email: this organization has no subscription"),
    ),
    "subscription_canceled": _of_admin_api(
        "the subscription has ended, or ends",
        Said(409, "SUBSCRIPTION_CANCELED", "This subscription is canceled"),
    ),
    "expiry_conflict": _of_admin_api(
        "the user's allocation ends at another time",
        Said(
            409,
            "EXPIRY_CONFLICT",
            "expires_at: this user's allocation ends at another time, and credits with different"
            " ends are not merged. Leave it out to add to the allocation as it stands, or send null"
            " to take its end away",
        ),
    ),
    "no_expiry": _of_admin_api(
        "an allocation without an end is to be renewed at it",
        Said(
            409, "NO_EXPIRY", "auto_renew: this allocation has no end at which it could be renewed"
        ),
    ),
    "too_many_keys": _of_admin_api(
        "the organisation has as many API keys as one may have, of this name or in all",
        Said(409, "TOO_MANY_KEYS", "{limit}; revoke one first"),
    ),
    "invitations_blocked": _of_admin_api(
        "the user takes no invitations of this organisation",
        Said(
            409,
            "ALREADY_EXISTS",
            "This user takes no invitations of this organization",
            "invitations_blocked",
        ),
    ),
    "too_many_invitations": _of_admin_api(
        "as many invitations wait for an answer as may",
        Said(
            409,
            "ALREADY_EXISTS",
            "{most} invitations of this {whose} wait for an answer, as many as may",
            "too_many_invitations",
        ),
    ),
}
