"""Pages in a real Chromium without network: opened, photographed, and asked what they show and whom they called."""

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
WIDTHS = (390, 1400)  # a telephone and a desk

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
    """An open page, what it asked for, and what it complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window; a scroller inside the page may hide more."""
        return self.page.evaluate("document.scrollingElement.scrollWidth - innerWidth")

    def pictures(self) -> list[dict[str, float]]:
        """Every <img>, <svg> and <canvas>: `area` on the page in square pixels, `own` size, 0 where it is broken.

        An SVG's own size is what is drawn in it, a canvas's the number of its pixels that have colour.
        """
        return self.page.evaluate(PICTURES)

    def empty_tables(self) -> int:
        """Tables without a single filled cell."""
        filled = "t => [...t.querySelectorAll('td')].some(cell => cell.innerText.trim())"
        return self.page.evaluate(f"[...document.querySelectorAll('table')].filter(t => !({filled})(t)).length")

    def screenshot(self, name: str, folder: Path) -> Path:
        """The whole page as a PNG, in $ONESTEP_SCREENSHOTS or in `folder`."""
        path = Path(os.environ.get("ONESTEP_SCREENSHOTS", folder)) / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of this machine; a test without one fails, and says what to install."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("no Chromium or Chrome on PATH: install one (Debian, Ubuntu: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[OFFLINE, "--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, url: str, width: int = 1400, scheme: str = "light", until: str = "load") -> Iterator[Visit]:
    """Open a page. scheme: light or dark; until: "load", or "networkidle" for a page that fetches what it shows."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    seen = Visit(page)

    def note(request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            seen.requests.append(request.url)

    page.on("request", note)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
    try:
        page.goto(url, wait_until=until)  # type: ignore[arg-type]
        yield seen
    finally:
        page.close()
