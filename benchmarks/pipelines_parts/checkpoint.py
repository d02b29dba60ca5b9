"""A checkpoint to time: base size, random weights."""

from pathlib import Path

from bigbird import BigBirdConfig, BigBirdForTokenClassification

TOKENIZER = Path(__file__).parents[2] / "checkpoints" / "fill-mask" / "tokenizer.json"


def make_checkpoint(folder: Path, layers: int) -> Path:
    """Base size, random weights: how fast a row is scored does not depend on what is in the weights."""
    vocabulary = 8192
    labels = dict(enumerate(("O", "CLASS", "FUNCTION", "PARAMETER")))
    model = BigBirdForTokenClassification(
        BigBirdConfig(num_hidden_layers=layers, vocab_size=vocabulary, id2label=labels, sep_token_id=5)
    )
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    return folder
