"""Ends a call: charges or releases it, tries again while the sidecar is away, and says so."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from taximeter.meter.litellm.deployments import Model
from taximeter.meter.litellm.open_calls import Call, Calls
from taximeter.meter.litellm.settings import LiteLLMSettings
from taximeter.meter.litellm.sidecar import Answer, SidecarClient

logger = logging.getLogger("taximeter.litellm")

PAUSE_S: Final = 0.1
PAUSE_S_MAX: Final = 5.0


class Settlement:
    """Every end of a call is claimed once; what is claimed is tried until it is final.

    If this process dies while it tries, the hold ends at its deadline and charges what `report`
    said last.
    """

    def __init__(self, client: SidecarClient, calls: Calls, settings: LiteLLMSettings) -> None:
        self._client = client
        self._calls = calls
        self._settings = settings
        self._tasks: set[asyncio.Task[Any]] = set()

    async def charge(
        self,
        call: Call,
        *,
        model: Model,
        tokens: Mapping[str, Any] | None,
        about: Mapping[str, object],
    ) -> None:
        """Commit what was used; without `tokens` nothing was. What cannot be priced, or not be
        written down, costs what was held: never nothing. Returns after the first try, and goes on
        in the background if that had no answer.
        """
        if not self._calls.end(call):
            return
        name = {"service_name": model.name, "metadata": dict(about)}
        fields: dict[str, Any] = {**call.account, "usage": name}
        if tokens is None:
            fields["amount_millicredits"] = 0
        else:
            fields |= {**model.fields, "tokens": dict(tokens)}
        answer = await self._client.call("commit", fields, call.trace)
        if answer.code == "UNPRICED_MODEL":
            # Admitted by the price of another deployment of the group.
            fields = {**fields, "provider": None, **call.model.fields}
            answer = await self._client.call("commit", fields, call.trace)
        if answer.status == 400:
            name = {"service_name": call.model.name, "metadata": {"gateway": "litellm"}}
            fields = {**call.account, "amount_millicredits": call.reserved, "usage": name}
            answer = await self._client.call("commit", fields, call.trace)
        await self._finish("commit", call, fields, answer)

    async def release(self, call: Call) -> None:
        """Give the hold back; as `charge` in what it returns after."""
        if self._calls.end(call):
            answer = await self._client.call("release", call.account, call.trace)
            await self._finish("release", call, call.account, answer)

    async def report(self, call: Call) -> None:
        """Heartbeat: moves the hold's deadline and records what was delivered, which is charged
        should nothing else end it.
        """
        tokens = self.delivered(call)
        about = {"service_name": call.model.name, "metadata": {**call.about, "estimated": True}}
        fields = {**call.account, **call.model.fields, "tokens": tokens, "usage": about}
        if not call.ended:
            await self._client.call("touch", {**fields, "ttl_s": self._settings.hold_s}, call.trace)

    @staticmethod
    def delivered(call: Call) -> dict[str, Any]:
        """What a stream has used so far, by our own count: its usage object may never come."""
        return {"prompt_tokens": call.prompt_guess, "completion_tokens": call.output_tokens}

    def in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run it besides, with a reference that keeps it alive."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, op: str, call: Call, fields: Mapping[str, Any], answer: Answer) -> None:
        if answer.is_final:
            self._note(op, call, fields, answer)
        else:
            self.in_background(self._try_again(op, call, fields))

    async def _try_again(self, op: str, call: Call, fields: Mapping[str, Any]) -> None:
        end, pause, answer = time.monotonic() + self._settings.settle_s, PAUSE_S, Answer(0, {})
        while not answer.is_final and time.monotonic() < end:
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_S_MAX)
            answer = await self._client.call(op, fields, call.trace)
        self._note(op, call, fields, answer)

    def _note(self, op: str, call: Call, fields: Mapping[str, Any], answer: Answer) -> None:
        if answer.status == 200:
            call.available = answer.body["available_millicredits"]
            if op == "commit":
                call.cost = answer.body["charged_millicredits"]
        elif op == "commit":
            # The one place where a charge can be lost: all that is needed to make it by hand.
            logger.error(
                "not charged (%s %s): %s", answer.status, answer.code or "no answer", dict(fields)
            )
        elif answer.code != "UNKNOWN_HOLD":
            logger.warning("not released (%s): %s", answer.code or answer.status, call.account)
