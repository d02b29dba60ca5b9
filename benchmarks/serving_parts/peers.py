"""What a user writes today, as peers of the serving benchmark: transformers behind FastAPI, and behind Ray Serve.

Both load the same checkpoint as ours and answer the same requests with the same fields.
"""

import argparse
import threading
from typing import Any

from ray import serve
from starlette.requests import Request


def _pipeline(checkpoint: str, num_threads: int) -> Any:
    import torch
    from transformers import BigBirdForTokenClassification, PreTrainedTokenizerFast, pipeline

    torch.set_num_threads(num_threads)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{checkpoint}/tokenizer.json",
        pad_token="<pad>", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", unk_token="<unk>",
        model_max_length=4096,
    )  # fmt: skip
    model = BigBirdForTokenClassification.from_pretrained(checkpoint).eval()
    return pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")


def _plain(entities: Any) -> Any:
    return [{**entity, "score": float(entity["score"])} for entity in entities]


@serve.deployment(max_ongoing_requests=64)
class BatchedPipeline:
    """Ray Serve with @serve.batch: up to eight requests, padded to the longest."""

    def __init__(self, checkpoint: str, num_threads: int) -> None:
        self._pipeline = _pipeline(checkpoint, num_threads)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.02)
    async def _batch(self, texts: list[str]) -> list[Any]:
        return [_plain(entities) for entities in self._pipeline(texts, batch_size=len(texts))]

    async def __call__(self, request: Request) -> Any:
        return await self._batch((await request.json())["inputs"])


def main() -> None:
    """transformers' pipeline behind FastAPI with one worker, until it is killed."""
    import uvicorn
    from fastapi import FastAPI

    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("port", type=int)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    model = _pipeline(options.checkpoint, options.threads)
    app = FastAPI()
    one_at_a_time = threading.Lock()

    @app.post("/")
    def predict(body: dict[str, Any]) -> Any:
        with one_at_a_time:
            return _plain(model(body["inputs"]))

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error")


if __name__ == "__main__":
    main()
