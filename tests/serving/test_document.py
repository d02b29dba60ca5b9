"""The OpenAPI document of the gateway says what is answered: bodies, errors, headers, keys."""

import jsonschema
import pytest
from serving_fakes import INPUTS, RECORDS, Server, body

from serving.http.edge.auth import ApiKeys


@pytest.mark.parametrize("task", RECORDS)
def test_every_answer_fits_its_own_documentation(server, task):
    document = server.ask("GET", "/openapi.json").json()
    schema = document["paths"][f"/v1/{task}"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    for inputs in (INPUTS[task], [INPUTS[task]] * 2):
        answer = server.post(f"/v1/{task}", body(task, inputs)).json()
        jsonschema.validate(answer, {**schema, "components": document["components"]})


def test_the_document_describes_every_error_with_an_example(server):
    document = server.ask("GET", "/openapi.json").json()
    openai = {"type", "message", "param", "code"}
    for path, fields in (("/v1/fill-mask", {"error", "error_type"}), ("/v2/rerank", {"error", "error_type", "message"}),
                         ("/v1/completions", openai), ("/v1/embeddings", openai)):  # fmt: skip
        answers = document["paths"][path]["post"]["responses"]
        assert set(answers) >= {"200", "400", "401", "404", "408", "413", "415", "429", "500", "503", "504"}
        assert ("422" in answers) == (fields is not openai), "OpenAI has 400 for it"
        for status, answer in answers.items():
            if status != "200":
                for example in answer["content"]["application/json"]["examples"].values():
                    assert set(example["value"]["error"] if fields is openai else example["value"]) == fields


def test_the_document_names_headers_and_asks_for_a_key_only_where_one_is_needed(server):
    document = server.ask("GET", "/openapi.json").json()
    asked = document["paths"]["/v1/fill-mask"]["post"]
    assert [parameter["name"] for parameter in asked["parameters"]] == ["X-Request-Timeout-Seconds", "X-Request-ID"]
    told = server.post("/v1/fill-mask", {"inputs": "a [MASK]"}).headers
    assert all(name in told for name in asked["responses"]["200"]["headers"])
    assert "security" not in asked
    guarded = Server(keys=ApiKeys(["one"])).ask("GET", "/openapi.json").json()
    assert "security" in guarded["paths"]["/v1/fill-mask"]["post"]


def test_every_answer_s_example_fits_its_schema(server):
    document = server.ask("GET", "/openapi.json").json()
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            jsonschema.validate(example, {**schema, "components": document["components"]})
        if name in ("Candidate", "Entity", "LabelScore", "Answer", "Choice", "TextScore", "Completion", "Embeddings"):
            assert schema["examples"], name
