"""Loads the Lua scripts and calls them by digest.

EVALSHA rather than Functions: a script is a constant of this release, so two releases can share a
Redis without overwriting each other, and nobody needs the right to change libraries on the server.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from hiredis import pack_command
from redis.exceptions import NoScriptError

_INCLUDE = re.compile(r'^--- @include "(lib/[a-z_]+)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One script as it is sent: its text is a constant, so its digest is its version."""

    name: str
    text: str
    sha: str

    async def call(self, redis: Any, keys: Sequence[str], args: Sequence[str | int | bytes]) -> Any:
        """Run on a `redis.asyncio` client. A server that does not know the script yet is told it,
        once.

        Raises what redis-py raises. Scripts whose effects must not be repeated carry operation ids
        or numbers.
        """
        try:
            return await redis.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await redis.eval(self.text, len(keys), *keys, *args)


async def call_script(connection: Any, script: Script, arguments: list[Any]) -> Any:
    """The script on this connection, `arguments` being the number of keys, the keys and the rest.
    Raises what redis-py raises.
    """
    try:
        return await _send(connection, "EVALSHA", script.sha, arguments)
    except NoScriptError:
        return await _send(connection, "EVAL", script.text, arguments)


async def _send(connection: Any, command: str, script: str, arguments: list[Any]) -> Any:
    # Packed by hiredis in C: redis-py's own packing costs more than the rest of the call.
    packed = pack_command((command, script, *arguments))
    await connection.send_packed_command(packed, check_health=False)
    return await connection.read_response(disable_decoding=True)


@cache
def load_script(name: str) -> Script:
    """The script `lua/<name>.lua` with its includes in place. Raises FileNotFoundError or
    ValueError (bad include).
    """
    text = expand(read_source(name))
    return Script(
        name=name, text=text, sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    )


def read_source(name: str) -> str:
    """Text of a file of lua/, as it stands there."""
    return files("taximeter.lua").joinpath(f"{name}.lua").read_text(encoding="utf-8")


def expand(text: str) -> str:
    """Replace each `--- @include "lib/x"` line by that file. An include twice, or inside an
    include, is an error.
    """
    seen: set[str] = set()

    def replacement(found: re.Match[str]) -> str:
        name = found.group(1)
        if name in seen:
            raise ValueError(f"{name} is included twice")
        seen.add(name)
        body = read_source(name)
        if _INCLUDE.search(body):
            raise ValueError(f"{name} includes another file; one level is enough")
        return body.rstrip("\n")

    return _INCLUDE.sub(replacement, text)
