"""Writes the logs of all our processes in one form: an object of JSON a line, or text for people
where that is a terminal. A traceback is part of its line. No URLs, payloads, bodies or secrets.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

LogFormat = Literal["auto", "json", "text"]

_OUR_OWN: Final = ("taximeter", "uvicorn")
"""What these say is for operators; other libraries only speak up when something is wrong."""
_DOUBLES: Final = "color_message"


def configure_logs(
    log_format: LogFormat = "auto",
    *,
    stream: TextIO | None = None,
    request_id: Callable[[], str | None] = lambda: None,
) -> None:
    """Set up logging and structlog for a process of its own. `auto` is text on a terminal and JSON
    elsewhere; `request_id` says which request is being answered.
    """
    stream = stream or sys.stdout
    is_text = log_format == "text" or (log_format == "auto" and stream.isatty())

    def add_request_id(logger: Any, name: str, event: EventDict) -> EventDict:
        if "request_id" not in event and (found := request_id()) is not None:
            event["request_id"] = found
        event.pop(_DOUBLES, None)
        return event

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        add_request_id,
        structlog.stdlib.ExtraAdder(),
    ]
    rendering: list[Processor] = (
        [structlog.dev.ConsoleRenderer(timestamp_key="time")]
        if is_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _OUR_OWN:
        logging.getLogger(name).setLevel(logging.INFO)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared[:-1],
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
