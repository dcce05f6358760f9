"""Runs the real scripts over a `Store`, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any

from lupa import lua51
from redis.exceptions import NoScriptError, ResponseError

from search.store import Store
from taximeter.meter.wire.scripts import Script, load_script

_HEAD = "local KEYS, ARGV = ...\n"
_REDIS = """
return function(call)
  return {
    call = call,
    pcall = function(...)
      local done, reply = pcall(call, ...)
      if done then return reply end
      return {err = tostring(reply)}
    end,
    error_reply = function(text) return {err = text} end,
    status_reply = function(text) return {ok = text} end,
  }
end
"""


class Scripts:
    """The scripts of this release, or with some of them replaced: `changed` maps a name to the text
    that it has here.
    """

    def __init__(self, changed: dict[str, Callable[[str], str]] | None = None) -> None:
        self._store = Store()
        self.runs = 0
        """How many script calls were made."""
        self._lua = lua51.LuaRuntime(
            encoding="latin-1", unpack_returned_tuples=True, register_eval=False
        )
        self._table = self._lua.table_from
        redis = self._lua.execute(_REDIS)(self._call)
        self._lua.globals()["redis"] = redis
        self._bodies: dict[str, Any] = {}
        self._allowed: set[str] = set()
        self._names: dict[str, str] = {}
        for name in _names():
            script = load_script(name)
            change = (changed or {}).get(name)
            self._add(script, change(script.text) if change else script.text)

    def _add(self, script: Script, text: str) -> None:
        shebang, _, body = text.partition("\n")
        if "allow-oom" in shebang:
            self._allowed.add(script.name)
        self._bodies[script.name] = self._lua.compile(_HEAD + body)
        self._names[script.sha] = script.name

    def of_sha(self, sha: str) -> str:
        """The name of the script with this digest. Raises NoScriptError."""
        name = self._names.get(sha)
        if name is None:
            raise NoScriptError("No matching script")
        return name

    def run(self, store: Store, name: str, keys: Sequence[str], args: Iterable[str | int]) -> Any:
        """Run one script; answers as Redis would over the wire, in str. Raises ResponseError."""
        if store.oom and name not in self._allowed:
            raise ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
        self._store = store
        self.runs += 1
        reply = self._bodies[name](
            self._table(list(keys)), self._table([str(argument) for argument in args])
        )
        return _python(reply)

    def _call(self, *arguments: Any) -> Any:
        return self._to_lua(
            self._store.call(*[one if type(one) is str else _text(one) for one in arguments])
        )

    def _to_lua(self, reply: Any) -> Any:
        if reply is None:
            return False
        if isinstance(reply, list):
            return self._table([self._to_lua(one) for one in reply])
        return reply


def _names() -> list[str]:
    places = files("taximeter.lua").iterdir()
    return sorted(one.name[:-4] for one in places if one.name.endswith(".lua"))


def _text(number: Any) -> str:
    if isinstance(number, float) and number.is_integer():
        return str(int(number))
    return str(number)


def _python(reply: Any) -> Any:
    if lua51.lua_type(reply) == "table":
        if reply["err"] is not None:
            raise ResponseError(reply["err"])
        if reply["ok"] is not None:
            return reply["ok"]
        found = []
        while (one := reply[len(found) + 1]) is not None:
            found.append(_python(one))
        return found
    if reply is False or reply is None:
        return None
    if reply is True:
        return 1
    return int(reply) if isinstance(reply, float) else reply
