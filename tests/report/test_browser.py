"""The page as a reader meets it: in a browser, wide and narrow, offline."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pplvae.report import Report

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromedriver (Debian's packages chromium and chromium-driver)",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@pytest.mark.parametrize("width", [1280, 390])
def test_reads_well_at_any_width(browser: Any, digits_report: Report, width: int) -> None:
    show(browser, digits_report.page, width)
    assert browser.execute_script("return window.innerWidth") == width
    overflow = browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow == 0, "the page scrolls sideways"
    broken = browser.execute_script(
        "return [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
    )
    assert not broken
    assert browser.execute_script("return document.images.length") >= 12
    errors = [entry["message"] for entry in browser.get_log("browser")]
    assert not errors


def test_every_question_is_one_click_away(browser: Any, digits_report: Report) -> None:
    show(browser, digits_report.page, 1280)
    for link in browser.find_elements("css selector", "nav a"):
        anchor = link.get_attribute("href").split("#")[1]
        assert browser.find_elements("css selector", f"section#{anchor} h2")


def show(browser: Any, page: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
