"""Writes the headers of pages, which let nothing in from elsewhere, and the few pages that are not
the console's.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from html import escape
from typing import Final

from starlette.responses import HTMLResponse

from taximeter.api.sign_in.dev_people import Person

_ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NOWHERE_ELSE: Final = "frame-ancestors 'none'; base-uri 'none'; object-src 'none'"
_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
main { max-width: 34rem; margin: 12vh auto 4rem; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 0 .5rem }
ul { list-style: none; padding: 0 }
button, input[type=text] { font: inherit; padding: .5rem .75rem; border-radius: .4rem;
  border: 1px solid GrayText }
li button { width: 100%; text-align: left; margin: .2rem 0; background: Canvas; color: CanvasText;
  cursor: pointer }
li small { display: block }
label { display: block; margin: 1rem 0 }
"""


def file_headers(*, is_hashed: bool) -> dict[str, str]:
    """Of a file of the console: one with a hash in its name never changes."""
    kept = "public, max-age=31536000, immutable" if is_hashed else "no-cache"
    return {**_ALWAYS, "Cache-Control": kept}


def index_headers(nonce: str) -> dict[str, str]:
    """Of the console's one page. Scripts are files of ours; styles that scripts make have the nonce
    of this very answer.
    """
    policy = (
        "default-src 'none'; script-src 'self'; "
        f"style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; font-src 'self'; "
        f"connect-src 'self'; manifest-src 'self'; form-action 'self'; {_NOWHERE_ELSE}"
    )
    return _page_headers(policy)


def make_nonce() -> str:
    """Good for one answer."""
    return secrets.token_urlsafe(18)


def say(status: int, title: str, sentence: str, link: tuple[str, str]) -> HTMLResponse:
    """A page with a sentence and a link: its words, and where it leads. Everything is text."""
    words, place = link
    return _page(
        status,
        title,
        f'<p>{escape(sentence)}</p><p><a href="{escape(place)}">{escape(words)}</a></p>',
    )


def choose(people: list[Person], place: str, refusal: str | None) -> HTMLResponse:
    """The page of dev mode to choose who one is, which needs no script. `place` is where the
    console goes on; `refusal` says what was wrong with the last choice.
    """
    shown = "".join(
        f'<li><button name="user_id" value="{escape(one.user_id)}">{escape(one.user_id)}'
        f"<small>{escape('; '.join(filter(None, (one.email, *one.places[:3]))))}</small>"
        "</button></li>"
        for one in people
    )
    to = f'<input type="hidden" name="to" value="{escape(place)}">'
    admin = (
        '<label><input type="checkbox" name="system_admin" value="1"> '
        "with the role of a system admin</label>"
    )
    known = f"<ul>{shown}</ul>" if people else "<p>Nobody is a member of an organization yet.</p>"
    wrong = f'<p role="alert">{escape(refusal)}</p>' if refusal else ""
    form = '<form method="post" action="/console/session/choose">'
    return _page(
        422 if refusal else 200,
        "Who are you?",
        f"<p>This is dev mode: be anybody.</p>{wrong}{form}{to}{admin}{known}</form>"
        f'{form}{to}<label>Somebody else, by id: <input type="text" name="user_id" required '
        f'maxlength="255" autocomplete="off"></label>{admin}<button>Sign in</button></form>',
    )


def _page(status: int, title: str, body: str) -> HTMLResponse:
    nonce = make_nonce()
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; {_NOWHERE_ELSE}"
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)} - Taximeter</title><style nonce="{nonce}">{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>"
    )
    return HTMLResponse(text, status, _page_headers(policy))


def _page_headers(policy: str) -> dict[str, str]:
    headers: Mapping[str, str] = {
        "Content-Security-Policy": policy,
        "X-Frame-Options": "DENY",
        "Cache-Control": "no-store",
    }
    return {**_ALWAYS, **headers}
