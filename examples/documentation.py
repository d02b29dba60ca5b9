"""The examples of transformers' BigBird documentation, with texts of our own: the same code, the same values.

    python examples/documentation.py [FOLDER] [LIBRARY]

FOLDER holds a checkpoint a head (default: checkpoints/). LIBRARY is bigbird (default) or transformers. transformers 5
computes in the type of the files, bfloat16 in checkpoints/; transformers 4 and this library compute in float32.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch

CODE = 'def parse(text: str) -> list[str]:\n    """Split a line at its commas."""\n    return text.split(",")\n'


def bare_model(library: ModuleType, checkpoint: Path) -> dict[str, object]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdModel.from_pretrained(checkpoint)
    return {"states": model(**tokenizer(CODE, return_tensors="pt")).last_hidden_state}


def masked_lm(library: ModuleType, checkpoint: Path) -> dict[str, object]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForMaskedLM.from_pretrained(checkpoint)
    inputs = tokenizer(CODE.replace("commas", tokenizer.mask_token), return_tensors="pt")
    is_mask = inputs.input_ids == tokenizer.mask_token_id
    outputs = model(**inputs, labels=torch.where(is_mask, 9, -100))
    logits = outputs.logits[is_mask]
    return {"word": tokenizer.decode(logits.argmax(dim=-1)), "logits": logits, "loss": outputs.loss.item()}


def causal_lm(library: ModuleType, checkpoint: Path) -> dict[str, object]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForCausalLM.from_pretrained(checkpoint, is_decoder=True)
    inputs = tokenizer(CODE, return_tensors="pt")
    outputs = model(**inputs, labels=inputs["input_ids"])
    return {"loss": outputs.loss.item(), "logits": outputs.logits[0, -1]}


def sequence_classification(library: ModuleType, checkpoint: Path) -> dict[str, object]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForSequenceClassification.from_pretrained(checkpoint)
    inputs = tokenizer(CODE * 40, return_tensors="pt")  # long enough for sparse attention
    outputs = model(**inputs, labels=torch.tensor([1]))
    label = model.config.id2label[outputs.logits.argmax().item()]
    return {"label": label, "logits": outputs.logits, "loss": outputs.loss.item()}


def multiple_choice(library: ModuleType, checkpoint: Path) -> dict[str, object]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForMultipleChoice.from_pretrained(checkpoint)
    encoding = tokenizer([CODE, CODE], ["def join(parts):", "The lake was frozen."], return_tensors="pt", padding=True)
    outputs = model(**{name: rows.unsqueeze(0) for name, rows in encoding.items()}, labels=torch.tensor([0]))
    return {"loss": outputs.loss.item(), "logits": outputs.logits}


def token_classification(library: ModuleType, checkpoint: Path) -> dict[str, object]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForTokenClassification.from_pretrained(checkpoint)
    inputs = tokenizer(CODE, add_special_tokens=False, return_tensors="pt")
    logits = model(**inputs).logits
    classes = logits.argmax(-1)
    loss = model(**inputs, labels=classes).loss.item()
    return {"labels": [model.config.id2label[label.item()] for label in classes[0]], "logits": logits, "loss": loss}


def question_answering(library: ModuleType, checkpoint: Path) -> dict[str, object]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForQuestionAnswering.from_pretrained(checkpoint)
    inputs = tokenizer("What is a line split at?", CODE, return_tensors="pt")
    outputs = model(**inputs, start_positions=torch.tensor([14]), end_positions=torch.tensor([15]))
    first, last = outputs.start_logits.argmax(), outputs.end_logits.argmax()
    answer = tokenizer.decode(inputs.input_ids[0, first : last + 1])
    return {"answer": answer, "start": outputs.start_logits, "loss": outputs.loss.item()}


EXAMPLES = {  # each example, and the checkpoint it reads
    bare_model: "fill-mask",
    masked_lm: "fill-mask",
    causal_lm: "text-generation",
    sequence_classification: "text-classification",
    multiple_choice: "multiple-choice",
    token_classification: "token-classification",
    question_answering: "question-answering",
}


def main(folder: str = "checkpoints", library: str = "bigbird") -> None:
    for example, task in EXAMPLES.items():
        for name, value in example(importlib.import_module(library), Path(folder) / task).items():
            shown = value.flatten()[:4].tolist() if isinstance(value, torch.Tensor) else value
            print(f"{example.__name__} {name}: {shown}")


if __name__ == "__main__":
    main(*sys.argv[1:])
