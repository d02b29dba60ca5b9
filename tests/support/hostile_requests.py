"""Some hundred requests that nobody should send, as the bytes that go over the wire."""

import json
from collections.abc import Iterator

# Of the server they are sent to.
HEADS = ("fill-mask", "multiple-choice", "feature-extraction")
MAX_CHARACTERS = 60_000
MAX_BODY = 4 * 2**20
JSON = "Content-Type: application/json"
Case = tuple[str, bytes]  # what it is, and the bytes of the whole request


def request(path: str, body: bytes | str = b"", *headers: str, method: str = "POST", length: bool = True) -> bytes:
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    lines = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close", *headers]
    if length:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + content


def asking(task: str, inputs: object, **fields: object) -> bytes:
    return request(f"/v1/{task}", json.dumps({"inputs": inputs, **fields}), JSON)


def types() -> Iterator[Case]:
    """Every kind of JSON where a text is expected."""
    values = (None, True, 0, -1.5, "", " ", [], {}, [[]], [None], [""], {"text": 1}, ["a", 1], [["a [MASK]"]], 10**400)
    for task in HEADS:
        for value in values:
            yield f"{task}: {str(value)[:20]}", asking(task, value)
    for value in (
        None,
        [],
        "x",
        1,
        {"top_k": "5"},
        {"top_k": 1.5},
        {"top_k": -1},
        {"top_k": 10**9},
        {"top_k": None},
        {"max_length": 1},
        {"max_length": 3},
        {"on_long": "drop"},
        {"window_overlap": 10**6},
        {"x": 1},
    ):
        yield f"parameters {value}", asking("fill-mask", "a [MASK]", parameters=value)
    for field, value in (
        ("prompt", {}),
        ("prompt", [-1]),
        ("prompt", [10**9]),
        ("prompt", [[1], []]),
        ("n", 99),
        ("max_tokens", 10**9),
        ("max_tokens", 10**4300 - 1),
        ("prompt", [10**4300 - 1]),
        ("repetition_penalty", 5e-324),
        ("temperature", 5e-324),
        ("logit_bias", {"1": "DEEP"}),
        ("temperature", "hot"),
        ("stop", [""] * 5),
        ("seed", -1),
        ("seed", 2**70),
        ("logit_bias", {"1": 1}),
        ("stream", "yes"),
        ("model", "\ud800"),
    ):
        body = {"model": "text-generation", "prompt": "a", "max_tokens": 1, field: value}
        content = json.dumps(body).replace('"DEEP"', "[" * 900 + "]" * 900)
        yield f"completions {field} {content[-20:]}", request("/v1/completions", content, JSON)


def sizes() -> Iterator[Case]:
    """On both sides of every limit, and far beyond."""
    for length in (1, MAX_CHARACTERS - 7, MAX_CHARACTERS - 6, MAX_CHARACTERS - 5, 10 * MAX_CHARACTERS):
        for letter in ("x", "東", " ", "a "):
            yield f"{length} of {letter!r}", asking("fill-mask", (letter * length)[:length] + "[MASK]")
    for count in (127, 128, 129, 1024, 1025, 300_000):
        yield f"{count} inputs", asking("feature-extraction", ["a"] * count)
        yield f"{count} bad inputs", asking("feature-extraction", [0] * count)
    for masks, top_k in ((10, 1000), (11, 1000), (500, 5), (2100, 5)):
        yield f"{masks} masks, {top_k} each", asking("fill-mask", "[MASK] " * masks, parameters={"top_k": top_k})
    many = {f"k{number}": 0 for number in range(200_000)}
    yield "200,000 unknown fields", asking("fill-mask", "a [MASK]", **many)
    yield "a million lists", request("/v1/fill-mask", '{"inputs": [' + "[]," * 10**6 + "[]]}", JSON)
    yield "64 choices", asking("multiple-choice", {"prompt": "p", "choices": ["c"] * 64})
    yield "65 choices", asking("multiple-choice", {"prompt": "p", "choices": ["c"] * 65})
    for size in (MAX_BODY - 1, MAX_BODY, MAX_BODY + 1, 33 * 2**20):
        yield f"{size} bytes", request("/v1/fill-mask", b'"' + b"x" * (size - 2) + b'"', JSON)


