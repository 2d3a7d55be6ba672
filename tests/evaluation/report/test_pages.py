"""The pages render in a real browser, on a phone and a desktop, light and dark, without network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.comparing.differences import find_differences
from evaluation.comparing.page import render_comparison
from tests.helpers.browser import WIDTHS, Browser, chromium, visit
from tests.helpers.evaluators import candidate


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(html: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report and the comparison as files."""
    folder = tmp_path_factory.mktemp("pages")
    long = "models:/a_name_that_goes_on_and_on_and_on_without_any_place_to_break_it/17"
    pair = [candidate("artifacts/generator", 0.0), candidate(long, 0.3)]
    contents = {"report": html, "compare": render_comparison(pair, find_differences(pair), "Data: toy.")}
    for name, text in contents.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in contents}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_fits_its_window_and_every_panel_shows_something(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    url = pages[name].as_uri()
    with visit(browser, url, width, scheme) as view:
        assert view.overflow() <= 0 and (name == "compare" or view.hidden_columns() == 0)
        assert view.requests == [url] and view.errors == []
        pictures = view.pictures()
        assert len(pictures) >= 2 and all(p["area"] > 1000 and p["own"] > 0 for p in pictures), pictures
        assert view.page.locator("table").count() >= 2 and view.empty_tables() == 0
        figures = view.page.locator("figure").count()
        assert figures == view.page.locator("figure:has(img, svg)").count() > 0
        paper = view.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(246, 245, 241)", "dark": "rgb(20, 22, 27)"}[scheme]
        assert view.screenshot(f"{name}-{width}-{scheme}", tmp_path).stat().st_size > 10_000


@pytest.mark.slow
def test_the_browser_checks_detect_every_defect(browser: Browser, tmp_path: Path) -> None:
    """The checks detect overflow, a broken picture, an empty table, a request to another host and a script error."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<div style='width:2000px'>x</div><img src='data:image/png;base64,AAAA' width=99 height=99>"
        "<svg width=99 height=99></svg><canvas width=99 height=99></canvas><table><tr><td> </td></tr></table>"
        "<script src='https://example.com/x.js'></script><script>nonsense()</script>"
    )
    with visit(browser, page.as_uri(), 390) as view:
        assert view.overflow() > 1000 and view.empty_tables() == 1
        assert [p["own"] for p in view.pictures()] == [0, 0, 0]
        assert view.requests[1:] == ["https://example.com/x.js"]
        assert any("nonsense" in e for e in view.errors) and any("ERR_NAME_NOT_RESOLVED" in e for e in view.errors)


def test_a_missing_browser_fails_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"), chromium():
        pass
