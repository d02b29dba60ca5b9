"""serving.settings: what a command line, a config file and the shipped checkpoints become; and the import border."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from serving.settings import ALL_HEADS, HeadArguments, ServeArguments


def test_heads_come_as_pairs_as_json_and_as_a_mapping(tmp_path):
    pairs = f"fill-mask={tmp_path},question-answering=someone/some-model"
    as_json = f'{{"fill-mask": "{tmp_path}", "question-answering": {{"checkpoint": "someone/some-model"}}}}'
    mapping = {"fill-mask": str(tmp_path), "question-answering": HeadArguments(checkpoint="someone/some-model")}
    for heads in (pairs, as_json, mapping):
        resolved = ServeArguments.model_validate({"heads": heads}).resolved_heads()
        assert {task: head.checkpoint for task, head in resolved.items()} == {
            "fill-mask": str(tmp_path.resolve()),
            "question-answering": "someone/some-model",
        }


def test_local_checkpoints_become_absolute(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = ServeArguments.model_validate({"heads": "fill-mask=model"})
    assert arguments.resolved_heads()["fill-mask"].checkpoint == str(tmp_path / "model")


def test_without_heads_every_checkpoint_named_after_a_task_is_served(tmp_path):
    for name in ("fill-mask", "text-generation", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "question-answering").mkdir()
    heads = ServeArguments(checkpoints=str(tmp_path)).resolved_heads()
    assert set(heads) == {"fill-mask", "masked-lm-scoring", "feature-extraction", "text-generation"}
    assert heads["masked-lm-scoring"].checkpoint == heads["fill-mask"].checkpoint


def test_head_defaults_hold_for_every_head_that_does_not_say_otherwise(tmp_path):
    (tmp_path / "fill-mask").mkdir()
    (tmp_path / "fill-mask" / "config.json").write_text("{}")
    defaults = {"device": "cuda", "max_replicas": 4}
    shipped = ServeArguments.model_validate({"head_defaults": defaults, "checkpoints": str(tmp_path)})
    for head in shipped.resolved_heads().values():
        assert (head.device, head.max_replicas, head.num_cpus) == ("cuda", 4, 0.1)
    named = {"fill-mask": {"checkpoint": "x", "device": "cpu"}, "feature-extraction": "y"}
    heads = ServeArguments.model_validate({"head_defaults": defaults, "heads": named}).resolved_heads()
    assert (heads["fill-mask"].device, heads["feature-extraction"].device) == ("cpu", "cuda")
    assert heads["fill-mask"].max_replicas == 4


def test_nothing_to_serve_is_an_error_that_says_where_it_looked(tmp_path):
    with pytest.raises(ValueError, match=r"no heads given, and .* has no directory named after a task"):
        ServeArguments(checkpoints=str(tmp_path)).resolved_heads()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": "summarization=x"}, f"unknown head summarization; the heads are {', '.join(ALL_HEADS)}"),
        ({"heads": "fill-mask"}, "'fill-mask' is not of the form task=checkpoint"),
        ({"heads": {"fill-mask": {"checkpoint": "x", "replicas": 3}}}, "replicas"),
        ({"heads": {"fill-mask": {"checkpoint": "x", "min_replicas": 3}}}, "max_replicas is 1, below min_replicas"),
        ({"heads": {"fill-mask": {"checkpoint": "x", "dtype": "float8"}}}, "'float32', 'bfloat16', 'int8' or 'auto'"),
        ({"head": "fill-mask=x"}, "head"),
        ({"head_defaults": {"checkpoint": "x"}}, "checkpoint"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValidationError) as caught:
        ServeArguments.model_validate(arguments)
    assert message in str(caught.value)


def test_the_gateway_imports_neither_ray_nor_torch_nor_the_library():
    code = "import sys, serving.http.gateway; print([m for m in ('ray', 'torch', 'bigbird') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_ray_finds_the_class_that_validates_the_arguments_of_a_config_file():
    """Ray reads the annotation as it stands: a postponed one, a string, would pass a bare dict on."""
    look = "import inspect, serving.app as a; print(inspect.signature(a.build).parameters['args'].annotation.__name__)"
    seen = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "ServeArguments"


def test_every_scoring_head_has_an_endpoint():
    from serving.http.apis.tasks import TASKS
    from serving.settings import SCORING_TASKS

    assert tuple(TASKS) == SCORING_TASKS