def encodings() -> Iterator[Case]:
    """Bodies that are not quite JSON, or not quite UTF-8."""
    good = '{"inputs": "a [MASK] é"}'
    for name in ("utf-16", "utf-32", "latin-1", "utf-8-sig", "utf-7", "cp037"):
        yield f"as {name}", request("/v1/fill-mask", good.encode(name), JSON)
    for body in (
        "",
        " ",
        "{",
        "}",
        "nul",
        "null",
        "0",
        '""',
        "[" * 100_000,
        '{"a":' * 100_000,
        good + "x",
        good * 2,
        '{"inputs": NaN}',
        '{"inputs": Infinity}',
        '{"inputs": -0}',
        '{"inputs": 1e999}',
        "{'inputs': 'a'}",
        '{"inputs": "a", "inputs": "[MASK]"}',
        '{"inputs": "\\ud800 [MASK]"}',
        '{"inputs": "\\u0000 [MASK]"}',
        '{"inputs": "\\udc00\\ud800"}',
        '{"inputs": "' + "\\u202e" * 100 + '[MASK]"}',
        '{"inputs": "\x01"}',
        '{"inputs": "e' + "\\u0301" * 5000 + ' [MASK]"}',
        '{"inputs": "' + "\\ud83d\\ude00" * 1000 + '[MASK]"}',
        '{"inputs": ' + "9" * 5000 + "}",
        '{"' + "k" * 100_000 + '": 1}',
        '{"__proto__": {}, "inputs": "a"}',
        '{"inputs": "a", "\\ud800": 1}',
        '{"inputs": "a", "parameters": ' + "[" * 950 + "]" * 950 + "}",
    ):
        yield f"body {body[:24]!r}", request("/v1/fill-mask", body, JSON)
    yield "invalid UTF-8", request("/v1/fill-mask", b'{"inputs": "\xff\xfe\x80 [MASK]"}', JSON)
    for media in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/xml",
        "application/json; charset=utf-16",
        "APPLICATION/JSON",
        "application/json;;;",
    ):
        yield f"as {media}", request("/v1/fill-mask", good, f"Content-Type: {media}")
    yield "said to be gzip", request("/v1/fill-mask", good, JSON, "Content-Encoding: gzip")


def headers() -> Iterator[Case]:
    """Headers by which a client could steer what is behind, methods, paths, and broken HTTP."""
    good = '{"inputs": "a [MASK]"}'
    for header in (
        "X-Request-Timeout-Seconds: -1",
        "X-Request-Timeout-Seconds: 0",
        "X-Request-Timeout-Seconds: nan",
        "X-Request-Timeout-Seconds: 1e999",
        "X-Request-Timeout-Seconds: 0.001",
        "X-Request-Disconnect-Disabled: ?1",
        "X-Bigbird-Timeout-Seconds: -1",
        "serve_multiplexed_model_id: x",
        "X-Session-Id: x",
        "X-Serve-Router-X: x",
        "X-Request-Id: " + "a" * 5000,
        "X-Request-Id: ../../x",
        "X-Request-ID: é",
        "Authorization: Bearer \udcff",
        "Authorization: Basic x",
        "Expect: 100-continue",
        "Range: bytes=0-1",
        "Cookie: " + "c" * 5000,
        "X-HTTP-Method-Override: DELETE",
        "Origin: null",
        "Accept: text/html",
        "Accept-Encoding: gzip, br, zstd",
        "Upgrade: websocket",
        "traceparent: 00-zz",
        "Host: evil.example",
        "Forwarded: for=127.0.0.1",
    ):
        yield header[:40], request("/v1/fill-mask", good, JSON, header)
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        yield method, request("/v1/fill-mask", "", method=method)
        yield f"{method} with a body", request("/health", "x" * 1000, JSON, method=method)
    for path in (
        "/",
        "//",
        "/v1",
        "/v1/",
        "/v1/fill-mask/",
        "/v1/../info",
        "/v1/%2e%2e/info",
        "/%00",
        "/v1/fill-mask%00",
        "/v1/" + "x" * 8000,
        "/v1/fill-mask?x=" + "y" * 8000,
        "/é",
        "/-/routes",
        "/v1/completions/",
        "*",
        "/info#x",
        "http://evil.example/health",
        "/v1/fill-mask;x=1",
        "/static/../../etc/passwd",
        "/ready?deep=1",
    ):
        yield path[:40], request(path, good, JSON)
        yield f"GET {path[:40]}", request(path, method="GET", length=False)
    line = b"POST /v1/fill-mask HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    chunked = line + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = good.encode()
    yield "chunked", chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(whole), whole)
    yield "chunked by bytes", chunked + b"".join(b"1\r\n%c\r\n" % byte for byte in whole) + b"0\r\n\r\n"
    yield "broken chunks", chunked + b"zz\r\n\r\n"
    yield "two lengths", line + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456"
    yield "a negative length", line + b"Content-Length: -1\r\n\r\n"
    yield "a length of gigabytes", line + b"Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n{"
    yield "a long remark in a chunk", chunked + b"1;%s\r\n{\r\n0\r\n\r\n" % (b"x" * 10**6)
    yield "a length and chunks", line + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"
    yield "a folded header", b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-A: b\r\n c\r\n\r\n"
    upgrade = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    yield (
        "a websocket",
        request("/v1/fill-mask", "", *upgrade, method="GET", length=False).replace(b"close", b"Upgrade"),
    )
    yield "not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100
    yield "many headers", request("/health", "", *(f"X-{n}: y" for n in range(500)), method="GET")


CASES = [*types(), *sizes(), *encodings(), *headers()]
