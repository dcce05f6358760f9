"""Logs of the settler: one JSON object a line on standard output, without URLs, payloads or request
ids.
"""

from __future__ import annotations

import logging

import structlog


def configure_logs() -> None:
    """Set up structlog for a process of its own; libraries only speak up when something is
    wrong.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )
