"""One client for each protocol that the service speaks. Start the service first, in another terminal: `make serve`.

    python examples/clients.py [http://127.0.0.1:8000]

Needs `pip install openai huggingface_hub`; plain HTTP needs nothing.
"""

import json
import sys
import urllib.request

from huggingface_hub import InferenceClient
from openai import OpenAI

TEXT = "import os\n\ndef read_lines(path):\n    raise ValueError(path)\n"


def plain_http(url: str) -> None:
    body = json.dumps({"inputs": TEXT}).encode()
    request = urllib.request.Request(f"{url}/v1/token-classification", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        print("HTTP:", [(entity["entity_group"], entity["word"]) for entity in json.load(answer)])


def hugging_face(url: str) -> None:
    # The client posts to the address of one task.
    (best, *_) = InferenceClient(f"{url}/v1/fill-mask").fill_mask("def close([MASK]):\n    self.file.close()\n")
    print("huggingface_hub:", repr(best.token_str), round(best.score, 3))


def openai(url: str) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    chunks = client.completions.create(model="text-generation", prompt=TEXT, max_tokens=24, temperature=0, stream=True)
    print("openai:", repr("".join(chunk.choices[0].text for chunk in chunks)))


def main() -> None:
    url = (sys.argv[1:] or ["http://127.0.0.1:8000"])[0].rstrip("/")
    for client in (plain_http, hugging_face, openai):
        client(url)


if __name__ == "__main__":
    main()
