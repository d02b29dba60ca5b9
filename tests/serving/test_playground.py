"""The playground page in headless Chromium: every head, streaming, errors, keyboard, phone width, both themes.

The gateway is the real one, its heads are fakes: what models say is tested elsewhere.
"""

import re
import shutil
import time

import pytest
from playground_site import Page, Site

from serving.errors import ServingError
from serving.http.edge.auth import ApiKeys
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
    "rerank": ["scored by feature-extraction", "document 1", "characters 0 to 1"],
}


@pytest.mark.parametrize("head", EXPECTED)
def test_every_head_shows_its_answer_with_latency_and_a_curl_command(site, browser, head):
    page = Page(browser, site.url)
    page.choose(head)
    assert "curl" in page.text("#curl")
    path = {"text-generation": "/v1/completions", "rerank": "/rerank"}.get(head, f"/v1/{head}")
    assert path in page.text("#curl")
    assert page.text("#about"), "one line says what the head wants"
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


def test_an_error_is_said_in_a_person_s_words_with_the_way_out(site, browser):
    page = Page(browser, site.url + "/#fill-mask")
    head = site.heads["fill-mask"]
    try:
        head.failure = ServingError("invalid_input", "inputs.0: the text has no [MASK]", param="inputs.0")
        page.run()
        shown = page.text("#result [role=alert]")
        assert "The text has no [MASK]." in shown
        for language in ("422", "invalid_input", "inputs.0", "field"):
            assert language not in shown
        page.picture("error")
        head.failure = ServingError("overloaded", "the queue has 9 tokens", retry_after_s=3)
        page.run()
        assert page.text("#result [role=alert]") == "The server is busy just now.\nTry again in 3 s."
    finally:
        head.failure = None
    page.run()
    assert "dumps" in page.text("#result")


def test_an_empty_number_is_left_out_and_is_no_nought(site, browser):
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, site.url + "/#fill-mask")
    page.one("#field-top_k").send_keys(Keys.BACK_SPACE)
    page.run()
    assert "top_k" not in page.text("#curl")
    assert "top_k" not in site.heads["fill-mask"].calls[-1][1]["options"]


def test_labels_stand_beside_their_entities_in_colours_that_names_alone_decide(site, browser):
    def colours(text):
        page = Page(browser, site.url + "/#token-classification")
        browser.execute_script("document.getElementById('field-text').value = arguments[0]", text)
        page.run()
        beside = "getComputedStyle(arguments[0], '::after').content"
        marks = page.all("#result mark")
        assert [browser.execute_script(f"return {beside}", mark) for mark in marks] == [
            f'"{mark.get_attribute("data-label")}"' for mark in marks
        ]
        return {mark.get_attribute("data-label"): mark.value_of_css_property("box-shadow") for mark in marks}

    first, second = colours("class A: pass\ndef f(): pass"), colours("import os\ndef f(): pass\nclass A: pass")
    assert len(set(second.values())) == 3
    assert first == {label: second[label] for label in first}


def test_bars_are_shares_of_a_hundred_and_windows_tell_where_a_label_comes_from(site, browser):
    page = Page(browser, site.url + "/#text-classification")
    page.one("#long").click()
    page.run()
    widths = [fill.get_attribute("style") for fill in page.all("#result .fill")]
    assert widths[:2] == ["width: 80%;", "width: 20%;"]
    assert "Where it comes from: 2 windows" in page.text("#result")
    assert "characters 4000 to 9000: good" in page.text("#result")
    page.picture("windows")


def test_the_answer_comes_into_view_and_a_phone_keeps_its_screen_for_it(site, browser):
    page = Page(browser, site.url + "/#text-classification", width=380)
    top = browser.execute_script("return document.getElementById('form').getBoundingClientRect().top")
    assert top < 1100 / 4, "the tabs leave room"
    page.run()
    place = "const { top, bottom } = document.getElementById('result').getBoundingClientRect();"
    top, bottom, height = browser.execute_script(place + "return [top, bottom, document.documentElement.clientHeight]")
    assert 0 <= top < bottom <= height
    assert page.one("header a").get_attribute("href") == site.url + "/docs"


def test_it_works_by_keyboard_alone(site, browser):
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, site.url)
    page.press(Keys.TAB)  # the link to /docs
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
        full = '"code": "rate_limit_exceeded"' if head == "text-generation" else '"error_type": "overloaded"'
        for expected in ("200 ", "413 ", full, "X-Request-Timeout-Seconds"):
            assert expected in text
    width = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert width <= 0, "the page scrolls sideways"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
