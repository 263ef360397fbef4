"""The page in a real browser, where one is installed."""

import pytest
from browser import CHROMIUM, browser
from records import record_of

from jointnas_jax.report.page import write_report


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    record = record_of(fails=lambda number: number == 5)
    record.failed[0]["reason"] = "a_very_long_reason_without_any_space_" * 20
    return write_report(record, tmp_path_factory.mktemp("report"))[0].as_uri()


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_complains_of_nothing(tab, url, width, dark):
    tab.open(url, width, dark)
    root = "document.documentElement"
    assert tab.evaluate(f"{root}.clientWidth") == width
    assert tab.evaluate(f"{root}.scrollWidth") <= width
    assert tab.complaints == []
    assert set(tab.requests) == {url}


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground_in_figures_too(tab, url, dark):
    tab.open(url, 1280, dark)
    style = "getComputedStyle(document.querySelector('{}')).{}"
    brightness = lambda selector, what: sum(
        map(
            int,
            tab.evaluate(
                f"{style.format(selector, what)}.match(/[0-9]+/g).slice(0, 3).join()"
            ).split(","),
        )
    )
    ground = brightness("section", "backgroundColor")
    assert (ground < 200) is dark
    for selector, what in (("h2", "color"), ("figure svg text", "fill")):
        assert abs(brightness(selector, what) - ground) > 300


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_page_prints(tab, url, tmp_path):
    tab.open(url, 1280, dark=True)
    tab.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
