"""A gateway with fake heads, and its page in a browser."""

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any

from live_app import LiveApp
from serving_fakes import FakeHead, RecordedMetrics

from serving.http.edge.auth import ApiKeys
from serving.http.gateway import create_app
from serving.settings import ALL_HEADS, GatewayArguments, HeadArguments


class PageHead(FakeHead):
    """Answers that depend on the text, so that what the page shows can be told from the text it was given."""

    async def call(self, method: str, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        outcome = await super().call(method, request, timeout_s=timeout_s)
        if method != "score":
            return outcome
        for record, example in zip(outcome["records"], request["inputs"], strict=True):
            record |= getattr(self, "_" + self.task.replace("-", "_"))(example)
            if request["options"].get("return_windows") and len(str(example)) > 5000:
                told = {"labels": record.get("labels"), "answers": [{**record}]}
                record["windows"] = [{"start": 4000 * index, "end": 4000 * index + 5000, **told} for index in range(2)]
        return outcome

    def _fill_mask(self, text: str) -> dict[str, Any]:
        candidates = [{"token": 1, "token_str": "dumps", "score": 0.75}, {"token": 2, "token_str": " x", "score": 0.05}]
        return {"masks": [{"position": m.start(), "candidates": candidates} for m in re.finditer(r"\[MASK\]", text)]}

    def _token_classification(self, text: str) -> dict[str, Any]:
        patterns = {"CLASS": r"class (\w+)", "FUNCTION": r"def (\w+)", "MODULE": r"import (\w+)"}
        return {
            "entities": [
                {"entity_group": label, "score": 0.9, "word": m[1], "text": m[1], "start": m.start(1), "end": m.end(1)}
                for label, pattern in patterns.items()
                for m in re.finditer(pattern, text)
            ]
        }

    def _text_classification(self, text: str) -> dict[str, Any]:
        return {}

    def _zero_shot_classification(self, text: str) -> dict[str, Any]:
        return {}

    def _multiple_choice(self, example: dict[str, Any]) -> dict[str, Any]:
        scores = [1 / (2 + index) for index in range(len(example["choices"]))]
        return {"choices": scores, "best": 0}

    def _question_answering(self, example: dict[str, Any]) -> dict[str, Any]:
        return {"answer": example["context"][7:11], "score": 0.7, "start": 7, "end": 11}

    def _feature_extraction(self, text: str) -> dict[str, Any]:
        return {"embedding": [((index * 37) % 64 - 32) / 100 for index in range(128)]}

    def _masked_lm_scoring(self, text: str) -> dict[str, Any]:
        words = [
            {"token": m[0], "start": m.start(), "end": m.end(), "nll": float(len(m[0]))}
            for m in re.finditer(r"\S+", text)
        ]
        return {"tokens": words}


class SlowStream(FakeHead):
    """One word every 30 ms, for as long as it is asked to."""

    async def stream(self, method: str, request: dict[str, Any], *, timeout_s: float) -> Any:
        self.calls.append((method, request, timeout_s))
        count = request["options"]["max_new_tokens"]
        try:
            for index in range(count):
                await asyncio.sleep(0.03)
                finish = "length" if index == count - 1 else None
                yield {"choices": [{"index": 0, "text": f" w{index}", "logprobs": None, "finish_reason": finish}]}
            yield {"usage": {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}}
        finally:
            self.closed_streams += 1


class Site(LiveApp):
    """A running gateway with fake heads."""

    def __init__(self, keys: ApiKeys) -> None:
        self.heads = {task: SlowStream(task) if task == "text-generation" else PageHead(task) for task in ALL_HEADS}
        super().__init__(
            create_app(
                self.heads,
                head_arguments={task: HeadArguments(checkpoint=f"checkpoints/{task}") for task in ALL_HEADS},
                arguments=GatewayArguments(),
                keys=keys,
                versions={"bigbird-on-ray": "0.1.0"},
                metrics=RecordedMetrics(),
            )
        )


class Page:
    """The page in a browser."""

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
        from selenium import webdriver

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
