"""Writes the page of refusals from their table."""

from __future__ import annotations

import textwrap

from taximeter.meter.wire.http_refusals import HTTP_REFUSALS, HttpRefusal
from taximeter.meter.wire.refusals import REFUSALS, RETRY_AFTER_S, RefusalRow, Said

_HEAD = f"""# Refusals

What is refused, and what each surface answers for it. This page is made of the one table that all
of them read, `meter/wire/refusals.py` and `http_refusals.py`, by `WRITE_DOCS=1 pytest
tests/api/test_refusals_table.py`.

- **Admin API**: what people's programs manage credits with. It takes and charges nothing itself, so
  it meets few refusals of the meter.
- **LLM route**: what OpenAI's clients talk to. `details.reason` stands behind the code.
- **Sidecar**: what gateways ask over HTTP. Figures are whole millicredits.
- **Forward auth**: what nginx, Caddy, Traefik and Envoy ask. With `refuse_with=403` the answers
  402, 409 and 429 are 403, and `X-Taximeter-Status` says what was meant.

Where the same request may succeed a little later, it is marked *again*, and the answer has
`Retry-After`: {RETRY_AFTER_S}, unless it is known to take longer (the admin API: with 429 and 503).
The LLM route answers 402 and 409 with `X-Should-Retry: false`. Who sends a head that is too long,
or does not end it in time, gets a 400 without JSON.

## By the meter

"""
_HTTP = "\n## By the surfaces themselves\n\n"
_SURFACES = ("admin API", "LLM route", "sidecar", "forward auth")
_WHY = "\n## Why surfaces differ\n\n"


def _cell(said: Said) -> str:
    reason = f" (`{said.reason}`)" if said.reason else ""
    return f"{said.status} `{said.code}`{reason}"


def page() -> str:
    """The text of the page."""
    causes_of = dict[str, list[str]]()
    for cause, why in (
        *((cause, row.why) for cause, row in REFUSALS.items()),
        *((cause, row.why) for cause, row in HTTP_REFUSALS.items()),
    ):
        if why:
            causes_of.setdefault(why, []).append(f"`{cause}`")
    of_meter = [_line(row.errors, row) for row in REFUSALS.values()]
    of_http = [_line(cause, row) for cause, row in HTTP_REFUSALS.items()]
    reasons = [
        textwrap.fill(f"- {', '.join(causes)}: {why}", 100, subsequent_indent="  ")
        for why, causes in causes_of.items()
    ]
    parts = (_HEAD, of_meter, _HTTP, of_http, _WHY, reasons)
    return "".join(one if isinstance(one, str) else "\n".join(one) + "\n" for one in parts)


def _line(name: str, row: RefusalRow | HttpRefusal) -> str:
    answers = zip(_SURFACES, (row.admin, row.llm, row.sidecar, row.gate), strict=True)
    cells = {surface: _cell(answer) for surface, answer in answers if answer}
    if len(cells) == len(_SURFACES) and len(set(cells.values())) == 1:
        said = f"Everywhere {next(iter(cells.values()))}"
    else:
        said = ", ".join(f"{surface} {cell}" for surface, cell in cells.items())
    again = " (*again*)" if row.retry else ""
    text = f"- **{name}**{again}: {row.when}. {said[0].upper()}{said[1:]}."
    return textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False)
