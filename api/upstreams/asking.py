"""Asks upstreams in their order, until one answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from taximeter.api.openai.request import LlmRequest
from taximeter.api.upstreams.failures import UpstreamFailure
from taximeter.api.upstreams.router import Target
from taximeter.api.upstreams.upstream import Opened
from taximeter.api.web.errors import ApiError

RETRY_PAUSE_S = 0.1


async def ask(
    targets: tuple[Target, ...],
    chat: LlmRequest,
    headers: Mapping[str, str],
    payer: tuple[str, str],
    went_out: Callable[[], None],
) -> tuple[Target, Opened]:
    """The first target that answers `payer`, and its answer. Raises ApiError: the last failure, or
    503 when all of them rest.

    The next one is asked only when the last has done nothing: it could not be reached, or said that
    it does not take this request. A connection that broke or fell silent after the request was sent
    may have cost money at the provider; that is not repeated.
    """
    failure: UpstreamFailure | None = None
    for target in targets:
        if target.upstream.rest.is_resting:
            continue
        content = chat.encoded(target.model, target.upstream.limit_field)
        for attempt in range(target.upstream.retries + 1):
            if attempt:
                await asyncio.sleep(RETRY_PAUSE_S * 2**attempt)
            try:
                answer = await target.upstream.send(
                    chat.surface.path, content, headers, payer, went_out
                )
            except UpstreamFailure as error:
                failure = error
                if not error.again:
                    break
            else:
                target.upstream.rest.answered()
                return target, answer
        assert failure is not None, "it was tried at least once"
        if failure.is_down:
            target.upstream.rest.failed()
        else:
            target.upstream.rest.answered()
        if not failure.elsewhere:
            break
    if failure is not None:
        raise failure
    raise ApiError.of("upstream_resting")
