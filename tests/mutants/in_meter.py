"""Bugs in the client."""

from __future__ import annotations

from typing import Final

from mutants.bug import Bug

BUGS: Final = (
    Bug(
        "request ids are shared by all organisations",
        "meter/keys.py",
        '    return f"{org_id}/{request_id}"',
        '    return f"acme/{request_id}"',
        "meter/test_client.py sidecar/test_routes.py",
        item="shared request id across orgs",
    ),
    Bug(
        "digits of any script are digits",
        "meter/limits.py",
        'r"[A-Za-z0-9._:-]{1,128}"',
        r'r"[\w._:-]{1,128}"',
        "meter/test_client.py",
        item="\\d regex",
    ),
    Bug(
        "a server is admitted that nobody has approved",
        "meter/handshake.py",
        "    if approved != run_id:\n",
        "    if not approved:\n",
        "meter/test_faults.py::test_a_restarted_server_admits_nobody_until_it_is_approved",
    ),
    Bug(
        "leaving the block gives back what was spent",
        "meter/hold.py",
        "            await self.commit(self._spent)\n",
        "            await self.release()\n",
        "meter/test_client.py",
    ),
    Bug(
        "a cancelled reserve leaves its hold",
        "meter/dispatch.py",
        "            self._giving_back.add(operation)\n",
        "            pass\n",
        "meter/test_client.py",
    ),
    Bug(
        "what is refused after a lost reply is told as refused",
        "meter/pending.py",
        '        if self.uncertain and reply.startswith(b"-"):\n',
        "        if False:\n",
        "meter/test_lost_replies.py",
    ),
    Bug(
        "what was done before memory ran out is told as refused",
        "meter/calls.py",
        "            if pending.uncertain or pending.operation.op not in TAKES_CREDIT\n",
        "            if pending.operation.op not in TAKES_CREDIT\n",
        "meter/test_lost_replies.py",
    ),
    Bug(
        "a doubt is forgotten while its account is loaded",
        "meter/dispatch.py",
        "                raw = await self._submit(operation, in_doubt=in_doubt)\n",
        "                raw = await self._submit(operation)\n",
        "meter/test_lost_replies.py",
    ),
    Bug(
        "an account that nobody knows now was never charged",
        "meter/dispatch.py",
        "                if in_doubt:\n",
        "                if False:\n",
        "meter/test_lost_replies.py",
    ),
    Bug(
        "one who is not waited for waits with those who are",
        "meter/shard.py",
        '                if wait == "none" or reply.startswith(b"-"):\n',
        '                if reply.startswith(b"-"):\n',
        "meter/test_waits.py",
    ),
    Bug(
        "any server confirms what another one has done",
        "meter/confirm.py",
        "            if one.server == here and one.writes <= writes:\n",
        "            if True:\n",
        "meter/test_waits.py",
    ),
    Bug(
        "a replica is asked once, and waited for until it tells by itself",
        "meter/waits.py",
        '_SERVER_TIMEOUT_MS: Final = "1"\n_ASK_AGAIN_S: Final = 0.002\n',
        '_SERVER_TIMEOUT_MS: Final = "1500"\n_ASK_AGAIN_S: Final = 2.0\n',
        "meter/test_waits.py::test_a_lone_charge_does_not_wait_for_the_replicas_next_second",
    ),
    Bug(
        "the client of the library repeats what it has sent",
        "meter/connect.py",
        "        retry=Retry(NoBackoff(), 0),\n",
        "        retry=Retry(NoBackoff(), 3),\n"
        "        retry_on_error=[__import__('redis').ConnectionError],\n",
        "meter/test_faults.py::test_the_library_repeats_nothing_of_its_own_accord",
        item="library retries on",
    ),
    Bug(
        "each part of a request is rounded up, not their sum",
        "meter/pricing/price.py",
        "                total += price * count\n",
        "                total += -(-price * count // self.parts) * self.parts\n",
        "prices/test_pricer.py prices/test_known_answers.py",
    ),
    Bug(
        "cached tokens are paid as prompt too",
        "meter/pricing/usage.py",
        '        kinds["input"] = prompt - cached\n',
        '        kinds["input"] = prompt\n',
        "prices/test_usage.py prices/test_known_answers.py",
    ),
    Bug(
        "parts of an unusual prompt are paid as prompt too",
        "meter/pricing/parts.py",
        "    kinds = {**kinds, rest: total - sum(kinds.values())}\n",
        "    kinds = {**kinds, rest: total}\n",
        "prices/test_usage.py prices/test_known_answers.py",
    ),
    Bug(
        "402 for credits that open holds keep",
        "meter/sidecar/refusals.py",
        "    if error.only_holds_in_the_way:\n",
        "    if False:\n",
        "sidecar/test_refusals.py",
    ),
    Bug(
        "a key of the sidecar may do what it was not made for",
        "meter/sidecar/grants.py",
        "        if operation not in self.operations:\n",
        "        if False:\n",
        "api/test_keys.py::test_a_sidecar_checks_what_a_key_is_for",
    ),
    Bug(
        "a credit line bounds one request, not their sum",
        "meter/credit_line.py",
        "        if self._outstanding.get(org_id, 0) + operation.amount > self._limits[org_id]:\n",
        "        if operation.amount > self._limits[org_id]:\n",
        "meter/test_credit_line.py",
    ),
    Bug(
        "what went on credit is charged under an id of its own",
        "meter/fail_open.py",
        "            await self._inner.ask(entry.due)\n",
        '            await self._inner.ask(entry.due._replace(key=entry.due.key + ".credit"))\n',
        "meter/test_credit_line.py",
    ),
    Bug(
        "a process that takes up a journal forgets what it has to charge",
        "meter/credit_line.py",
        "                if entry is not None:\n                    self._set_due(entry, due)\n",
        "                pass\n",
        "meter/test_credit_line.py",
    ),
)
