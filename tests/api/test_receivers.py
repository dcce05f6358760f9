"""Receivers of notices: who may keep them, what is shown of them, and what is sent again."""

from __future__ import annotations

from typing import Any

import pytest
from support.api_world import NOTICE_KEY
from support.world import BILLING, World

from taximeter.settler.notices.sealing import Sealer

OURS = f"{BILLING}/orgs/acme/receivers"
URL = "https://hooks.example/taximeter"


async def made(world: World, path: str = OURS, **body: Any) -> dict[str, Any]:
    headers = world.root if "system" in path else world.auth("boss")
    answer = await world.client.post(path, json={"name": "r", "url": URL, **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    one: dict[str, Any] = answer.json()
    return one


@pytest.fixture
async def acme(world: World) -> World:
    assert (await world.subscribe()).status_code == 200
    return world


async def test_a_secret_is_shown_once_and_kept_encrypted(acme: World) -> None:
    one = await made(acme)
    assert one["secret"].startswith("whsec_")
    assert one["receiver"]["url"] == URL
    assert one["receiver"]["types"] == ["*"]
    listed = await acme.client.get(OURS, headers=acme.auth("boss"))
    assert listed.json()["receivers"] == [one["receiver"]]
    assert one["secret"] not in listed.text
    row = await acme.stores.pool.fetchrow("SELECT * FROM taximeter.receivers")
    assert row is not None
    kept = b" ".join(bytes(value) for value in row.values() if isinstance(value, bytes))
    assert b"hooks.example" not in kept
    assert one["secret"][6:].encode() not in kept
    assert Sealer(NOTICE_KEY).open(row["secret"], row["key_mark"]) == one["secret"]
    path = f"{OURS}/{one['receiver']['receiver_id']}/secret"
    rotated = (await acme.client.post(path, headers=acme.auth("boss"))).json()
    assert rotated["secret"] != one["secret"]
    assert rotated["receiver"]["old_secret_until"] is not None
    row = await acme.stores.pool.fetchrow("SELECT * FROM taximeter.receivers")
    assert row is not None
    assert Sealer(NOTICE_KEY).open(row["old_secret"], row["key_mark"]) == one["secret"]
    audit = await acme.client.get(f"{BILLING}/orgs/acme/audit", headers=acme.auth("boss"))
    actions = [entry["action"] for entry in audit.json()["entries"]]
    assert actions[:2] == ["org.receiver.rotated", "org.receiver.created"]
    for secret in (one["secret"], rotated["secret"]):
        assert secret[6:] not in audit.text


async def test_slack_is_told_without_a_signature_and_its_address_is_a_secret(acme: World) -> None:
    one = await made(acme, kind="slack", url="https://hooks.slack.com/services/T0/B0/SECRET")
    assert one["secret"] is None
    assert one["receiver"]["url"] == "https://hooks.slack.com/…"
    path = f"{OURS}/{one['receiver']['receiver_id']}/secret"
    assert (await acme.client.post(path, headers=acme.auth("boss"))).status_code == 400


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"url": "http://hooks.example/"}, 400, "https"),
        ({"url": "https://127.0.0.1/"}, 400, "inner"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, 400, "inner"),
        ({"url": "https://intranet/"}, 400, "domain"),
        ({"types": ["pool.lo"]}, 422, "types"),
        ({"percents": [85]}, 422, "percents"),
        ({"types": []}, 422, "types"),
        ({"kind": "pager"}, 422, "kind"),
        ({"kind": "email", "url": "mailto:ann@example.com"}, 400, "TAXIMETER_SMTP_URL"),
    ],
)
async def test_what_is_no_receiver(
    acme: World, body: dict[str, Any], status: int, said: str
) -> None:
    whole = {"name": "r", "url": URL, **body}
    answer = await acme.client.post(OURS, json=whole, headers=acme.auth("boss"))
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert await acme.stores.pool.fetchval("SELECT count(*) FROM taximeter.receivers") == 0


async def test_there_are_at_most_ten_and_a_foreign_one_is_not_there(acme: World) -> None:
    assert (await acme.subscribe("other", "their-boss")).status_code == 200
    ours = [await made(acme, name=f"r{n}") for n in range(10)]
    answer = await acme.client.post(OURS, json={"name": "r", "url": URL}, headers=acme.auth("boss"))
    assert answer.status_code == 409
    of_system = await made(acme, f"{BILLING}/system/receivers")
    headers = acme.auth("their-boss")
    for one in (ours[0], of_system):
        receiver_id = one["receiver"]["receiver_id"]
        path = f"{BILLING}/orgs/other/receivers/{receiver_id}"
        for method, rest in (("DELETE", ""), ("POST", "/secret"), ("GET", "/deliveries")):
            answer = await acme.client.request(method, f"{path}{rest}", headers=headers)
            assert answer.status_code == 404, (method, rest)
    path = f"{BILLING}/system/receivers/{ours[0]['receiver']['receiver_id']}"
    assert (await acme.client.delete(path, headers=acme.root)).status_code == 404
    assert await acme.stores.pool.fetchval("SELECT count(*) FROM taximeter.receivers") == 11


