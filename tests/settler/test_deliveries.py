"""Notices reach their receivers: signed, in order, at least once under one id, and nobody else."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography.fernet import Fernet
from standardwebhooks import Webhook, WebhookVerificationError
from support.books import Books
from support.certificates import make_certificate
from support.receiving import KEY, SECRET, Receiver, add, listening, note, rounds
from support.waiting import eventually

from taximeter.settler.notices import addresses
from taximeter.settler.notices.addresses import check_url, is_outside, literal_address
from taximeter.settler.notices.bodies import Notice, slack_body
from taximeter.settler.notices.catalogue import KINDS
from taximeter.settler.notices.deliver import RETRY_S, TRIES_MAX, Deliverer, retry_s
from taximeter.settler.notices.sealing import Sealer, make_secret
from taximeter.settler.notices.sending import HttpSender
from taximeter.settler.status.money import MoneyLook


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with listening(Receiver()) as made:
        yield made


@pytest.fixture
async def sender() -> AsyncIterator[HttpSender]:
    async with HttpSender(anywhere=True) as made:
        yield made


@pytest.fixture
async def books(pool: asyncpg.Pool[asyncpg.Record]) -> Books:
    made = Books(pool)
    await made.open()
    await made.run("UPDATE taximeter.notices SET spread_at = now()")  # Of what was done till now.
    return made


@pytest.fixture
async def deliverer(books: Books, sender: HttpSender) -> AsyncIterator[Deliverer]:
    made = Deliverer(books.pool, Sealer(KEY), sender)
    yield made
    await made.aclose()


async def due(books: Books) -> None:
    """As if the time until the next try had passed, and that of every lease and rest."""
    await books.run(
        "UPDATE taximeter.deliveries SET due_at = now() WHERE due_at < 'infinity'"
        " AND state = 'waiting'"
    )
    await books.run("UPDATE taximeter.deliveries SET leased_until = now() WHERE state = 'waiting'")
    await books.run("UPDATE taximeter.receivers SET rests_until = now()")


async def states(books: Books) -> list[tuple[Any, ...]]:
    return await books.rows("SELECT state, tries FROM taximeter.deliveries ORDER BY notice_n, id")


async def test_a_notice_is_signed_as_standard_webhooks_are(
    books: Books, receiver: Receiver, deliverer: Deliverer
) -> None:
    receiver_id = await add(books, receiver.url)
    await books.value("SELECT taximeter.write_test_notice($1)", receiver_id)
    await rounds(deliverer)
    ((headers, body),) = receiver.seen
    said = Webhook(SECRET).verify(body, headers)
    assert said["type"] == "receiver.test"
    assert said["org_id"] == "org"
    KINDS["receiver.test"].data.model_validate(said["data"])
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace("org", "orc"), headers)
    assert await states(books) == [("delivered", 1)]
    (log,) = await books.rows("SELECT log::text FROM taximeter.deliveries")
    assert json.loads(log[0])[0]["status"] == 204


async def test_while_a_secret_is_given_up_both_sign(
    books: Books, receiver: Receiver, deliverer: Deliverer
) -> None:
    await add(books, receiver.url)
    new = make_secret()
    await books.run(
        "UPDATE taximeter.receivers SET old_secret = secret, secret = $1,"
        " old_secret_until = now() + interval '1 day'",
        Sealer(KEY).seal(new),
    )
    await note(books, 1)
    await rounds(deliverer)
    await books.run("UPDATE taximeter.receivers SET old_secret_until = now()")
    await note(books, 2)
    await rounds(deliverer)
    (headers, body), (later, its_body) = receiver.seen
    for secret in (SECRET, new):
        Webhook(secret).verify(body, headers)
    Webhook(new).verify(its_body, later)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(its_body, later)


async def test_who_asks_for_what(books: Books, receiver: Receiver, deliverer: Deliverer) -> None:
    """Of an organisation its own, of the installation all; of a type, and of a part used."""
    await books.open(org="other")
    async with listening(Receiver()) as of_all, listening(Receiver()) as low:
        await add(books, receiver.url, types="{member.joined,system.books_wrong}")
        await add(books, of_all.url, org=None)
        await add(books, low.url, types="{pool.low}")
        await books.run("UPDATE taximeter.notices SET spread_at = now()")
        await note(books, 1)
        await note(books, 2, type_="member.left")
        for org, percents in (("org", [50, 75]), ("org", [80, 90]), ("other", [80])):
            await books.run(
                "INSERT INTO taximeter.notices (type, org_id, subject, data)"
                " VALUES ('pool.low', $1, 's', jsonb_build_object('percents', $2::integer[]))",
                *(org, percents),
            )
        await books.value(
            "SELECT taximeter.note_condition('books', true, 'system.books_wrong', '', '{}')"
        )
        await rounds(deliverer, 8)
    assert receiver.said == [1]
    assert len(of_all.seen) == 5, "percents are not those that it asks for"
    (one,) = low.seen
    assert json.loads(one[1])["data"] == {"percents": [80, 90]}


async def test_what_fails_is_tried_again_and_its_subject_waits(
    books: Books, receiver: Receiver, deliverer: Deliverer
) -> None:
    receiver.answers = [500, 302]
    await add(books, receiver.url)
    for n, subject in ((1, "a"), (2, "a"), (3, "b"), (4, "a")):
        await note(books, n, subject)
    await rounds(deliverer)
    assert 2 not in receiver.said
    assert 4 not in receiver.said
    first_id = receiver.ids[0]
    await due(books)
    await rounds(deliverer, 6)
    await due(books)
    await rounds(deliverer, 6)
    delivered = receiver.said
    order = [n for n in delivered if n != 3]
    assert sorted(set(delivered)) == [1, 2, 3, 4]
    assert order == sorted(order), "of one subject in order"
    assert receiver.ids.count(first_id) >= 2, "again under the same id"
    assert all(state == "delivered" for state, _ in await states(books))


async def test_ten_tries_take_about_three_days() -> None:
    assert TRIES_MAX == 10
    assert 2.5 < sum(RETRY_S) / 86_400 < 3.5
    for tries, planned_s in enumerate(RETRY_S, 1):
        waits = [retry_s(tries) or 0 for _ in range(20)]
        assert all(0.9 * planned_s <= one <= 1.1 * planned_s for one in waits)
        assert len(set(waits)) > 10
    assert retry_s(1, 3_600) == 3_600
    assert retry_s(TRIES_MAX) is None


@pytest.mark.parametrize(("answer", "tries", "reason"), [(410, 1, "gone"), (500, 10, "failing")])
async def test_a_receiver_that_is_gone_is_disabled_and_that_is_told(
    books: Books, receiver: Receiver, deliverer: Deliverer, answer: int, tries: int, reason: str
) -> None:
    receiver.answers = [answer] * tries
    receiver_id = await add(books, receiver.url)
    await note(books, 1)
    await note(books, 2)
    for _ in range(tries):
        await due(books)
        await deliverer.round()
        await deliverer.idle()
    row = await books.row(
        "SELECT state, reason FROM taximeter.receivers WHERE id = $1", receiver_id
    )
    assert row == ("disabled", reason)
    assert len(receiver.seen) == tries
    assert await states(books) == [("failed", tries), ("failed", 0)]
    (told,) = await books.rows(
        "SELECT org_id, data::text FROM taximeter.notices WHERE type = 'receiver.disabled'"
    )
    data = json.loads(told[1])
    KINDS["receiver.disabled"].data.model_validate(data)
    assert (told[0], data["reason"]) == ("org", reason)
    await due(books)
    await rounds(deliverer)
    assert len(receiver.seen) == tries, "it is left alone"


async def test_one_notice_that_is_refused_disables_nobody(
    books: Books, receiver: Receiver, deliverer: Deliverer
) -> None:
    await add(books, receiver.url)
    await note(books, 1, "a")
    await books.run("UPDATE taximeter.receivers SET succeeded_at = now() + interval '1 hour'")
    receiver.answers = [400] * TRIES_MAX
    for _ in range(TRIES_MAX):
        await due(books)
        await rounds(deliverer, 1)
    await note(books, 2, "a")
    await due(books)
    await rounds(deliverer)
    assert await states(books) == [("failed", 10), ("delivered", 1)]


class Killed(Exception):
    """Where a process is killed."""


@pytest.mark.parametrize("step", ["spread", "claimed", "sent", "ended"])
async def test_killed_anywhere_it_comes_under_the_same_id(
    books: Books, receiver: Receiver, sender: HttpSender, step: str
) -> None:
    """Nothing is lost; twice means the same id and the same body."""
    await add(books, receiver.url)
    await note(books, 1)

    class Dying(Deliverer):
        died = False

        async def _deliver(self, row: Any) -> None:
            self.died = step == "claimed"
            if not self.died:
                try:
                    await super()._deliver(row)
                except Killed:
                    self.died = True

        async def _send(self, row: Any) -> Any:
            outcome = await super()._send(row)
            if step == "sent":
                raise Killed
            return outcome

    dying = Dying(books.pool, Sealer(KEY), sender)
    if step == "spread":
        async with books.pool.acquire() as conn:
            transaction = conn.transaction()
            await transaction.start()
            await conn.execute("SELECT pg_advisory_xact_lock(74102)")
            assert await dying.spread() == 0, "one at a time"
            await conn.execute("UPDATE taximeter.notices SET spread_at = now()")
            await transaction.rollback()
    else:
        await dying.round()
        await dying.idle()
        assert dying.died == (step != "ended")
    next_one = Deliverer(books.pool, Sealer(KEY), sender)
    await rounds(next_one)
    before = len(receiver.seen)
    assert before == {"spread": 1, "claimed": 0, "sent": 1, "ended": 1}[step], "its lease holds"
    await due(books)
    await rounds(next_one)
    expected = {"spread": 1, "claimed": 1, "sent": 2, "ended": 1}[step]
    assert len(receiver.seen) == expected
    assert len(set(receiver.ids)) == 1
    assert len({body for _, body in receiver.seen}) == 1
    assert [state for state, _ in await states(books)] == ["delivered"]


async def test_whoever_comes_back_late_says_nothing_about_the_next_try(
    books: Books, receiver: Receiver, deliverer: Deliverer
) -> None:
    await add(books, receiver.url)
    await note(books, 1)
    await deliverer.spread()
    (row,) = await deliverer._claim(False, 1)
    await due(books)  # It stood still until its lease was over.
    await rounds(deliverer)
    became = await books.value(
        "SELECT taximeter.end_try($1, 1, false, 5, 2, '{}', NULL)", row["delivery"]
    )
    assert became is None
    assert await states(books) == [("delivered", 2)]


async def test_receivers_that_hang_stop_nobody_else(books: Books, sender: HttpSender) -> None:
    async with listening(Receiver(answers=[None] * 100)) as hanging, listening(Receiver()) as good:
        for _ in range(10):
            await add(books, hanging.url)
        await add(books, good.url)
        deliverer = Deliverer(books.pool, Sealer(KEY), sender)
        for n in range(20):
            await note(books, n, f"s{n}")

        async def all_came() -> bool:
            await deliverer.round()
            return len(good.seen) == 20

        await eventually(all_came, what="the good receiver having heard everything")
        assert len(hanging.seen) <= 40, "four at a time of each"
        await deliverer.aclose()
    assert await books.value("SELECT count(*) FROM taximeter.deliveries WHERE state = 'waiting'")


async def test_two_settlers_send_each_notice_once(
    books: Books, receiver: Receiver, sender: HttpSender
) -> None:
    await add(books, receiver.url)
    for n in range(30):
        await note(books, n, f"s{n % 7}")
    both = [Deliverer(books.pool, Sealer(KEY), sender) for _ in range(2)]

    async def all_came() -> bool:
        await asyncio.gather(*(one.round() for one in both))
        await asyncio.gather(*(one.idle() for one in both))
        return len(set(receiver.ids)) == 30

    await eventually(all_came, what="every notice")
    assert len(receiver.seen) == 30
    for subject in range(7):
        said = [n for n in receiver.said if n % 7 == subject]
        assert said == sorted(said)


async def test_a_copy_of_the_database_with_another_key_calls_nobody(
    books: Books, receiver: Receiver, sender: HttpSender
) -> None:
    await add(books, receiver.url)
    await note(books, 1)
    copy = Deliverer(books.pool, Sealer(Fernet.generate_key().decode()), sender)
    await rounds(copy)
    assert receiver.seen == []
    assert await states(books) == [("waiting", 0)]
    # A key that was added in front encrypts; the one before still decrypts.
    grown = Sealer(f"{Fernet.generate_key().decode()},{KEY}")
    await rounds(Deliverer(books.pool, grown, sender))
    assert len(receiver.seen) == 1


INNER = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
    *("100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::"),
    *("fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "2002:0a00:0001::1", "64:ff9b::7f00:1"),
    *("2001:db8::1", "::10.0.0.1", "64:ff9b:1::a00:1"),
)


@pytest.mark.parametrize("address", INNER)
def test_inner_addresses_are_no_webhooks(address: str) -> None:
    literal = literal_address(address)
    assert literal is not None
    assert not is_outside(literal)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ValueError, match="inner"):
        check_url(f"https://{host}/hook")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://example.com/",
            "ftp://example.com/",
            "https://",
            "https:///x",
            "https://u:p@a.b/",
        ),
        *("https://localhost/", "https://intranet/x", "https://a.b:0/", "https://a.b:99999/"),
        *("https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/"),
        *("https://a.b/#x", "https://a b.c/", "https://ä.example/", "https://a.b/" + "x" * 2_000),
        *("https://a.b\\@127.0.0.1/", "https://[::1%25lo]/", "https://[fe80::1%25eth0]/"),
    ],
)
def test_what_is_no_url_of_a_webhook(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        check_url(url)


@pytest.mark.parametrize("url", ["https://8.8.8.8/", "https://a.example:8443/x?y=z"])
def test_what_is_one(url: str) -> None:
    assert check_url(url) == url


class Names(AbstractResolver):
    """Says these addresses in turn, and counts how often it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        return [
            ResolveResult(
                hostname=host, host=one, port=port, family=socket.AF_INET, proto=0, flags=0
            )
            for one in self.answers.pop(0)
        ]

    async def close(self) -> None:
        pass


