"""verify --endpoint: what answers there, and is no server of task endpoints, is named."""

import http.server
import threading

import pyarrow as pa
import pytest

from bigbird import BigBirdForMaskedLM
from bigbird.errors import InputError
from bigbird.predictors import load_predictor
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.actors.stages import make_stage
from pipelines.scoring.checks import inspect_model
from pipelines.scoring.proof.endpoint import asking
from pipelines.scoring.scores import Score


class Other(http.server.BaseHTTPRequestHandler):
    """A server that answers every request with `answer`, (status, body); None hangs up."""

    answer = None

    def do_POST(self):
        if self.answer is not None:
            self.send_response(self.answer[0])
            self.end_headers()
            self.wfile.write(self.answer[1])

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    server = http.server.HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, b"<html>"), "answers fill-mask with what is no JSON"),
        ((200, b'{"id": 1}'), 'answers fill-mask in another form: {"id": 1}'),
        ((200, b"7"), "answers fill-mask in another form: 7"),
        (
            (401, b"who are you?"),
            "answers 401 for fill-mask: who are you?; the key it asks for stands in BIGBIRD_API_KEY",
        ),
        ((404, b"no such page"), "answers 404 for fill-mask: no such page"),
        (None, "does not answer"),
    ],
)
def test_a_server_that_is_another_is_named_with_what_it_says(answer, message, url, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(Other, "answer", answer)
    score = Score(task="fill-mask", model=str(tiny_checkpoint(BigBirdForMaskedLM)))
    stage, _ = make_stage([score], ScoreOptions(), load=load_predictor, inspect=inspect_model)
    with pytest.raises(InputError) as told:
        asking(url)(stage)(pa.table({"text": ["Paris is [MASK]."]}))
    assert str(told.value).startswith(f"endpoint {url} ")
    assert message in str(told.value)
