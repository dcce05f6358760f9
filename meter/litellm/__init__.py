"""Meters what goes through the LiteLLM proxy: `callbacks: taximeter.meter.litellm.callback` in its
config.

Needs the extra `taximeter[litellm]` beside `litellm[proxy]`, and a sidecar. `docs/litellm.md` is
its manual. Importing this package needs neither; asking it for `callback` does.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Make `callback`, the one logger of this process, from the environment when it is asked for.

    Raises InvalidRequest naming a bad setting, and ModuleNotFoundError without LiteLLM.
    """
    if name != "callback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from taximeter.meter.litellm.logger import TaximeterLogger
    from taximeter.meter.litellm.settings import LiteLLMSettings

    made = globals()["callback"] = TaximeterLogger(LiteLLMSettings.from_environment())
    return made
