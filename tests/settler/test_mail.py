"""Notices come as e-mail through a real SMTP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes, policy
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from cryptography.fernet import Fernet
from support.books import Books

from taximeter.settler.notices.addresses import check_mailto
from taximeter.settler.notices.bodies import Notice
from taximeter.settler.notices.deliver import Deliverer
from taximeter.settler.notices.mail import Mailer
from taximeter.settler.notices.sealing import Sealer
from taximeter.settler.notices.sending import HttpSender

KEY = Fernet.generate_key().decode()


@dataclass
class Post:
    """An SMTP server that keeps what it takes. `answers`: to DATA, in turn; then 250."""

    answers: list[str] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    logins: list[bytes] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = message_from_bytes(envelope.content, policy=policy.default)
        self.seen.append((envelope.rcpt_tos, message))
        return self.answers.pop(0) if self.answers else "250 OK"

    def authenticate(self, *words: Any) -> AuthResult:
        data = words[-1]
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login + b":" + data.password)
        return AuthResult(success=data.password == b"p@ss", handled=False)


@pytest.fixture
async def post() -> AsyncIterator[tuple[Post, str]]:
    made = Post()
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(made, authenticator=made.authenticate, auth_require_tls=False),
        "127.0.0.1",
        0,
    )
    async with server:
        yield made, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_notice_is_mailed_and_tried_again_under_one_id(
    pool: asyncpg.Pool[asyncpg.Record], post: tuple[Post, str]
) -> None:
    server, place = post
    server.answers = ["451 later"]
    books, sealer = Books(pool), Sealer(KEY)
    await books.open()
    receiver_id = await books.value(
        "INSERT INTO taximeter.receivers (org_id, kind, name, address, key_mark, types, percents,"
        " created_by) VALUES ('org', 'email', 'bills', $1, $2, '{*}', '{80}', 'boss') RETURNING id",
        *(sealer.seal("mailto:ann@example.com"), sealer.mark),
    )
    await books.value("SELECT taximeter.write_test_notice($1)", receiver_id)
    mailer = Mailer(f"smtp://ann:p%40ss@{place}", "meter@taximeter.example")
    async with HttpSender() as sender:
        without = Deliverer(pool, sealer, sender)
        await without.round()
        assert server.seen == [], "nobody here sends e-mail"
        deliverer = Deliverer(pool, sealer, sender, mailer=mailer)
        await deliverer.round()
        await deliverer.idle()
        await books.run("UPDATE taximeter.deliveries SET due_at = now()")
        await books.run("UPDATE taximeter.receivers SET rests_until = now()")
        await deliverer.round()
        await deliverer.idle()
    (to, first), (_, second) = server.seen
    assert to == ["ann@example.com"]
    assert first["From"] == "meter@taximeter.example"
    assert "receiver.test" in first["Subject"]
    assert first["Message-ID"] == second["Message-ID"]
    assert "name: bills" in first.get_content()
    assert server.logins == [b"ann:p@ss"] * 2
    row = await books.row("SELECT state, tries, log -> 0 ->> 'status' FROM taximeter.deliveries")
    assert row == ("delivered", 2, "451")


async def test_a_server_elsewhere_without_tls_is_told_nothing(post: tuple[Post, str]) -> None:
    """And what cannot be reached, or refuses the password, is a failed try and no crash."""
    server, place = post
    mailer = Mailer(f"smtp://ann:p%40ss@{place}", "a@b.example")
    mailer._starts_tls = True  # As for any host but this machine.
    notice = Notice(uuid4(), "receiver.test", datetime.now(UTC), "org", {"name": "r"})
    outcome = await mailer.send("ann@example.com", notice)
    assert not outcome.succeeded
    assert server.seen == server.logins == []
    outcome = await Mailer(f"smtp://ann:wrong@{place}", "a@b.example").send("a@b.example", notice)
    assert outcome.status == 535
    outcome = await Mailer("smtp://127.0.0.1:1", "a@b.example").send("a@b.example", notice)
    assert outcome.error


@pytest.mark.parametrize(
    "url",
    [
        *("ann@example.com", "mailto:", "mailto:ann", "mailto:a@b", "mailto:a@b.c,d@e.f"),
        *(
            "mailto:a@b.c?cc=d@e.f",
            "mailto:a b@c.d",
            "mailto:<a@b.c>",
            "mailto:a@b.c\r\nBcc: d@e.f",
        ),
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="one address"):
        check_mailto(url)
