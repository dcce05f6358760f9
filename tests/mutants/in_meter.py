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
        "            self._spawn(self._abandon(operation))\n",
        "            pass\n",
        "meter/test_client.py",
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
        "a host in front of a name is not a host",
        "meter/pricing/identity.py",
        "        if slash and rest and prefix in _HOSTS:\n",
        "        if False:\n",
        "prices/test_identity.py",
    ),
    Bug(
        "a model that sounds alike has the price",
        "meter/pricing/matching.py",
        "    return name.startswith(of) and _REST.fullmatch(name, len(of)) is not None\n",
        "    return name.startswith(of)\n",
        "prices/test_identity.py prices/test_known_answers.py",
    ),
    Bug(
        "reasoning without a price of its own is free",
        "meter/pricing/kinds.py",
        '    "reasoning": Kind("output", _MILLION, "reasoning tokens", _OUTPUTS),\n',
        '    "reasoning": Kind("output", _MILLION, "reasoning tokens"),\n',
        "prices/test_usage.py",
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
