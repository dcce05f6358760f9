"""Reads the upstream's side of a stream: its events as they come, and how it can fail."""

from __future__ import annotations

from taximeter.api.openai.sse import Event, EventReader, StreamBroken, is_event
from taximeter.api.openai.surfaces import Surface
from taximeter.api.upstreams.failures import FAILURES, broken, unreachable
from taximeter.api.upstreams.upstream import Opened, Upstream
from taximeter.api.web.errors import ApiError


class EventStream:
    """The events of one answer, those together that came together."""

    def __init__(self, upstream: Upstream, opened: Opened, surface: Surface) -> None:
        self._upstream = upstream
        self._opened = opened
        self._surface = surface
        self._reader = EventReader()
        self._first: list[Event] = []
        self._failed: ApiError | None = None
        self._ended = False

    async def first(self) -> None:
        """Wait for the first event, so that a failure before it can still be answered with a status
        of its own.

        Raises ApiError when there is none or it is an error.
        """
        self._first = await self.more()
        if not self._first:
            raise self.broken("it was empty")
        if not is_event(self._first[0]):
            raise self.broken("it was no stream")

    async def more(self) -> list[Event]:
        """The next events, or none at the end. Raises ApiError when the upstream breaks off, after
        all events before that were returned.
        """
        if self._first:
            events, self._first = self._first, []
            return events
        if self._failed is not None:
            raise self._failed
        try:
            while not self._ended:
                part = await self._opened.body.part()
                self._ended = not part
                events = self._reader.feed(part) if part else self._reader.rest()
                if events:
                    return self._before_error(events)
        except StreamBroken as error:
            raise self.broken(str(error)) from error
        except FAILURES as error:
            raise unreachable(error, self._upstream.name) from None
        return []

    def _before_error(self, events: list[Event]) -> list[Event]:
        for place, event in enumerate(events):
            if event.document is not None and self._surface.is_failure(event.document):
                self._failed = self.broken("an event was an error")
                if place == 0:
                    raise self._failed
                return events[:place]
        return events

    def broken(self, what: str) -> ApiError:
        """The refusal for a stream that is not what it should be."""
        return broken(what, self._upstream.name)

    def without_key(self, content: bytes) -> bytes:
        """What is relayed, without the key of the upstream, should it repeat it."""
        return self._upstream.without_key(content)

    def close(self) -> None:
        """Stop the upstream: it notices that nobody reads any more. A stream that was read to its
        end keeps its connection.
        """
        self._opened.close()
