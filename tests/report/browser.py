"""A real headless Chromium that opens pages from disk, and records what they complain of or ask for."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Without these a fresh Chromium asks its maker's servers for updates.
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
PATIENCE_MS = 15_000


class Opened:
    """A page in the browser, and what it did beside showing itself."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        """Exceptions, and errors and warnings of the console."""
        self.requests: list[str] = []
        """Every address asked for but the page itself and data within it."""
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._on_console)
        page.on("request", self._on_request)

    def _on_console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)

    def _on_request(self, request: Any) -> None:
        if request.url.split("#")[0] != self.url and not request.url.startswith(("data:", "blob:")):
            self.requests.append(request.url)


# Not longer than a module: as long as it lives, no other test of the process may run an event loop.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium; without one the test is skipped, or fails under MEDL_REQUIRE_BROWSER=1."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        reason = f"no Chromium is installed (looked for {', '.join(PROGRAMS)})"
        if os.environ.get("MEDL_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(QUIET))
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser,
    path: Path,
    *,
    anchor: str = "",
    size: tuple[int, int] = (1280, 900),
    dark: bool = False,
    scripts: bool = True,
    **options: Any,
) -> Iterator[Opened]:
    """Open a file as a reader does, at a size in CSS pixels, with a light or dark system theme."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
        **options,
    )
    context.set_default_timeout(PATIENCE_MS)
    try:
        page = context.new_page()
        seen = Opened(page, path.resolve().as_uri())
        page.goto(f"{seen.url}{anchor}")
        yield seen
    finally:
        context.close()


def wait_until(page: Page, expression: str) -> None:
    """Wait until an expression is true; Playwright's own way needs `eval`, which our pages forbid."""
    ends = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < ends, f"never became true: {expression}"
        page.wait_for_timeout(50)
