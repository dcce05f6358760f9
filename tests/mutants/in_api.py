"""Bugs in the HTTP API."""

from __future__ import annotations

from typing import Final

from mutants.bug import Bug

BUGS: Final = (
    Bug(
        "a change of members locks the key that new allocations share",
        "api/sql/identity.sql",
        "SELECT id FROM organizations WHERE id = $1 FOR NO KEY UPDATE;",
        "SELECT id FROM organizations WHERE id = $1 FOR UPDATE;",
        "api/test_admin_pairs.py",
    ),
    Bug(
        "credits of a person lock the pool before the allocation",
        "api/routes/personal.py",
        '    await conn.execute(CREDITS["open_account"], org_id, user_id, admin.user_id)\n',
        "",
        "api/test_admin_lock_order.py::test_allocations_before_their_pool",
    ),
    Bug(
        "a stream is charged in a plain finally",
        "api/llm/streaming.py",
        "            self._spawn(self._end(relay, has_left=has_left))\n",
        "            if relay is not None:\n"
        "                relay.cancel()\n"
        "                await asyncio.gather(relay, return_exceptions=True)\n"
        "            self._stream.close()\n"
        "            await self._charge.break_off()\n",
        "api/test_llm_policies.py::test_the_servers_task_is_cancelled",
        item="plain finally",
    ),
    Bug(
        "an answer is given before its charge is made",
        "api/llm/charge.py",
        "        return await self._apply()\n\n",
        "        self._keepers.tracker.spawn(self._apply())\n        return None\n\n",
        "api/test_llm.py",
        item="BackgroundTask commit",
    ),
    Bug(
        "only text that is called content counts as delivered",
        "api/openai/output.py",
        "for key, one in part.items() if key not in _ENVELOPE]\n",
        'for key, one in part.items() if key in ("choices", "delta", "content")]\n',
        "attacks/test_answers_for_nothing.py::"
        "test_leaving_before_the_usage_is_paid_whatever_was_delivered",
    ),
    Bug(
        "a usage of nothing is believed",
        "api/llm/reported_usage.py",
        "    if not counts.prompt or (delivered and makes_output and not counts.output):\n",
        "    if False:\n",
        "attacks/test_answers_for_nothing.py::test_a_usage_that_cannot_be_read_is_none",
    ),
    Bug(
        "a cheap tier is the caller's wish",
        "api/llm/charge.py",
        "service_tier=self.service_tier)\n",
        "service_tier=self.service_tier or self._chat.service_tier)\n",
        "attacks/test_answers_for_nothing.py::test_a_cheap_tier_is_no_wish_of_the_caller",
    ),
    Bug(
        "leaving before the first byte is free",
        "api/llm/charge.py",
        "or (by_caller and self.begun)",
        "",
        "attacks/test_answers_for_nothing.py::test_leaving_before_the_first_byte_is_paid",
    ),
    Bug(
        "a charge that the store cannot take is told and not kept",
        "api/llm/charge.py",
        "            await pending.keep(self._due(amount, usage))\n",
        "",
        "attacks/test_killed_while_charging.py::"
        "test_what_was_told_in_an_outage_is_booked_after_a_restart",
    ),
    Bug(
        "the progress of a dead process is forgotten",
        "api/llm/unsent_charges.py",
        "                    left[due.key] = due\n",
        "                    if fields[5]:\n                        left[due.key] = due\n",
        "attacks/test_killed_while_charging.py",
    ),
    Bug(
        "what was delivered is reported with the heartbeat alone",
        "api/llm/charge.py",
        "            self._output.add(step)\n"
        "            self._keepers.progress.note(self, self._report)\n",
        "            self._output.add(step)\n",
        "attacks/test_killed_while_charging.py::"
        "test_what_is_delivered_is_reported_long_before_a_heartbeat",
    ),
    Bug(
        "a used key with another body is answered as the first",
        "api/web/idempotency.py",
        '        if first["body_hash"] != body_hash:\n',
        "        if False:\n",
        "api/test_idempotency.py::test_the_same_key_with_another_body_is_refused",
    ),
    Bug(
        "an answer is kept in a transaction of its own",
        "api/web/idempotency.py",
        "    answer = await work()\n",
        "    answer = await work()\n"
        "    await conn.execute('COMMIT')\n"
        "    await conn.execute('BEGIN')\n",
        "api/test_idempotency.py::test_there_is_no_effect_without_its_answer",
    ),
    Bug(
        "an API key calls models that it was not made for",
        "api/llm/callers.py",
        '    if "llm" not in grant.operations:\n',
        "    if False:\n",
        "api/test_keys.py::test_a_key_is_no_wider_than_it_was_made",
    ),
    Bug(
        "an API key pays from any organisation",
        "api/llm/callers.py",
        "    if org_header not in (None, grant.org_id):\n",
        "    if False:\n",
        "api/test_keys.py::test_a_key_is_no_wider_than_it_was_made",
    ),
    Bug(
        "the id of an API key is enough",
        "api/access/api_keys.py",
        '        if row is None or not hmac.compare_digest(row["digest"], digest):\n',
        "        if row is None:\n",
        "api/test_keys.py::test_a_key_is_no_wider_than_it_was_made",
    ),
    Bug(
        "a token for another audience is a session",
        "api/access/sessions.py",
        "                audience=self._audience,\n"
        "                issuer=self._issuer,\n"
        "                leeway=LEEWAY_S,\n"
        '                options={"require": _REQUIRED_CLAIMS},\n',
        "                issuer=self._issuer,\n"
        "                leeway=LEEWAY_S,\n"
        '                options={"require": _REQUIRED_CLAIMS, "verify_aud": False},\n',
        "api/test_auth.py",
    ),
    Bug(
        "an ID token is a session",
        "api/access/sessions.py",
        '        if kind not in ("Bearer", "ID") or (is_id_token and not self._id_tokens):\n',
        "        if False:\n",
        "api/test_auth.py",
    ),
    Bug(
        "an answer to somebody else's sign-in is taken",
        "api/browser/signing_in.py",
        "    if attempt is None or state is None or not attempt.is_answered_by(state):\n",
        "    if attempt is None or state is None:\n",
        "browser/test_sign_in.py::test_answers_that_are_to_no_attempt_of_this_browser_sign_nobody_in",
    ),
    Bug(
        "the nonce of an ID token is not compared",
        "api/sign_in/provider.py",
        "        if not hmac.compare_digest(said, nonce.encode()):\n",
        "        if False:\n",
        "browser/test_sign_in.py::test_an_id_token_of_another_attempt_is_refused",
    ),
    Bug(
        "scripts can read the cookie of a session",
        "api/browser/signing_in.py",
        "        httponly=True,\n",
        "        httponly=False,\n",
        "browser/test_attempts.py::test_dev_mode_asks_who_one_is",
    ),
    Bug(
        "the session before a sign-in goes on",
        "api/sql/browser_sessions.sql",
        "    DELETE FROM taximeter.browser_sessions WHERE digest = $5\n",
        "    DELETE FROM taximeter.browser_sessions WHERE digest = $5 AND false\n",
        "browser/test_sign_in.py::test_signing_in_changes_the_cookie_and_ends_the_one_before",
    ),
    Bug(
        "a link leads away from the console after signing in",
        "api/sign_in/attempts.py",
        "    if not below or path",
        "    if path",
        "browser/test_attempts.py::test_nobody_is_led_elsewhere",
    ),
    Bug(
        "the console's page hides what is not there",
        "api/browser/files.py",
        '    if path.startswith("session/"):\n',
        "    if False:\n",
        "browser/test_files.py::test_the_page_hides_nothing_else",
    ),
    Bug(
        "an organisation's admin is believed without a payment",
        "api/billing/vouching.py",
        "    if open_to_org_admins:\n",
        "    if True:\n",
        "api/test_vouching.py::test_an_organizations_admin_cannot_mint",
    ),
    Bug(
        "the payment of another organisation buys",
        "api/billing/vouching.py",
        "        if payment is not None and payment.org_id == org_id:\n",
        "        if payment is not None:\n",
        "api/test_vouching.py::test_an_organizations_admin_cannot_mint",
    ),
    Bug(
        "a payment pays for any number of credits",
        "api/billing/vouching.py",
        "    if payment.millicredits != millicredits:\n",
        "    if False:\n",
        "api/test_vouching.py::test_a_verified_payment_buys_what_it_has_paid_for_and_once",
    ),
    Bug(
        "who is invited is a member",
        "api/routes/members.py",
        '            "active" if directly else "invited",\n',
        '            "active",\n',
        "api/test_invitations.py::test_an_invitation_takes_nothing_from_its_user",
    ),
    Bug(
        "an answer is given before the live balance has the credits",
        "api/billing/live_balances.py",
        "        if not await self.apply_now(org_id, user_id):\n",
        "        if False:\n",
        "api/test_live_at_once.py::test_an_allocation_is_spent_in_the_next_request",
    ),
    Bug(
        "more is refunded of a request than it was charged",
        "api/routes/corrections.py",
        "    if body.credits > left:\n",
        "    if False:\n",
        "api/test_corrections.py::test_a_request_is_refunded_once_at_most_what_it_cost",
    ),
    Bug(
        "an adjustment takes credits that are allocated",
        "api/sql/corrections.sql",
        " AND ($2 > 0 OR available_credits + $2 >= 0)\n",
        "\n",
        "api/test_corrections.py::test_an_adjustment_takes_what_is_free_and_no_more",
    ),
    Bug(
        "a suspended organisation pays",
        "api/llm/payers.py",
        "    if membership.suspended:\n",
        "    if False:\n",
        "api/test_organizations.py::test_own_credits_pay_while_an_organization_is_suspended",
    ),
    Bug(
        "a revoked key is believed as in an outage",
        "api/access/api_keys.py",
        "        if age_s >= (max(self._outage_s, BELIEVED_S) if is_outage else BELIEVED_S):\n",
        "        if age_s >= max(self._outage_s, BELIEVED_S):\n",
        "api/test_keys.py::test_a_key_that_was_revoked_after_an_outage_is_not_believed_once_more",
    ),
    Bug(
        "a slow answer about keys is an outage",
        "api/access/api_keys.py",
        "        except TROUBLE:\n            return True\n        return False\n",
        "        except TROUBLE:\n            return True\n        return True\n",
        "api/test_keys.py::test_a_slow_answer_is_no_outage_and_silence_is",
    ),
    Bug(
        "the keys that a removed admin has made go on to pay",
        "api/sql/keys.sql",
        "  AND ((created_by = $2 AND NOT $5) OR (user_id = $2 AND NOT $4))\n",
        "  AND NOT $5 AND user_id = $2 AND NOT $4\n",
        "api/test_leaving.py::test_the_keys_of_an_admin_end_with_the_role",
    ),
    Bug(
        "a key of the installation does what it is not for",
        "api/access/system_keys.py",
        "        if not may(rights, method, tags):\n",
        "        if False:\n",
        "api/test_system_keys.py::test_a_key_does_what_it_is_for_and_is_gone_at_once",
    ),
    Bug(
        "an address that nobody has verified makes a system admin",
        "api/access/system_admins.py",
        "        address = principal.email if principal.email_verified else None\n",
        "        address = principal.email\n",
        "api/test_system_admins.py::test_an_address_that_nobody_has_verified_is_nobodys",
    ),
    Bug(
        "a Redis that dies as soon as it is reached leaves a journal in use",
        "api/processes/sidecar.py",
        "is None else directory.check,\n            )\n        except",
        "is None else directory.check,\n            )\n"
        "            await meter.promise()\n        except",
        "sidecar/test_metering.py",
    ),
    Bug(
        "whoever has an account with the issuer has a session",
        "api/access/sessions.py",
        "        path = lacking(claims, self._required)\n",
        "        path = None\n",
        "api/test_providers.py::test_google",
    ),
    Bug(
        "a report is read from a replica that is behind",
        "api/running/replica_reads.py",
        '        if found["position"] >= wanted["position"] and',
        "        if",
        "api/test_reports_from_a_replica.py",
    ),
    Bug(
        "a month is archived while events of it wait in Redis",
        "settler/archive/by_itself.py",
        "    if waiting:\n",
        "    if False:\n",
        "archive/test_commands.py",
    ),
    Bug(
        "an export has rows of other organisations",
        "settler/sql/exports.sql",
        "  FROM taximeter.usage_daily\n WHERE org_id = $1 AND day",
        "  FROM taximeter.usage_daily\n WHERE $1::text IS NOT NULL AND day",
        "api/test_exports.py::test_every_row_once_and_none_of_others",
    ),
    Bug(
        "an export ends after its first page",
        "settler/exports/reading.py",
        "        if len(rows) < PAGE_ROWS:\n",
        "        if len(rows) <= PAGE_ROWS:\n",
        "api/test_exports.py::test_every_row_once_and_none_of_others",
    ),
    Bug(
        "an export that fails in the middle ends like a whole one",
        "api/routes/exports.py",
        "            # Returning without an end makes the server close the connection.\n",
        '            await send({"type": "http.response.body", "body": b""})\n',
        "api/test_exports.py::test_what_fails_in_the_middle_is_not_taken_for_the_whole",
    ),
    Bug(
        "a dead letter is charged under an id of its own",
        "api/routes/books.py",
        'usage.service_name, row["request_id"], json.dumps(metadata)\n',
        "usage.service_name, f\"dead-{row['id']}\", json.dumps(metadata)\n",
        "api/test_console_routes.py::test_what_was_set_aside_is_answered_once_and_charged_once",
    ),
    Bug(
        "a dead letter is charged although it was answered",
        "api/routes/books.py",
        "    if done is None:\n        raise ApiError(409, f\"It was {row['state']}",
        "    if False:\n        raise ApiError(409, f\"It was {row['state']}",
        "api/test_console_routes.py::test_what_was_set_aside_is_answered_once_and_charged_once",
    ),
)
