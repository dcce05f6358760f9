"""Mints and checks session tokens of dev mode, with a key pair in a local file.

None of this exists outside dev mode: there the key file is not even read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

DEV_ISSUER = "taximeter-dev"
DEV_AUDIENCE = "taximeter"
DEV_ALGORITHM = "EdDSA"
KEY_FILE_NAME = "dev-session-key.pem"
TTL_S_MAX = 366 * 86_400


class DevKeyError(Exception):
    """The key file of dev mode cannot be used."""


@dataclass(frozen=True, slots=True)
class DevKey:
    """The key that signs and checks sessions in dev mode. Its text never shows in logs."""

    private: Ed25519PrivateKey

    def __repr__(self) -> str:
        return "DevKey(...)"

    def mint(
        self,
        user_id: str,
        *,
        ttl_s: int,
        roles: tuple[str, ...] = (),
        email: str | None = None,
    ) -> str:
        """Sign a token for a user. It is valid at once and for `ttl_s` seconds, and cannot be
        revoked.
        """
        if not 1 <= ttl_s <= TTL_S_MAX:
            raise DevKeyError(f"ttl must be 1 to {TTL_S_MAX} seconds")
        now = int(time.time())
        claims: dict[str, object] = {
            "iss": DEV_ISSUER,
            "aud": DEV_AUDIENCE,
            "sub": user_id,
            "iat": now,
            "exp": now + ttl_s,
            "jti": secrets.token_hex(8),
            "realm_access": {"roles": list(roles)},
        }
        if email is not None:
            claims |= {"email": email, "email_verified": True}
        return jwt.encode(claims, self.private, DEV_ALGORITHM)


def load_dev_key(data_dir: Path) -> DevKey:
    """Read the key of this data folder, making it first if there is none. Raises DevKeyError.

    Two processes that start together end up with the same key: the file is written under another
    name, and takes its own only if that is still free.
    """
    path = data_dir / KEY_FILE_NAME
    try:
        if not path.exists():
            _create(path)
        mode, pem = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise DevKeyError(
            f"the folder of TAXIMETER_DATA_DIR cannot be used: {path}: {error.strerror or error}"
        ) from None
    if mode & 0o077:
        raise DevKeyError(f"{path.name} can be read by others; set its mode to 0600 or delete it")
    try:
        private = load_pem_private_key(pem, password=None)
    except ValueError as error:
        raise DevKeyError(f"{path.name} does not hold a private key: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise DevKeyError(f"{path.name} does not hold an Ed25519 key")
    return DevKey(private)


def _create(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # If another process was first, its key is the one.
    finally:
        draft.unlink()
