"""Tells the caller of LiteLLM why the sidecar said no: a status, a sentence, figures."""

from __future__ import annotations

from typing import Any

from taximeter.meter.litellm.sidecar import Answer
from taximeter.meter.wire.credits import text_of_credits
from taximeter.meter.wire.refusals import RETRY_AFTER_S


def refusal(status: int, code: str, message: str, **details: object) -> Exception:
    """An HTTPException as LiteLLM passes it on: its status reaches the caller."""
    from fastapi import HTTPException

    headers: dict[str, str] = {}
    if status in (429, 503):
        headers["retry-after"] = str(RETRY_AFTER_S)
    have: Any = details.get("have_millicredits")
    if type(have) is int:
        headers["x-credits-remaining"] = text_of_credits(have)
    detail = {"error": message, "code": code, "details": details}
    return HTTPException(status_code=status, detail=detail, headers=headers)


def refusal_of(answer: Answer) -> Exception:
    """The refusal for what the sidecar answered to a reserve. Closed whenever it is in doubt."""
    code = answer.code
    details = (answer.body.get("error") or {}).get("details") or {}
    if code == "INSUFFICIENT_CREDITS":
        need, have = details["need_millicredits"], details["have_millicredits"]
        message = (
            "Insufficient organization credits. "
            f"Need {text_of_credits(need)}, have {text_of_credits(have)}"
        )
        return refusal(402, code, message, **details)
    if code == "ACCOUNT_NOT_FOUND":
        message = "Insufficient organization credits. No credits are allocated to this user"
        return refusal(402, code, message)
    if code == "HOLDS_IN_THE_WAY":
        message = "Open requests hold the credits that this one needs; try again when they end."
        return refusal(429, code, message, **details)
    if code == "TOO_MANY_WAITING":
        return refusal(429, code, "Too many requests wait already; try again.", **details)
    if code == "TOO_MANY_HOLDS":
        most = details.get("open_holds_max", "many")
        message = f"You have {most} requests open, as many as one may have; try again."
        return refusal(429, code, message, **details)
    if code == "UNPRICED_MODEL":
        return refusal(400, code, "This model has no known price.")
    if code in ("REPLAYED", "CONFLICT"):
        message = "This x-litellm-call-id was used before; leave it out, or send another one."
        return refusal(409, "CALL_ID_USED", message)
    if code == "INVALID_REQUEST":
        field, limit = details.get("field", "a field"), details.get("limit", "valid")
        return refusal(400, code, f"{field} must be {limit}", **details)
    return refusal(
        503, code or "METER_UNAVAILABLE", "Credits cannot be checked right now; try again."
    )
