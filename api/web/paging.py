"""Says which part of a list is asked for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

LimitParam = Annotated[int, Query(ge=1, le=100)]
OffsetParam = Annotated[int, Query(ge=0, le=10_000_000)]
