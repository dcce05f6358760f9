"""Asks the admin API as the person or the key whose token it has, and says what came of it.

A request is sent again only when that cannot take effect twice: reads, what sets a value, and what
carries an Idempotency-Key. What is still without an answer then is told as not known, with the key
to ask again by; it is never told as refused.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import httpx

from taximeter.api.access.dev_tokens import DevKeyError, load_dev_key
from taximeter.api.commands.owner import operator
from taximeter.api.commands.token import running_dev
from taximeter.api.settings.api import ApiSettings
from taximeter.settler.books.settings import credential

URL_DEFAULT: Final = "http://127.0.0.1:8084"
TIMEOUT_S: Final = 60.0
TRIES: Final = 4
PAUSE_S: Final = 0.5
DEV_TOKEN_S: Final = 600

REFUSED: Final = 1
NOT_KNOWN: Final = 3
"""Exit codes; click's own for a wrong command line is 2."""


class Refused(click.ClickException):
    """The API has answered, and done nothing."""

    exit_code = REFUSED


class NotKnown(click.ClickException):
    """No answer came: what was asked for may have taken effect."""

    exit_code = NOT_KNOWN


class Unreachable(click.ClickException):
    """No answer came, and nothing had been asked to change."""

    exit_code = REFUSED


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `repeatable` says that it takes effect once however often it is sent; `asked_again`
    is how a person asks for the same once more.
    """

    method: str
    path: str
    query: Mapping[str, Any]
    body: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    repeatable: bool = True
    asked_again: str = "the same command again takes effect once"
    answers_503: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """What says who calls, and where it comes from, for messages. Its text shows in none."""

    text: str = field(repr=False)
    source: str


def token() -> Token:
    """Of TAXIMETER_API_TOKEN, or of the file `api_token` of the folder of credentials, or minted
    with the key of the `taximeter dev` that runs here. Never an option: those are seen by everybody
    on the machine.
    """
    source = "TAXIMETER_API_TOKEN"
    try:
        found = os.environ.get(source) or credential("api_token")
        folder = running_dev()
        if not found and folder is not None and not os.environ.get("TAXIMETER_API_URL"):
            roles = (ApiSettings(dev_mode=True).admin_role,)
            user = operator().rpartition(":")[2]
            found = load_dev_key(folder).mint(user, ttl_s=DEV_TOKEN_S, roles=roles)
            source = f"the key of {folder}"
    except (OSError, ValueError, DevKeyError) as error:
        raise click.ClickException(f"{source}: {error}") from error
    if not found:
        raise click.ClickException(
            f"{source}: set it to a session token or to a key of `taximeter admin key create`"
        )
    if not found.isascii() or not found.isprintable():
        raise click.ClickException(f"{source}: must be one line of ASCII")
    return Token(found, source)


class Caller:
    """The admin API at `url`."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = httpx.URL(url)
        if parts.scheme not in {"http", "https"} or not parts.host:
            raise click.BadParameter(
                "must be an address such as https://meter.example.com", param_hint="--api-url"
            )
        self._url = url
        self._token = token()
        self._client = httpx.Client(
            base_url=url,
            timeout=timeout_s,
            headers={"Authorization": f"Bearer {self._token.text}"},
        )

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, request: Request) -> Any:
        """The answer. Raises Refused, NotKnown and Unreachable, each with one line."""
        trouble, was_sent = "", False
        for again in range(TRIES if request.repeatable else 1):
            if again:
                time.sleep(PAUSE_S * 2 ** (again - 1))
            try:
                answer = self._send(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                trouble = str(error) or type(error).__name__
                continue
            except KeyboardInterrupt:
                raise self._unanswered(request, "it was interrupted", was_sent=True) from None
            except httpx.TransportError as error:
                trouble, was_sent = str(error) or type(error).__name__, True
                continue
            if answer.status_code == 503 and request.answers_503 and not _error(answer):
                return self._read(answer)
            if answer.status_code >= 500:  # Postgres may have gone away while it committed.
                trouble, was_sent = _said(answer), True
                continue
            try:
                return self._read(answer)
            except Refused as refused:
                # An Idempotency-Key brings back the first answer; without, what was done by an
                # earlier try may be just what refuses this one.
                if not was_sent or request.method == "GET" or request.idempotency_key is not None:
                    raise
                trouble = refused.message
                break
        raise self._unanswered(request, trouble, was_sent=was_sent)

    def save(self, request: Request, target: Path) -> int:
        """Write the file of an answer as it comes; its bytes. It takes its name when it is whole
        and on the disk, and until then nothing is at `target` but what was there. Never sent twice,
        since that may take minutes. Raises Refused and Unreachable, each with one line.
        """
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        length = 0
        try:
            with (
                part.open("xb") as file,
                self._client.stream(request.method, request.path, params=request.query) as answer,
            ):
                if not answer.is_success:
                    answer.read()
                    self._read(answer)
                    raise Refused(_said(answer))
                for piece in answer.iter_bytes():
                    length += file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except OSError as error:
            raise Refused(f"{target}: {error.strerror or error}") from error
        except httpx.TransportError as error:
            trouble = str(error) or type(error).__name__
            how = f"broke it off after {length:,} bytes" if length else "gave no answer"
            raise Unreachable(f"{self._url} {how}: {trouble}. {target} was not written") from error
        finally:
            part.unlink(missing_ok=True)
        return length

    def _send(self, request: Request) -> httpx.Response:
        headers = {}
        if request.idempotency_key is not None:
            headers["Idempotency-Key"] = request.idempotency_key
        query = {name: value for name, value in request.query.items() if value is not None}
        return self._client.request(
            request.method, request.path, params=query, json=request.body, headers=headers
        )

    def _read(self, answer: httpx.Response) -> Any:
        if answer.is_success or answer.status_code == 503:
            try:
                return answer.json()
            except ValueError:
                raise Refused(
                    f"{self._url} answers {answer.status_code} and no JSON: is it the admin API?"
                ) from None
        said = _said(answer)
        if answer.status_code == 401:
            said += f" (the token comes from {self._token.source})"
        raise Refused(said)

    def _unanswered(
        self, request: Request, trouble: str, *, was_sent: bool
    ) -> click.ClickException:
        where = f"{self._url} gave no answer, or none to the first try: {trouble}"
        if request.method == "GET" or not was_sent:
            return Unreachable(f"{where}. Nothing was changed")
        return NotKnown(f"{where}. It may have taken effect: {request.asked_again}")


def _error(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _said(answer: httpx.Response) -> str:
    error = _error(answer)
    if "message" not in error:
        return f"{answer.status_code} {answer.reason_phrase}"
    text = f"{answer.status_code} {error.get('code')}: {error['message']}"
    details = error.get("details")
    if isinstance(details, dict) and details:
        text += f" {json.dumps(details, ensure_ascii=False)}"
    return text
