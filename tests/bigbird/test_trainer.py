"""transformers' own Trainer trains our heads: nothing of it is replaced."""

import pytest
import torch
import transformers

import bigbird
from bigbird import BigBirdTokenizer

TEXTS = ["Paris is the capital", "the lake is blocked", "blocks of tokens", "Long documents are read"] * 6


@pytest.fixture
def trainer_of(tmp_path):
    def make(model, rows, **arguments):
        defaults = {"max_steps": 25, "learning_rate": 5e-3, "per_device_train_batch_size": 8, "logging_steps": 5}
        settings = transformers.TrainingArguments(
            output_dir=str(tmp_path), report_to=[], disable_tqdm=True, use_cpu=True, seed=0, **{**defaults, **arguments}
        )
        return transformers.Trainer(model=model, args=settings, train_dataset=rows, eval_dataset=rows)

    return make


def rows_of(directory, **labels):
    encoded = BigBirdTokenizer.from_pretrained(directory)(TEXTS, padding=True, return_tensors="pt")
    return [{**{name: values[i] for name, values in encoded.items()}, **{name: values[i] for name, values in
             labels.items()}} for i in range(len(TEXTS))]  # fmt: skip


def test_the_trainer_trains_evaluates_saves_and_resumes_a_classifier(tiny_checkpoint, trainer_of, tmp_path):
    directory = tiny_checkpoint(bigbird.BigBirdForSequenceClassification, num_labels=4)
    model = bigbird.BigBirdForSequenceClassification.from_pretrained(directory)
    rows = rows_of(directory, labels=torch.arange(4).repeat(6))
    trainer = trainer_of(
        model, rows, save_steps=25, eval_strategy="steps", eval_steps=25, activation_checkpointing=True
    )
    assert trainer.can_return_loss is False
    assert trainer.label_names == ["labels"]  # read off forward's arguments
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after < before / 2
    predicted = trainer.predict(rows)
    assert (predicted.predictions.argmax(-1) == predicted.label_ids).mean() > 0.9
    saved = tmp_path / "checkpoint-25"
    model.config.save_pretrained(saved)  # of a model that is not transformers' own it writes the weights alone
    again = bigbird.BigBirdForSequenceClassification.from_pretrained(saved)
    theirs = transformers.BigBirdForSequenceClassification.from_pretrained(saved)
    ids = rows[0]["input_ids"][None]
    with torch.no_grad():
        expected = model.eval()(ids).logits
        torch.testing.assert_close(again(ids).logits, expected)
        torch.testing.assert_close(theirs(ids).logits, expected, atol=1e-4, rtol=1e-5)
    resumed = trainer_of(again.train(), rows, max_steps=30, save_steps=30)
    resumed.train(resume_from_checkpoint=str(saved))
    assert resumed.state.global_step == 30


@pytest.mark.parametrize("head", ["BigBirdForMaskedLM", "BigBirdForQuestionAnswering", "BigBirdForTokenClassification"])
def test_the_trainer_trains_other_heads_tied_weights_included(tiny_checkpoint, trainer_of, tmp_path, head):
    model_class = getattr(bigbird, head)
    directory = tiny_checkpoint(model_class)
    model = model_class.from_pretrained(directory)
    rows = rows_of(directory)
    for row in rows:
        if head == "BigBirdForQuestionAnswering":
            row |= {"start_positions": torch.tensor(2), "end_positions": torch.tensor(3)}
            row["question_lengths"] = torch.tensor(1)
        else:
            row["labels"] = row["input_ids"] % 2 if head == "BigBirdForTokenClassification" else row["input_ids"]
    trainer = trainer_of(model, rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    trainer.save_model(str(tmp_path / "saved"))
    model.config.save_pretrained(tmp_path / "saved")
    again = model_class.from_pretrained(tmp_path / "saved")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