async def test_a_name_with_an_inner_address_is_not_connected_to(receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2].partition("/")[0]
    names = Names(["127.0.0.1"], ["8.8.8.8", "127.0.0.1"])
    async with HttpSender(resolver=names) as guarded:
        for asked in (1, 2):
            outcome = await guarded.post(f"https://rebound.example:{port}/", {}, "{}")
            assert "inner network" in (outcome.error or "")
            assert names.asked == asked, "once a try"
    assert receiver.seen == []


async def test_the_name_is_looked_up_once_and_goes_into_host(receiver: Receiver) -> None:
    """The connection goes to the address that was checked: the name is not looked up again."""
    port = receiver.url.rpartition(":")[2].partition("/")[0]
    names = Names(["127.0.0.1"])
    async with HttpSender(resolver=names, anywhere=True) as plain:
        outcome = await plain.post(f"http://hooks.example:{port}/x", {}, "{}")
    assert outcome.succeeded
    assert names.asked == 1
    assert receiver.seen[0][0]["host"] == f"hooks.example:{port}"


async def test_https_asks_for_the_name_and_takes_no_other_ones_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the guard: the connection goes to the address that was checked, and the certificate has
    to be of the name in the URL.
    """
    folder = make_certificate(tmp_path, "hooks.example.com")
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(folder / "server.crt", folder / "server.key")
    asked_for: list[str | None] = []
    own.sni_callback = lambda _, name, __: asked_for.append(name)
    trusting = ssl.create_default_context(cafile=str(folder / "server.crt"))
    monkeypatch.setattr(addresses, "is_outside", lambda address: True)
    names = Names(["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"])
    receiver = Receiver()
    async with listening(receiver, own), HttpSender(resolver=names, tls=trusting) as sender:
        port = receiver.url.rpartition(":")[2].partition("/")[0]
        outcome = await sender.post(f"https://hooks.example.com:{port}/x", {}, "{}")
        assert outcome.succeeded, outcome.error
        other = await sender.post(f"https://other.example.com:{port}/x", {}, "{}")
        async with HttpSender(resolver=names) as of_the_world:
            stranger = await of_the_world.post(f"https://hooks.example.com:{port}/x", {}, "{}")
    assert asked_for == ["hooks.example.com", "other.example.com", "hooks.example.com"]
    [(headers, _)] = receiver.seen
    assert headers["host"] == f"hooks.example.com:{port}"
    for refused, why in ((other, "Hostname mismatch"), (stranger, "self-signed certificate")):
        assert not refused.succeeded
        assert why in (refused.error or "")


async def test_slack_gets_a_text_that_calls_nobody(
    books: Books, receiver: Receiver, deliverer: Deliverer
) -> None:
    """What Slack documents for incoming webhooks: a JSON object with `text`, in which `&`, `<` and
    `>` are escaped, since `<!channel>` and `<url|text>` are commands; at most 40,000 characters.
    """
    receiver_id = await add(books, receiver.url)
    await books.run("UPDATE taximeter.receivers SET kind = 'slack', secret = NULL")
    await books.run("UPDATE taximeter.receivers SET name = $1", "<!channel> & <https://x|y> *b*")
    await books.value("SELECT taximeter.write_test_notice($1)", receiver_id)
    await rounds(deliverer)
    [(headers, body)] = receiver.seen
    assert headers["content-type"] == "application/json"
    assert not [name for name in headers if name.startswith("webhook-")]
    said = json.loads(body)
    assert said.keys() == {"text"}
    first, about, *rest = said["text"].split("\n")
    assert first == "Taximeter: receiver.test of org"
    assert about == KINDS["receiver.test"].when
    assert "name: &lt;!channel&gt; &amp; &lt;https://x|y&gt; *b*" in rest
    assert "<" not in said["text"]
    for kind in KINDS:
        data = {f"name_{n}": "<" * 255 for n in range(12)}
        long = slack_body(Notice(receiver_id, kind, datetime.now(UTC), "o" * 128, data))
        assert len(json.loads(long)["text"]) < 40_000


async def test_metrics_say_since_when_nobody_sends(
    books: Books, receiver: Receiver, deliverer: Deliverer
) -> None:
    async def figures() -> tuple[dict[tuple[str, ...], float], float]:
        look = MoneyLook(books.pool)
        await look.refresh()
        families = {family.name: family.samples for family in look.families()}
        [late] = families["taximeter_notice_late_seconds"]
        found = families["taximeter_receivers"]
        return {tuple(one.labels.values()): one.value for one in found if one.value}, late.value

    assert await figures() == ({}, 0)
    await books.run("UPDATE taximeter.notices SET at = now() - interval '1 hour'")
    await note(books, 1)
    assert await figures() == ({}, 0), "there is nobody to be told"
    await add(books, receiver.url)
    await add(books, receiver.url, org=None)
    await books.run("UPDATE taximeter.notices SET spread_at = now(), at = at - interval '1 hour'")
    await note(books, 2)
    await books.run("UPDATE taximeter.notices SET at = at - interval '1 hour'")
    await books.run("UPDATE taximeter.receivers SET created_at = now() - interval '1 day'")
    both = {("organization", "active"): 1, ("installation", "active"): 1}
    of, late_s = await figures()
    assert of == both
    assert late_s >= 3600, "not given to anybody yet"
    receiver.answers = [500]
    await rounds(deliverer, 1)
    of, late_s = await figures()
    assert sorted(state for _, state in of) == ["active", "failing"]
    assert late_s == 0, "one is delivered, and the other waits for its next try"
    await books.run("UPDATE taximeter.receivers SET failures = 0, rests_until = now()")
    await books.run(
        "UPDATE taximeter.deliveries SET due_at = now() - interval '1 hour' WHERE state = 'waiting'"
    )
    assert (await figures())[1] >= 3600
    await books.run("UPDATE taximeter.installation SET silent_since = now(), silent_because = 'x'")
    assert (await figures())[1] == 0, "they wait for an operator, and another alarm says so"
    await books.run("UPDATE taximeter.installation SET silent_since = NULL, silent_because = NULL")
    await books.run("UPDATE taximeter.receivers SET state = 'disabled' WHERE org_id IS NULL")
    assert ("installation", "disabled") in (await figures())[0]
