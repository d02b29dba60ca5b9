"""The playground page in headless Chromium: every head, streaming, errors, keyboard, phone width, both themes.

The gateway is the real one, its heads are fakes: what models say is tested elsewhere.
"""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from playground_site import Site

from serving.errors import ServingError
from serving.http.auth import ApiKeys
from serving.settings import ALL_HEADS

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="no Chromium with its driver on this machine")


@pytest.fixture(scope="module")
def site():
    running = Site(ApiKeys([]))
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


class Page:
    def __init__(self, browser: Any, url: str, *, width: int = 1200, theme: str = "light") -> None:
        self.browser = browser
        browser.get("about:blank")
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1100, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        )
        browser.get(url)
        self.wait(lambda: "Asking the server" not in self.text("#server"))

    def one(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def value(self, name: str) -> str:
        return self.one(f"#field-{name}").get_property("value")

    def wait(self, condition: Any, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"the page shows: {self.text('body')[:2000]}"
            time.sleep(0.02)

    def choose(self, head: str) -> None:
        self.one(f"[data-head={head}]").click()

    def run(self) -> None:
        self.one("#run").click()
        self.wait(lambda: self.one("#run").is_enabled())

    def press(self, *keys: str) -> None:
        """Presses keys together, and lets them go."""
        chain = webdriver.ActionChains(self.browser)
        for key in keys:
            chain.key_down(key)
        for key in reversed(keys):
            chain.key_up(key)
        chain.perform()

    def picture(self, name: str) -> None:
        """Keeps a screenshot where PLAYGROUND_PICTURES says, for a person to look at."""
        directory = os.environ.get("PLAYGROUND_PICTURES")
        if directory:
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.browser.save_screenshot(f"{directory}/{name}.png")


EXPECTED = {
    "fill-mask": ["Mask 1 of 2", "dumps", "75.0 %"],
    "token-classification": ["CLASS 2", "FUNCTION 3", "MODULE 2", "Archive"],
    "text-classification": ["good", "80.0 %", "bad"],
    "zero-shot-classification": ["travel", "60.0 %"],
    "multiple-choice": ["✓", "50.0 %", "33.3 %"],
    "question-answering": ["json", "70.0 %"],
    "feature-extraction": ["128 dimensions"],
    "masked-lm-scoring": ["1.500 nats a token", "Most surprising"],
    "text-generation": ["w0 w1 w2", "w127"],
}


@pytest.mark.parametrize("head", ALL_HEADS)
def test_every_head_shows_its_answer_with_latency_and_a_curl_command(site, browser, head):
    page = Page(browser, site.url)
    page.choose(head)
    assert "curl" in page.text("#curl")
    assert ("/v1/completions" if head == "text-generation" else f"/v1/{head}") in page.text("#curl")
    page.run()
    for expected in EXPECTED[head]:
        assert expected in page.text("#result"), page.text("#result")
    assert " ms" in page.text("#facts")
    page.picture(head)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_long_example_is_long_and_its_entities_are_marked_in_place(site, browser):
    page = Page(browser, site.url + "/#token-classification")
    page.one("#long").click()
    text = page.value("text")
    assert len(text) > 6000
    page.run()
    names = [mark.text for mark in page.all("#result mark")]
    assert names.count("put") == 12
    assert page.one("#result .text").get_property("textContent") == text
    page.picture("long")


def test_characters_beyond_the_basic_plane_do_not_shift_the_marks(site, browser):
    page = Page(browser, site.url + "/#token-classification")
    browser.execute_script("document.getElementById('field-text').value = '😀😀 class Naïve: pass'")
    page.run()
    assert [mark.text for mark in page.all("#result mark")] == ["Naïve"]


def test_text_streams_in_and_stop_ends_it_on_the_server_too(site, browser):
    page = Page(browser, site.url + "/#text-generation")
    head = site.heads["text-generation"]
    closed = head.closed_streams
    browser.execute_script("document.getElementById('field-max_tokens').value = 1000")
    page.one("#run").click()
    page.wait(lambda: "w3" in page.text("#result"))
    assert "first text after" in page.text("#facts")
    page.one("#stop").click()
    page.wait(lambda: "Stopped after" in page.text("#facts"))
    page.wait(lambda: head.closed_streams == closed + 1)
    assert "w999" not in page.text("#result")
    page.picture("stopped")


def test_choosing_another_head_stops_the_stream_and_leaves_a_clean_page(site, browser):
    page = Page(browser, site.url + "/#text-generation")
    head = site.heads["text-generation"]
    closed = head.closed_streams
    browser.execute_script("document.getElementById('field-max_tokens').value = 1000")
    page.one("#run").click()
    page.wait(lambda: "w3" in page.text("#result"))
    page.choose("fill-mask")
    page.wait(lambda: head.closed_streams == closed + 1)
    page.wait(lambda: page.one("#run").is_enabled())
    assert (page.text("#result"), page.text("#facts")) == ("", "")


def test_an_error_is_shown_with_its_kind_its_field_and_the_way_out(site, browser):
    page = Page(browser, site.url + "/#fill-mask")
    head = site.heads["fill-mask"]
    message = "inputs.0: the text has no [MASK]"
    head.failure = ServingError("invalid_input", message, param="inputs.0", retry_after_s=3)
    try:
        page.run()
        shown = page.text("#result [role=alert]")
        for expected in ("422 invalid_input", "the text has no [MASK]", "field: inputs.0", "again in 3 s"):
            assert expected in shown
        page.picture("error")
    finally:
        head.failure = None
    page.run()
    assert "dumps" in page.text("#result")


def test_it_works_by_keyboard_alone(site, browser):
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, site.url)
    page.press(Keys.TAB)
    assert page.one("[role=tab][aria-selected=true]") == browser.switch_to.active_element
    page.press(Keys.ARROW_RIGHT)
    assert page.text("[role=tab][aria-selected=true]") == ALL_HEADS[1]
    page.press(Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: "CLASS" in page.text("#result"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_both_themes(site, browser, theme):
    page = Page(browser, site.url + "/#token-classification", width=380, theme=theme)
    page.run()
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= 380, "the page scrolls sideways"
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3]) / 3
    assert (brightness < 80) == (theme == "dark")
    page.picture(f"phone-{theme}")


def test_a_server_with_keys_asks_for_one(browser):
    site = Site(ApiKeys(["sesame"]))
    try:
        page = Page(browser, site.url)
        assert "asks for an API key" in page.text("#server")
        page.one("#key").send_keys("sesame\t")
        page.wait(lambda: page.all("[role=tab]"))
        page.run()
        assert "dumps" in page.text("#result")
        assert "$BIGBIRD_API_KEY" in page.text("#curl")
        assert "sesame" not in page.text("#curl")
    finally:
        site.close()


@pytest.mark.parametrize(("path", "needed"), [("/", "/info"), ("/docs", "/openapi.json")])
def test_the_pages_load_nothing_from_elsewhere(site, browser, path, needed):
    browser.get(site.url + path)
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {url.removeprefix(site.url) for url in loaded} <= {needed, "/favicon.ico"}


def test_the_docs_describe_every_head_with_a_call_and_every_error(site, browser):
    browser.get_log("browser")  # takes out what the pages before were refused
    browser.get(site.url + "/docs")
    deadline = time.monotonic() + 30
    while len(shown := browser.find_elements("css selector", "details")) < 13:
        assert time.monotonic() < deadline, browser.page_source[:2000]
        time.sleep(0.05)
    texts = [one.get_property("textContent") for one in shown]
    for head in ALL_HEADS:
        path = "/v1/completions" if head == "text-generation" else f"/v1/{head}"
        (text,) = [text for text in texts if text.startswith(f"POST{path} ")]
        assert f"curl -sS {site.url}{path}" in text
        for expected in ("200 ", "413 ", '"type": "overloaded"', "X-Request-Timeout-Seconds"):
            assert expected in text
    width = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert width <= 0, "the page scrolls sideways"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
