"""bigbird-score verify --endpoint: a job's output beside what a live server answers for the same rows."""

import pytest
from endpoint_inputs import INPUTS
from proved_outputs import finished_output
from serving_cluster import SERVED

from bigbird import BigBirdForSequenceClassification
from bigbird.predictors import OPTIONS
from pipelines import score
from pipelines.command_line import counted

pytestmark = SERVED

OF_TASK = {
    "token-classification": {"aggregation_strategy": "none"},
    "text-classification": {"function_to_apply": "sigmoid", "max_length": 16, "return_windows": True},
    "question-answering": {"top_k": 2},
    "zero-shot-classification": {"candidate_labels": ("a lake", "a capital"), "multi_label": True},
    "fill-mask": {"top_k": 2},
}


@pytest.mark.parametrize("task", INPUTS)
def test_an_endpoint_with_the_same_model_proves_an_output(task, url, checkpoints, tmp_path, capsys):
    options = OPTIONS[task](**OF_TASK.get(task, {}))
    output = finished_output(tmp_path, task, checkpoints[task], INPUTS[task], options)
    assert score.main(["verify", str(output), "--endpoint", url]) == 0, capsys.readouterr().err
    assert f"{counted(len(INPUTS[task]), 'row')} scored again agree" in capsys.readouterr().out


def test_an_endpoint_with_another_model_does_not_and_one_without_the_task_is_refused(
    url, checkpoints, tiny_checkpoint, tmp_path, capsys
):
    task = "text-classification"
    other = tiny_checkpoint(BigBirdForSequenceClassification, num_labels=3, seed=7)
    output = finished_output(tmp_path, task, other, [*INPUTS[task], ""])
    assert score.main(["verify", str(output), "--endpoint", url]) == 1
    said = capsys.readouterr().err
    assert f"row 0 of {tmp_path / 'in.parquet'}, column labels[" in said
    assert "column error" not in said  # what is refused by both is an error in both
    (tmp_path / "generated").mkdir()
    output = finished_output(
        tmp_path / "generated", "text-generation", checkpoints["text-generation"], [{"prompt": "a"}]
    )
    assert score.main(["verify", str(output), "--endpoint", url]) == 2
    assert "text-generation has no task endpoint" in capsys.readouterr().err
