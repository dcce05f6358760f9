"""Writes the page of refusals from their table."""

from __future__ import annotations

import textwrap

from taximeter.meter.wire.refusals import REFUSALS, RETRY_AFTER_S, Said

_HEAD = f"""# Refusals

What the meter refuses, and what each surface answers for it. This page is made of the one table
that all of them read, `meter/wire/refusals.py`, by `WRITE_DOCS=1 pytest
tests/api/test_refusals_table.py`.

- **Admin API**: what people's programs manage credits with. It takes and charges nothing itself, so
  it meets few of them.
- **LLM route**: what OpenAI's clients talk to. `details.reason` stands behind the code.
- **Sidecar**: what gateways ask over HTTP. Figures are whole millicredits.
- **Forward auth**: what nginx, Caddy, Traefik and Envoy ask. With `refuse_with=403` the answers
  402, 409 and 429 are 403, and `X-Taximeter-Status` says what was meant.

Where the same request may succeed a little later, the answer has `Retry-After: {RETRY_AFTER_S}`
(the admin API: with 503). The LLM route answers 402 and 409 with `X-Should-Retry: false`.
What may be tried again is marked *again*.

"""
_SURFACES = ("admin API", "LLM route", "sidecar", "forward auth")
_WHY = "\n## Why surfaces differ\n\n"


def _cell(said: Said) -> str:
    reason = f" (`{said.reason}`)" if said.reason else ""
    return f"{said.status} `{said.code}`{reason}"


def page() -> str:
    """The text of the page."""
    lines, causes_of = [], dict[str, list[str]]()
    for cause, row in REFUSALS.items():
        answers = zip(_SURFACES, (row.admin, row.llm, row.sidecar, row.gate), strict=True)
        said = ", ".join(f"{name} {_cell(answer)}" for name, answer in answers if answer)
        again = " (*again*)" if row.retry else ""
        text = f"- **{row.errors}**{again}: {row.when}. {said[0].upper()}{said[1:]}."
        lines.append(textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False))
        if row.why:
            causes_of.setdefault(row.why, []).append(f"`{cause}`")
    reasons = [
        textwrap.fill(f"- {', '.join(causes)}: {why}", 100, subsequent_indent="  ")
        for why, causes in causes_of.items()
    ]
    return _HEAD + "\n".join(lines) + "\n" + _WHY + "\n".join(reasons) + "\n"
