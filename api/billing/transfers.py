"""Carries out a move that a caller asks for, or refuses it in the words of the API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from taximeter.api.web.background import TaskTracker
from taximeter.api.web.errors import ApiError, admin_refusal
from taximeter.meter.wire.credits import credits_of, text_of_credits
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.moves import KeyUsed, LiveSideAway, move
from taximeter.settler.moves.records import Move, Request


async def carry_out(
    stores: Stores,
    tracker: TaskTracker,
    request: Request,
    check: Callable[[], Awaitable[None]],
) -> Move:
    """The move, done. It goes on when the caller hangs up. `check` may refuse one that is new: what
    is refused now must not refuse the repetition of what was done. Raises ApiError.
    """
    try:
        ended = await asyncio.shield(tracker.spawn(move(stores, request, before_it_begins=check)))
    except KeyUsed as error:
        raise _key_used(error) from error
    except LiveSideAway as error:
        raise _unavailable() from error
    if ended.state == "undone":
        raise _unavailable("The move took too long and was undone; nothing has moved")
    if ended.state == "refused":
        if ended.reason == "not_a_member":
            raise not_members()
        if ended.reason == "expiring":
            raise _unavailable("The receiver's allocation has just expired; nothing has moved")
        raise _insufficient(ended)
    return ended


def _insufficient(refused: Move) -> ApiError:
    need, have, held = refused.amount, refused.have, refused.held
    return admin_refusal(
        "holds_in_the_way" if have + held >= need else "insufficient_credits",
        # Existing front ends know these words.
        words="Insufficient credits to transfer"
        if refused.kind != "deallocation"
        else f"Insufficient credits to deallocate. Need {text_of_credits(need)}, "
        f"have {text_of_credits(have)}, held by running requests {text_of_credits(held)}",
        details={"need": credits_of(need), "have": credits_of(have), "held": credits_of(held)},
    )


def not_members() -> ApiError:
    """Not both users of a transfer are members."""
    return ApiError(
        400,
        "Both users must be active members of this organization",
        details={"fields": ["from_user_id", "to_user_id"]},
    )


def _key_used(error: KeyUsed) -> ApiError:
    return ApiError(
        409,
        "This Idempotency-Key has already moved something else",
        details={"move_id": str(error)},
    )


def _unavailable(message: str = "") -> ApiError:
    return admin_refusal("unavailable", words=message)
