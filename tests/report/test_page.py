"""The report on images, as files and as a reader meets it: in a browser, wide and narrow."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arviz as az
import pytest
import torch

from pplvae import data
from pplvae.report import Report, build
from pplvae.vae import VAE

STAGES = ["look", "dimension", "density", "clusters", "code", "vae", "trust", "run"]

in_a_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromedriver (Debian's packages chromium and chromium-driver)",
)


@pytest.fixture(scope="module")
def digits_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report on some of the digits."""
    torch.set_default_dtype(torch.float32)
    digits = data.digits().subset(torch.arange(300))
    folder = tmp_path_factory.mktemp("digits")
    return build(
        digits, folder, latent_dim=3, num_components=10, num_epochs=2, seed=0, progress=False
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


def test_answers_every_question_about_images(digits_report: Report) -> None:
    assert not digits_report.failures
    assert [section.name for section in digits_report.sections] == STAGES
    page = digits_report.page.read_text()
    for section in digits_report.sections:
        assert section.title in page


def test_the_page_is_self_contained(digits_report: Report) -> None:
    page = digits_report.page.read_text()
    sources = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    pictures = [s.split(",", 1)[1] for s in sources if s.startswith("data:image/png")]
    assert len(pictures) == len(list((digits_report.folder / "figures").glob("*.png")))
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)


def test_numbers_draws_and_vae_stand_beside_the_page(digits_report: Report) -> None:
    numbers = json.loads((digits_report.folder / "numbers.json").read_text())
    assert list(numbers) == [*STAGES, "files", "units"]
    low, high = numbers["dimension"]["interval_95"]
    assert low < numbers["dimension"]["dimension"] < high
    assert numbers["run"]["seed"] == 0
    assert set(numbers["trust"]["points"]) == {"MAP", "EM"}
    assert "MAP" not in numbers["trust"]["methods"]
    for method in ("exact", "svi", "svi-flow", "laplace", "importance", "nuts", "map", "em"):
        draws = az.from_netcdf(digits_report.folder / "draws" / f"dimension-{method}.nc")
        assert float(draws["posterior"]["dimension"].mean()) > 1
    vae = VAE.load(digits_report.folder / "vae.safetensors")
    assert vae.latent_dim == 3
    assert vae.reconstruct(torch.zeros(2, 64)).shape == (2, 64)


def test_the_numbers_are_strict_json(digits_report: Report) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads((digits_report.folder / "numbers.json").read_text(), parse_constant=refuse)


@in_a_browser
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


@in_a_browser
def test_every_question_is_one_click_away(browser: Any, digits_report: Report) -> None:
    show(browser, digits_report.page, 1280)
    for link in browser.find_elements("css selector", "nav a"):
        anchor = link.get_attribute("href").split("#")[1]
        assert browser.find_elements("css selector", f"section#{anchor} h2")


def show(browser: Any, page: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
