"""Checks of pages in a real Chromium without network: width, pictures, tables, requests and errors."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
WIDTHS = (390, 1400)  # pixels: a telephone, a desktop

PICTURES = """
[...document.querySelectorAll('img, body svg, canvas')].filter(e => !e.closest('summary, .vega-actions')).map(e => {
  const box = e.getBoundingClientRect();
  let own = 0;
  if (e.tagName === 'IMG') own = e.naturalWidth * e.naturalHeight;
  else if (e.tagName === 'CANVAS') {
    const data = new Uint32Array(e.getContext('2d').getImageData(0, 0, e.width, e.height).data.buffer);
    own = data.filter(pixel => pixel !== 0 && pixel !== 0xffffffff).length;
  } else { const drawn = e.getBBox(); own = drawn.width * drawn.height; }
  return {area: box.width * box.height, own: own};
})
"""


@dataclass
class Visit:
    """An open page, the addresses that it requested, and its errors."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window. Content inside an element that scrolls does not count."""
        return self.page.evaluate("document.scrollingElement.scrollWidth - innerWidth")

    def hidden_columns(self) -> int:
        """Pixels by which the widest table is wider than the box in which it scrolls."""
        return self.page.evaluate(
            "Math.max(0, ...[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth))"
        )

    def pictures(self) -> list[dict[str, float]]:
        """Every <img>, <svg> and <canvas>: its `area` on the page and its `own` size, both in square pixels.

        `own` is the area of an image or of the drawing in an SVG, or the number of coloured pixels of a canvas; it is
        0 for a broken picture.
        """
        return self.page.evaluate(PICTURES)

    def empty_tables(self) -> int:
        """The number of tables in which every cell is empty."""
        filled = "t => [...t.querySelectorAll('td')].some(cell => cell.innerText.trim())"
        return self.page.evaluate(f"[...document.querySelectorAll('table')].filter(t => !({filled})(t)).length")

    def screenshot(self, name: str, folder: Path) -> Path:
        """Save the whole page as a PNG in $ONESTEP_SCREENSHOTS, or in `folder` if that is not set."""
        path = Path(os.environ.get("ONESTEP_SCREENSHOTS", folder)) / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the Chromium or Chrome that is installed. Without one the test fails with the command that installs it."""
    path = next((path for name in NAMES if (path := shutil.which(name))), None)
    if path is None:
        pytest.fail("no Chromium or Chrome on PATH: install one (Debian, Ubuntu: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[OFFLINE, "--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, url: str, width: int = 1400, scheme: str = "light", until: str = "load") -> Iterator[Visit]:
    """Open a page. scheme: light or dark. until: load, or networkidle for a page that fetches its content."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    record = Visit(page)

    def note(request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            record.requests.append(request.url)

    page.on("request", note)
    page.on("pageerror", lambda error: record.errors.append(str(error)))
    page.on("console", lambda message: record.errors.append(message.text) if message.type == "error" else None)
    try:
        page.goto(url, wait_until=until)  # type: ignore[arg-type]
        yield record
    finally:
        page.close()
