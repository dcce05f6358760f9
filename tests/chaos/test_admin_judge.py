"""The judge of what admins were told: what it must object to, and what it must not."""

from __future__ import annotations

import pytest

from chaos.admin_judge import judge_admin
from chaos.history import Line
from chaos.scene import Loss

PUT_BACK = Loss("postgres", since=100.0, until=200.0)
MOVE = "transfer acme key a>b 5"
Attempt = tuple[float, str | None]
"""When it was asked for (it is answered a second later), and what was answered; None: nothing."""


def lines_of(*asks: tuple[str, list[Attempt]], status: int = 0) -> list[Line]:
    lines: list[Line] = []
    statuses = {"ok": 200, "refused": 400, "unknown": 503, "failed": 0}
    attempts = [(at, op, outcome) for op, tried in asks for at, outcome in tried]
    for number, (at, op, outcome) in enumerate(attempts):
        effect = "" if op in ("add", "remove") else MOVE
        lines.append({"at": at, "what": "invoke", "attempt": str(number), "op": op, "on": "acme/a",
                      "amount": 5, "effect": effect})  # fmt: skip
        if outcome is not None:
            lines.append({"at": at + 1, "what": "answer", "attempt": str(number),
                          "outcome": outcome, "status": status or statuses[outcome]})  # fmt: skip
    return lines


@pytest.mark.parametrize(
    ("attempts", "count", "losses", "wrong"),
    [
        ([(150, "ok")], 1, [], None),
        ([(150, "ok")], 0, [], "was acknowledged and did not take effect"),
        ([(150, "ok")], 0, [PUT_BACK], None),
        ([(50, "ok")], 0, [PUT_BACK], "was acknowledged and did not take effect"),
        ([(50, "ok"), (150, "ok")], 0, [PUT_BACK], "was acknowledged and did not take effect"),
        ([(250, "ok")], 0, [PUT_BACK], "was acknowledged and did not take effect"),
        ([(150, "ok")], 0, [Loss("redis", 0, 300)], "was acknowledged and did not take effect"),
        ([(150, "ok")], 2, [PUT_BACK], "took effect 2 times"),
        ([(150, "unknown")], 0, [], None),
        ([(150, "unknown")], 1, [], None),
        ([(150, None)], 1, [], None),
        ([(150, "unknown")], 2, [], "took effect 2 times"),
        ([(150, "unknown"), (160, "ok")], 2, [], "took effect 2 times"),
        ([(150, "unknown"), (160, "refused")], 1, [], None),
        ([(150, "refused")], 1, [], "was refused and took effect"),
        ([(150, "failed"), (160, "refused")], 1, [], "was refused and took effect"),
        ([], 1, [], "nobody asked for it"),
    ],
)
def test_what_has_a_key_takes_effect_once(
    attempts: list[Attempt], count: int, losses: list[Loss], wrong: str | None
) -> None:
    lines = lines_of(("transfer", attempts))
    found = judge_admin(lines, {MOVE: count} if count else {}, {}, losses).violations
    assert len(found) == (wrong is not None), found
    assert wrong is None or wrong in found[0]


def test_an_answer_that_nobody_should_get_is_a_violation() -> None:
    lines = lines_of(("transfer", [(150, "refused")]), status=409)
    (violation,) = judge_admin(lines, {}, {}, []).violations
    assert "was answered 409" in violation


@pytest.mark.parametrize(
    ("asks", "losses", "right"),
    [
        ([("add", "ok")], [], {"active"}),
        ([("add", "ok"), ("remove", "ok")], [], {"removed"}),
        ([("add", "ok"), ("remove", "unknown")], [], {"active", "removed"}),
        ([("add", "ok"), ("remove", "failed")], [], {"active"}),
        ([("add", "ok"), ("remove", "unknown"), ("add", "ok")], [], {"active", "removed"}),
        ([("add", "ok"), ("remove", "ok")], [PUT_BACK], {"active", "removed"}),
    ],
)
def test_a_member_is_what_was_told_last(
    asks: list[tuple[str, str]], losses: list[Loss], right: set[str]
) -> None:
    lines = lines_of(*((op, [(150.0 + 2 * n, told)]) for n, (op, told) in enumerate(asks)))
    for status in ("active", "removed"):
        found = judge_admin(lines, {}, {"acme/a": status}, losses).violations
        assert (found == []) is (status in right), (status, found)


def test_what_was_bought_is_what_the_books_have() -> None:
    lines = lines_of(("buy", [(150, "ok")]))
    assert judge_admin(lines, {MOVE: 1}, {}, []).bought == {"acme/a": 5}
    assert judge_admin(lines, {}, {}, [PUT_BACK]).bought == {"acme/a": 0}
