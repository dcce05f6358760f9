"""Debian's Chromium, driven by playwright from a thread of its own: pages are used as a person
would, one after the other, while the servers of a test run in its loop.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import shutil
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Response, sync_playwright

T = TypeVar("T")

PROGRAM: Final = shutil.which("chromium")
BUILT: Final = Path(__file__).parents[2] / "api" / "browser" / "built" / "index.html"
WAITS_MS: Final = 60_000
"""How long a page is waited for: a machine that is slow is no failure."""
SERIOUS: Final = ("serious", "critical")
_NO_NEWS: Final = re.compile(
    r"Failed to load resource: (the server responded with a status of|net::ERR_)"
)
"""What Chromium says of each answer that is no 2xx: whether that was right is for a test to say."""


def needs_chromium() -> None:
    """Skip, loudly, where there is no browser or no console to look at."""
    if PROGRAM is None:
        pytest.skip("Debian's chromium is missing: apt-get install chromium")
    if not BUILT.exists():
        pytest.skip("the console is not built: make console")


class Chromium:
    """One browser. `do` runs a function that uses it in its thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "chromium")
        self._browser: Browser | None = None
        self._playwright: Any = None

    def _start(self) -> None:
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=PROGRAM,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )

    def _stop(self) -> None:
        if self._browser is not None:
            self._browser.close()
        if self._playwright is not None:
            self._playwright.stop()

    def __enter__(self) -> Chromium:
        self._thread.submit(self._start).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.submit(self._stop).result()
        self._thread.shutdown()

    async def do(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run it in the browser's thread, while this loop goes on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)

    @contextmanager
    def person(
        self, url: str, user: str, *, root: bool = False, **options: Any
    ) -> Iterator[Person]:
        """Somebody who has signed in at `url`, in a window of their own. In the thread of the
        browser.
        """
        assert self._browser is not None
        context = self._browser.new_context(base_url=url, **options)
        context.set_default_timeout(WAITS_MS)
        try:
            if user:
                form = {"user_id": user, "to": "/console/"} | (
                    {"system_admin": "1"} if root else {}
                )
                answer = context.request.post("/console/session/choose", form=form, max_redirects=0)
                assert answer.status == 303, answer.text()
            person = Person(context)
            try:
                yield person
            except Exception as error:
                error.add_note(person.seen())
                raise
            person.assert_no_trouble()
        finally:
            context.close()


class Person:
    """A window, and what went wrong in it."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.page: Page = context.new_page()
        self.errors: list[str] = []
        self.asked: list[str] = []
        """Paths of the API that the page has asked."""
        self.scripts: dict[str, int] = {}
        """Bytes of each script, as gzip makes it."""
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._asks)
        self.context.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) => console.error("
            "`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`))"
        )

    def _said(self, message: Any) -> None:
        if message.type == "error" and not _NO_NEWS.match(message.text):
            self.errors.append(message.text)

    def _asks(self, request: Request) -> None:
        path = request.url.partition("/api/v1/")[2]
        if path and request.resource_type in ("fetch", "xhr"):
            self.asked.append(f"{request.method} {path}")

    def weigh(self) -> None:
        """From now on, how much each script weighs."""

        def came(response: Response) -> None:
            if response.request.resource_type == "script":
                self.scripts[response.url] = len(gzip.compress(response.body(), 9))

        self.page.on("requestfinished", lambda request: came(request.response()))

    def open(self, path: str, title: str | None = None) -> None:
        """Go to a place of the console, and wait for its screen."""
        self.page.goto(f"/console{path}")
        if title is not None:
            self.page.get_by_role("heading", level=1, name=title, exact=True).wait_for()

    def assert_no_trouble(self) -> None:
        """Nothing was said on the console, and no policy was violated."""
        if self.errors:
            raise AssertionError(f"the page says on its console: {self.errors}")

    def seen(self) -> str:
        """The page in words, for whoever reads why a test has failed."""
        text = self.page.locator("body").inner_text(timeout=5_000)
        return f"at {self.page.url}: {self.errors} {self.asked[-10:]}\n{text[:3_000]}"

    def serious_violations(self) -> list[str]:
        """What axe finds of the page as it is: rule, and where."""
        self.page.evaluate(axe_source())
        found = self.page.evaluate(
            "axe.run(document, { resultTypes: ['violations'] }).then((found) => found.violations)"
        )
        return [
            f"{one['id']}: {one['nodes'][0]['html']:.200} {one['nodes'][0]['failureSummary']:.300}"
            for one in found
            if one["impact"] in SERIOUS
        ]


def axe_source() -> str:
    """axe-core, which is given to the page past its policy, as a debugger may."""
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def from_thread(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the test's loop, and wait for it in the browser's thread."""
    return asyncio.run_coroutine_threadsafe(work, loop).result(WAITS_MS / 1000)