async def test_notices_of_a_span_of_time_are_sent_again_in_order(acme: World) -> None:
    pool, headers = acme.stores.pool, acme.auth("boss")
    receiver_id = (await made(acme, types=["member.joined", "member.left"]))["receiver"][
        "receiver_id"
    ]
    for n, (type_, org) in enumerate(
        [
            ("member.joined", "acme"),
            ("member.left", "acme"),
            ("key.created", "acme"),
            ("member.joined", "other"),
        ]
    ):
        await pool.execute(
            "INSERT INTO taximeter.notices (type, org_id, subject, data)"
            " VALUES ($1, $2, 's', jsonb_build_object('n', $3::integer))",
            *(type_, org, n),
        )
    await pool.execute("UPDATE taximeter.notices SET spread_at = now()")

    async def resend(status: int = 200, **body: Any) -> Any:
        answer = await acme.client.post(f"{OURS}/{receiver_id}/resend", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json().get("notices")

    since = {"since": "2020-01-01T00:00:00Z"}
    before = await pool.fetchval(
        "SELECT count(*) FROM taximeter.notices WHERE org_id = 'acme' AND type LIKE 'member%'"
    )
    assert await resend(**since) == before
    assert await resend(**since) == 0, "they are on their way"
    firsts = await pool.fetch(
        "SELECT subject, count(*) FILTER (WHERE due_at < 'infinity') AS due FROM"
        " taximeter.deliveries GROUP BY subject"
    )
    assert {row["due"] for row in firsts} == {1}, "the first of each subject"
    await pool.execute("UPDATE taximeter.deliveries SET state = 'delivered', ended_at = now()")
    assert await resend(**since) == 0
    assert await resend(**since, also_delivered=True) == before
    await pool.execute("UPDATE taximeter.deliveries SET state = 'failed', ended_at = now()")
    notice_id = await pool.fetchval("SELECT id FROM taximeter.notices WHERE data ->> 'n' = '0'")
    assert await resend(notice_id=str(notice_id)) == 1
    foreign = await pool.fetchval("SELECT id FROM taximeter.notices WHERE data ->> 'n' = '3'")
    await resend(404, notice_id=str(foreign))
    await resend(422)
    await resend(422, since="2020-01-01T00:00:00")
    log = (
        await acme.client.get(f"{OURS}/{receiver_id}/deliveries?limit=1", headers=headers)
    ).json()
    assert len(log["deliveries"]) == 1
    rest = await acme.client.get(
        f"{OURS}/{receiver_id}/deliveries?cursor={log['next']}", headers=headers
    )
    assert len(rest.json()["deliveries"]) == before - 1
    path = f"{OURS}/{receiver_id}"
    paused = await acme.client.patch(path, json={"state": "paused"}, headers=headers)
    assert paused.json()["receiver"]["state"] == "paused"
    await resend(400, **since)
    assert (await acme.client.post(f"{path}/test", headers=headers)).status_code == 400


@pytest.mark.parametrize("api_options", [{"notice_keys": None}])
async def test_without_a_key_there_are_no_receivers(acme: World) -> None:
    answer = await acme.client.post(OURS, json={"name": "r", "url": URL}, headers=acme.auth("boss"))
    assert answer.status_code == 400
    assert "TAXIMETER_NOTICE_KEYS" in answer.json()["detail"]


@pytest.mark.parametrize("api_options", [{"smtp_url": "smtp://localhost"}])
async def test_members_are_mailed_and_strangers_are_not(acme: World) -> None:
    await acme.add_member("ann")
    await acme.stores.pool.execute(
        "INSERT INTO taximeter.users (user_id, email) VALUES ('ann', 'Ann@example.com'),"
        " ('eve', 'eve@example.com') ON CONFLICT (user_id) DO UPDATE SET email = EXCLUDED.email"
    )
    one = await made(acme, kind="email", url="mailto:ann@example.com")
    assert (one["secret"], one["receiver"]["url"]) == (None, "mailto:ann@example.com")
    for url in ("mailto:eve@example.com", "ann@example.com"):
        body = {"name": "r", "kind": "email", "url": url}
        answer = await acme.client.post(OURS, json=body, headers=acme.auth("boss"))
        assert answer.status_code == 400, url
    body = {"name": "r", "kind": "email", "url": "mailto:ops@example.com"}
    answer = await acme.client.post(OURS, json=body, headers=acme.root)
    assert answer.status_code == 200, "a system admin says so"
