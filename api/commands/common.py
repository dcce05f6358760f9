"""What several commands share."""

from __future__ import annotations

from pydantic import ValidationError


def explain(error: ValidationError, prefix: str = "TAXIMETER_") -> str:
    """Name the environment variables that are wrong, and how; never their values, which may be
    secret.
    """
    lines = []
    for one in error.errors(include_input=False, include_url=False):
        message = one["msg"].removeprefix("Value error, ")
        name = "_".join(str(part) for part in one["loc"]).upper()
        lines.append(f"{prefix}{name}: {message}" if name else message)
    return "\n".join(lines)
