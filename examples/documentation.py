"""The examples of transformers' BigBird documentation, with texts of our own: the same code, the same values.

    python examples/documentation.py [FOLDER] [LIBRARY]

FOLDER holds a checkpoint a head (default: checkpoints/). LIBRARY is bigbird, or transformers to see that the values
are the same: only the module that the classes come from differs. (transformers 5 computes in the type of the files,
bfloat16 in checkpoints/; transformers 4 and this library in float32.)
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

CODE = 'def parse(text: str) -> list[str]:\n    """Split a line at its commas."""\n    return text.split(",")\n'


def bare_model(library: ModuleType, checkpoint: Path) -> dict[str, Any]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdModel.from_pretrained(checkpoint)
    return {"states": model(**tokenizer(CODE, return_tensors="pt")).last_hidden_state}


def masked_lm(library: ModuleType, checkpoint: Path) -> dict[str, Any]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForMaskedLM.from_pretrained(checkpoint)
    inputs = tokenizer(CODE.replace("commas", tokenizer.mask_token), return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    place = (inputs.input_ids == tokenizer.mask_token_id)[0].nonzero(as_tuple=True)[0]
    word = tokenizer.decode(logits[0, place].argmax(dim=-1))
    labels = torch.where(inputs.input_ids == tokenizer.mask_token_id, 9, -100)
    return {"word": word, "logits": logits[0, place], "loss": model(**inputs, labels=labels).loss.item()}


def causal_lm(library: ModuleType, checkpoint: Path) -> dict[str, Any]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForCausalLM.from_pretrained(checkpoint, is_decoder=True)
    inputs = tokenizer(CODE, return_tensors="pt")
    outputs = model(**inputs, labels=inputs["input_ids"])
    return {"loss": outputs.loss.item(), "logits": outputs.logits[0, -1]}


def sequence_classification(library: ModuleType, checkpoint: Path) -> dict[str, Any]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForSequenceClassification.from_pretrained(checkpoint)
    inputs = tokenizer(CODE * 40, return_tensors="pt")  # long enough for sparse attention
    with torch.no_grad():
        logits = model(**inputs).logits
    label = model.config.id2label[logits.argmax().item()]
    return {"label": label, "logits": logits, "loss": model(**inputs, labels=torch.tensor([1])).loss.item()}


def multiple_choice(library: ModuleType, checkpoint: Path) -> dict[str, Any]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForMultipleChoice.from_pretrained(checkpoint)
    choices = ["def join(parts: list[str]) -> str:", "The lake was frozen."]
    encoding = tokenizer([CODE, CODE], choices, return_tensors="pt", padding=True)
    outputs = model(**{name: rows.unsqueeze(0) for name, rows in encoding.items()}, labels=torch.tensor([0]))
    return {"loss": outputs.loss.item(), "logits": outputs.logits}


def token_classification(library: ModuleType, checkpoint: Path) -> dict[str, Any]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForTokenClassification.from_pretrained(checkpoint)
    inputs = tokenizer(CODE, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    classes = logits.argmax(-1)
    loss = model(**inputs, labels=classes).loss.item()
    return {"labels": [model.config.id2label[label.item()] for label in classes[0]], "logits": logits, "loss": loss}


def question_answering(library: ModuleType, checkpoint: Path) -> dict[str, Any]:
    tokenizer = library.AutoTokenizer.from_pretrained(checkpoint)
    model = library.BigBirdForQuestionAnswering.from_pretrained(checkpoint)
    inputs = tokenizer("What is a line split at?", CODE, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    first, last = outputs.start_logits.argmax(), outputs.end_logits.argmax()
    answer = tokenizer.decode(inputs.input_ids[0, first : last + 1])
    ends = {"start_positions": torch.tensor([14]), "end_positions": torch.tensor([15])}
    return {"answer": answer, "start": outputs.start_logits, "loss": model(**inputs, **ends).loss.item()}


EXAMPLES = {
    bare_model: "fill-mask",
    masked_lm: "fill-mask",
    causal_lm: "text-generation",
    sequence_classification: "text-classification",
    multiple_choice: "multiple-choice",
    token_classification: "token-classification",
    question_answering: "question-answering",
}
"""Each example, and the checkpoint it reads."""


def main(folder: str = "checkpoints", library: str = "bigbird") -> None:
    for example, task in EXAMPLES.items():
        for name, value in example(importlib.import_module(library), Path(folder) / task).items():
            shown = value.flatten()[:4].tolist() if isinstance(value, torch.Tensor) else value
            print(f"{example.__name__} {name}: {shown}")


if __name__ == "__main__":
    main(*sys.argv[1:])
