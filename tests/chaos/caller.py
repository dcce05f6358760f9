"""What faults do themselves, as callers: one thing after the other, each of it written down."""

from __future__ import annotations

import time
from typing import Any

import httpx

from chaos.asking import NOTHING_WAS_DONE
from chaos.history import Line, Recorder
from chaos.scene import Scene


class Caller:
    """Writes down what was asked and told, under a name of its own."""

    def __init__(self, scene: Scene, name: str) -> None:
        self._recorder = Recorder(scene.cluster.faults_history)
        self._name = f"{name}-{time.time_ns()}"
        self._number = 0

    def invoke(self, op: str, account: str, request: str, amount: int) -> str:
        self._number += 1
        attempt = f"{self._name}:{self._number}"
        org, user = account.split("/")
        self._recorder.write(
            "invoke", attempt=attempt, op=op, org=org, user=user, request=request, amount=amount
        )
        return attempt

    def answer(self, attempt: str, outcome: str, receipt: Any = None, code: str = "") -> None:
        self._recorder.write("answer", attempt=attempt, outcome=outcome, code=code, receipt=receipt)

    async def post(
        self,
        client: httpx.AsyncClient,
        url: str,
        op: str,
        account: str,
        request: str,
        amount: int,
        ttl_s: float,
    ) -> str:
        """Ask a sidecar once; returns the outcome, in the words of `Attempt.outcome`."""
        attempt = self.invoke(op, account, request, amount)
        org, user = account.split("/")
        body: dict[str, Any] = {"org_id": org, "user_id": user, "request_id": request}
        if op != "release":
            body["amount_millicredits"] = amount
        if op in ("reserve", "touch"):
            body["ttl_s"] = ttl_s
        try:
            response = await client.post(f"{url}/v1/{op}", json=body)
            receipt: Line = response.json()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            outcome, code, told = "failed", type(error).__name__, None
        except (httpx.TransportError, ValueError) as error:
            outcome, code, told = "unknown", type(error).__name__, None
        else:
            if response.status_code == 200:
                outcome, code, told = "ok", "OK", receipt
            else:
                code, told = receipt["error"]["code"], None
                server_side = "unknown" if response.status_code >= 500 else "refused"
                outcome = "failed" if code in NOTHING_WAS_DONE else server_side
        self.answer(attempt, outcome, told, code)
        return outcome

    def close(self) -> None:
        self._recorder.close()
