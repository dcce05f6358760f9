"""A shard in plain Python: what the scripts must answer and store, without a thought for speed."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Account:
    available: int
    applied: int
    granted: int
    held: int = 0


@dataclass
class Request:
    """An open hold, or the outcome of one."""

    state: str
    account: str
    reserved: int
    charged: int = 0
    progress: int = 0
    owner: str = ""
    start: int = 0
    generation: int = 0
    voided: str = ""
    """Owners whose reserves were given back, the last one first, each between spaces."""


@dataclass
class Model:
    """Accounts, requests and events of one shard. Every method answers what the script answers."""

    accounts: dict[str, Account] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    events: list[tuple[str, str, str, int, int, str]] = field(default_factory=list)
    epoch: int = 1
    seq: int = 0
    start: int = 1
    uncharged: int = 0

    def operate(self, op: str, account: str, key: str, amount: int, owner: str) -> str:
        known = self.requests.get(key)
        mine = self.accounts.get(account)
        if mine is None:
            return "-2"
        balance = f"{mine.available} {mine.held}"
        self._voided = " "
        if known and known.state == "voided":
            self._voided = known.voided
            if op != "reserve" or f" {owner} " not in known.voided:
                known = None  # To all but late copies of that reserve the id is unused.
        if known and known.account != account:
            # Whose it is and what it came to is nobody else's business.
            return f"-4 {mine.available} {mine.held} foreign 0 0"
        return {
            "reserve": self._reserve,
            "charge": self._charge,
            "commit": self._commit,
            "release": self._release,
            "touch": self._touch,
            "void": self._void,
            "expire": self._end,
        }[op](mine, account, key, known, amount, owner, balance)

    def _known(self, code: int, mine: Account, known: Request) -> str:
        what = f"{known.state} {known.reserved} {known.charged if known.state != 'open' else 0}"
        return f"{code} {mine.available} {mine.held} {what}"

    def _reserve(
        self, mine: Account, account: str, key: str, known: Request | None, amount: int, owner: str,
        balance: str,
    ) -> str:  # fmt: skip
        if known and known.state == "open" and known.reserved == amount and known.owner == owner:
            return f"1 {balance}"
        if known:
            same = known.state != "charged" and known.reserved == amount
            return self._known(2 if same else -4, mine, known)
        if mine.available < amount:
            return f"-1 {balance}"
        mine.available -= amount
        mine.held += amount
        self.requests[key] = Request("open", account, amount, owner=owner, start=self.start)
        return f"1 {mine.available} {mine.held}"

    def _charge(
        self, mine: Account, account: str, key: str, known: Request | None, amount: int, owner: str,
        balance: str,
    ) -> str:  # fmt: skip
        if known:
            same = known.state == "charged" and known.charged == amount
            if same and owner and known.owner == owner:
                return f"1 {balance}"
            return self._known(2 if same else -4, mine, known)
        if mine.available < amount:
            return f"-1 {balance}"
        mine.available -= amount
        self._event("charge", account, key, amount, 0, "-")
        self.requests[key] = Request("charged", account, 0, amount, owner=owner)
        return f"1 {mine.available} {mine.held}"

    def _commit(
        self, mine: Account, account: str, key: str, known: Request | None, amount: int, owner: str,
        balance: str,
    ) -> str:  # fmt: skip
        if known and known.state == "open":
            mine.available += known.reserved - amount
            mine.held -= known.reserved
            self._event("commit", account, key, amount, known.reserved, "-")
            self.requests[key] = Request("committed", account, known.reserved, amount)
            return f"1 {mine.available} {mine.held}"
        if known and known.state in ("committed", "charged", "released"):
            same = known.state == "committed" and known.charged == amount
            return self._known(2 if same else -4, mine, known)
        before = known.charged if known else 0
        if known and 0 < before >= amount:
            return f"3 {balance} {before}"
        mine.available -= amount - before
        reserved = known.reserved if known else 0
        flag = "rest" if before else "late"
        self._event("commit", account, key, amount - before, reserved, flag)
        self.requests[key] = Request("committed", account, reserved, amount)
        return f"3 {mine.available} {mine.held} {amount}"

    def _release(
        self, mine: Account, account: str, key: str, known: Request | None, amount: int, owner: str,
        balance: str,
    ) -> str:  # fmt: skip
        if known is None:
            return f"-5 {balance}"
        if known.state != "open":
            return self._known(2 if known.state in ("released", "expired") else -4, mine, known)
        mine.available += known.reserved
        mine.held -= known.reserved
        self.requests[key] = Request("released", account, known.reserved)
        return f"1 {mine.available} {mine.held}"

    def _touch(
        self, mine: Account, account: str, key: str, known: Request | None, amount: int, owner: str,
        balance: str,
    ) -> str:  # fmt: skip
        if known is None:
            return f"-5 {balance}"
        if known.state != "open":
            return self._known(-4, mine, known)
        known.progress, known.start = max(known.progress, amount), self.start
        return f"1 {balance}"

    def _void(
        self, mine: Account, account: str, key: str, known: Request | None, amount: int, owner: str,
        balance: str,
    ) -> str:  # fmt: skip
        if not owner:
            return "-3 owner"
        if known and known.state != "open":
            return self._known(2, mine, known)
        if known and known.owner != owner:
            return self._known(-4, mine, known)
        if known:
            amount = known.reserved
            mine.available += amount
            mine.held -= amount
        voided = f" {owner}{self._voided}"
        self.requests[key] = Request("voided", account, amount, voided=voided)
        return f"1 {mine.available} {mine.held}"

    def _end(
        self, mine: Account, account: str, key: str, known: Request | None, amount: int, owner: str,
        balance: str,
    ) -> str:  # fmt: skip
        """The end of a hold that was kept elsewhere, with what it has reported."""
        if known and known.state != "open":
            return self._known(2 if known.state == "expired" else -4, mine, known)
        reserved = known.reserved if known else 0
        mine.available += reserved - amount
        mine.held -= reserved
        if amount:
            self._event("expire", account, key, amount, reserved, "-")
        self.requests[key] = Request("expired", account, reserved, amount)
        return f"1 {mine.available} {mine.held}"

    def expire(self, key: str) -> None:
        hold = self.requests[key]
        mine = self.accounts[hold.account]
        progress = hold.progress if hold.start == self.start else 0
        self.uncharged += hold.progress - progress
        mine.available += hold.reserved - progress
        mine.held -= hold.reserved
        if progress:
            self._event("expire", hold.account, key, progress, hold.reserved, "-")
        self.requests[key] = Request("expired", hold.account, hold.reserved, progress)

    def apply(self, account: str, number: int, delta: int, hold: str = "") -> str:
        mine = self.accounts.get(account)
        if mine is None:
            return "-2"
        if mine.applied >= number:
            return f"2 {mine.applied}"
        if mine.applied < number - 1:
            return f"-6 {mine.applied}"
        known = self.requests.get(hold)
        if known and known.state == "open" and known.account == account:
            mine.available += known.reserved
            mine.held -= known.reserved
            self.requests[hold] = Request("released", account, known.reserved)
        mine.available += delta
        mine.granted += delta
        mine.applied = number
        return f"1 {number}"

    def load(self, account: str, available: int, applied: int) -> str:
        mine = self.accounts.get(account)
        if mine is None:
            mine = self.accounts[account] = Account(available, applied, granted=available)
            return f"1 {available} 0 {applied}"
        return f"2 {mine.available} {mine.held} {mine.applied}"

    def rotate(self) -> None:
        for key, request in list(self.requests.items()):
            if request.state == "open":
                continue
            request.generation += 1
            if request.generation == 2:
                del self.requests[key]

    def reopen(self, whole: bool) -> dict[str, tuple[int, int]]:
        """The shard begins a new epoch: what Postgres would load again is what was granted less
        charged, by account. Those with open holds are there at once, the others are gone. Outcomes
        stay when nothing was lost.
        """
        left = {
            name: (mine.available + mine.held, mine.applied) for name, mine in self.accounts.items()
        }
        self.accounts = {name: mine for name, mine in self.accounts.items() if self._holds(name)}
        if not whole:
            self.requests = {key: r for key, r in self.requests.items() if r.state == "open"}
            self.start += 1
        self.seq = 0
        self.epoch += 1
        return left

    def _holds(self, account: str) -> bool:
        return any(r.state == "open" and r.account == account for r in self.requests.values())

    def _event(
        self, kind: str, account: str, key: str, amount: int, reserved: int, flags: str
    ) -> None:
        self.seq += 1
        self.events.append((kind, account, key, amount, reserved, flags))
