"""Tells upstream failures apart: what the caller is told, whether another may be asked instead, and
what never gets out.
"""

from __future__ import annotations

import logging

import aiohttp
import aiohttp.http_exceptions

from taximeter.api.web.errors import ApiError

logger = logging.getLogger("taximeter.api")

# Everything that the client raises when the upstream cannot be reached, is silent or breaks off.
FAILURES = (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError)
# Of those, the ones after which nothing was sent.
NOTHING_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

_CALLERS_FAULT = frozenset({400, 404, 413, 415, 422})
# The upstream has not begun: it is not there, or it has no room or no right for this request.
_NOT_BEGUN = frozenset({401, 403, 429, 502, 503})
_NOT_WORKING = frozenset({502, 503})
_BROKE_OFF = "The provider broke off"


class UpstreamFailure(ApiError):
    """A failure before the answer began. `elsewhere`: another upstream may be asked, since this one
    has done nothing. `again`: this one too. `is_down`: it takes no connection, which counts towards
    a rest. (Silence does not: a few callers with slow prompts would stop it for everybody.)
    """

    elsewhere = False
    again = False
    is_down = False


def unreachable(error: Exception, name: str) -> UpstreamFailure:
    """The failure of a connection. Only its kind is said and logged: some of these errors hold the
    request with its key, and others repeat what the upstream sent.
    """
    reason = error.strerror if isinstance(error, OSError) and error.strerror else ""
    logger.warning("upstream %s failed: %s %s", name, type(error).__name__, reason)
    if isinstance(error, NOTHING_SENT):
        failure = UpstreamFailure.of("upstream_failed", words="The provider could not be reached")
        failure.elsewhere = failure.again = failure.is_down = True
    elif isinstance(error, TimeoutError):
        failure = UpstreamFailure.of("upstream_silent")
    else:
        failure = UpstreamFailure.of("upstream_failed", words=_BROKE_OFF)
    return failure


def no_connection_free(name: str) -> UpstreamFailure:
    """The failure of a request whose turn did not come. Nothing was sent."""
    logger.warning("no connection to upstream %s became free", name)
    failure = UpstreamFailure.of("no_connection_free")
    failure.elsewhere = True
    return failure


def refused(status: int, message: str, retry_after: str, name: str) -> UpstreamFailure:
    """An answer that is none. `message` is the upstream's, without its key."""
    if status == 429:
        is_usable = retry_after.isdigit() and len(retry_after) < 6
        headers = {"Retry-After": retry_after} if is_usable else {}
        failure = UpstreamFailure.of("upstream_rate_limit", headers=headers)
    elif status in _CALLERS_FAULT:
        failure = UpstreamFailure.of(
            "upstream_refused", details={"upstream_status": status}, message=message
        )
        failure.status = 400 if status == 415 else status
    else:
        # 401 and 403 are about our key, which is not the caller's business.
        logger.warning("upstream %s answered %d", name, status)
        failure = UpstreamFailure.of("upstream_failed", details={"upstream_status": status})
    failure.elsewhere = status in _NOT_BEGUN
    failure.again = status in _NOT_WORKING
    return failure


def broken(what: str, name: str) -> ApiError:
    """An answer that began and did not end as it should."""
    logger.warning("the answer of upstream %s broke: %s", name, what)
    return ApiError.of("upstream_failed", words=_BROKE_OFF)
