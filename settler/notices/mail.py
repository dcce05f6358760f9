"""Sends notices as e-mail over SMTP."""

from __future__ import annotations

import ssl
from email.message import EmailMessage
from email.utils import formatdate
from typing import Final
from urllib.parse import unquote, urlsplit

import aiosmtplib

from taximeter.settler.notices.bodies import Notice, lines_of
from taximeter.settler.notices.sending import TIMEOUT_S, Outcome

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Mailer:
    """Hands messages to the server of an SMTP URL, one connection each. `smtps` has TLS from the
    beginning; with `smtp` STARTTLS is used, and a server without it is refused, unless it is on
    this machine.
    """

    def __init__(
        self,
        url: str,
        sender: str,
        *,
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._is_tls = parts.scheme == "smtps"
        self._starts_tls = None if self._is_tls or self._host in _LOOPBACK else True
        self._sender = sender
        self._timeout_s = timeout_s
        self._tls = tls

    async def send(self, to: str, notice: Notice) -> Outcome:
        """What the server has answered. The Message-ID is the same at every try. Raises nothing but
        CancelledError.
        """
        try:
            await aiosmtplib.send(
                self._message(to, notice),
                hostname=self._host,
                port=self._port,
                username=self._user,
                password=self._password,
                use_tls=self._is_tls,
                start_tls=False if self._is_tls else self._starts_tls,
                timeout=self._timeout_s,
                tls_context=self._tls,
            )
        except aiosmtplib.SMTPResponseException as error:
            return Outcome(False, error.code, error.message[:300])
        except aiosmtplib.SMTPRecipientsRefused as error:
            first = error.recipients[0]
            return Outcome(False, first.code, first.message[:300])
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            return Outcome(False, error=f"{type(error).__name__}: {error}"[:300])
        return Outcome(True, 250)

    def _message(self, to: str, notice: Notice) -> EmailMessage:
        message = EmailMessage()
        title, *lines = lines_of(notice)
        message["From"] = self._sender
        message["To"] = to
        message["Subject"] = " ".join(title.split())
        message["Date"] = formatdate(notice.at.timestamp())
        domain = self._sender.rpartition("@")[2].rstrip(">")
        message["Message-ID"] = f"<{notice.message_id}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content("\n".join(lines) + "\n")
        return message
