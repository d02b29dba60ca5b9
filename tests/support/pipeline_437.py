"""Run by the Python of an environment with transformers 4.37.2: its question-answering pipeline on a checkpoint.

    python pipeline_437.py CHECKPOINT < CALLS > ANSWERS

CALLS: a JSON list of keyword arguments; ANSWERS: a JSON list of what the pipeline gives for each.
"""

import json
import sys
from pathlib import Path

import transformers

if __name__ == "__main__":
    assert transformers.__version__ == "4.37.2", transformers.__version__
    transformers.logging.set_verbosity_error()
    directory = Path(sys.argv[1])
    vocabulary = json.loads((directory / "tokenizer.json").read_text())
    merges = vocabulary["model"]["merges"]  # pairs in today's files, strings in those of then
    vocabulary["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    (directory / "then.json").write_text(json.dumps(vocabulary))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "then.json"),
        model_input_names=["input_ids", "attention_mask"],
        pad_token="<pad>",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    model = transformers.BigBirdForQuestionAnswering.from_pretrained(directory)
    answer = transformers.QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)
    print(json.dumps([answer(**call) for call in json.load(sys.stdin)]))
