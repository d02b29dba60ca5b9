"""`make pictures`: the two pictures of README, taken anew: a job's report and the playground. Needs Chromium.

Scores a sample of the corpus, serves the tagger, and lets a headless browser look at both.
"""

import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from examples import demo

PICTURES = Path("examples") / "pictures"
REPORT = Path("out") / "demo" / "token-classification.report.html"
URL = "http://127.0.0.1:8017"
TAGGER = "token-classification=checkpoints/token-classification"


def main() -> None:
    if not REPORT.exists():
        demo.main()
    server = subprocess.Popen([sys.executable, "-m", "serving.app", "--head", TAGGER, "--port", URL.rpartition(":")[2]])
    browser = open_browser()
    try:
        browser.get(REPORT.resolve().as_uri())
        save(browser, "report.png", height=900)
        wait_for_server()
        browser.get(URL)
        WebDriverWait(browser, 60).until(lambda page: page.find_elements("css selector", "[data-head]"))
        browser.find_element("id", "short").click()
        browser.find_element("id", "run").click()
        WebDriverWait(browser, 60).until(lambda page: page.find_element("id", "result").text)
        save(browser, "playground.png", height=760)
    finally:
        browser.quit()
        server.terminate()
        server.wait()


def open_browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver") or ""))


def save(browser: webdriver.Chrome, name: str, *, height: int) -> None:
    browser.set_window_size(1000, height)
    PICTURES.mkdir(exist_ok=True)
    browser.save_screenshot(str(PICTURES / name))
    print(f"{PICTURES / name}: {(PICTURES / name).stat().st_size:,} bytes")


def wait_for_server(timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            urllib.request.urlopen(f"{URL}/ready", timeout=10).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"{URL} is not ready after {timeout_s:.0f} s") from None
            time.sleep(1)


if __name__ == "__main__":
    main()
