"""The family, one function a head: tokenizer, model, logits, loss, on an article of Python's own documentation and on
some of its library's source.

    python examples/heads.py                                # every shipped checkpoint that is here
    python examples/heads.py fill-mask token-classification

This is the interface that people coming from transformers know. Jobs and servers call `bigbird.load_predictor`
instead, which takes texts of any length and gives records.
"""

import argparse
import inspect
import textwrap
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from pydoc_data.topics import topics

import torch

import bigbird
from bigbird import BigBirdTokenizer
from bigbird.generation.generate import encode_prompt

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
ARTICLE = topics["raise"].strip()
"""About 920 tokens: long enough to be read with block-sparse attention, which begins after 704."""
SOURCE = "\n\n".join(map(inspect.getsource, (textwrap.fill, textwrap.shorten, textwrap.dedent, textwrap.indent)))
"""What the heads read that were trained on source alone."""
LONGEST_ANSWER = 15  # tokens


def fill_mask(directory: Path) -> str:
    tokenizer = BigBirdTokenizer.from_pretrained(directory)
    model = bigbird.BigBirdForMaskedLM.from_pretrained(directory)
    word = " exception"
    before, found, after = ARTICLE.partition(word)
    inputs = tokenizer(f"{before} {tokenizer.mask_token}{after}", return_tensors="pt")
    is_mask = inputs["input_ids"] == tokenizer.mask_token_id
    # The loss is that of the masked word alone: -100 leaves a token out.
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[is_mask] = tokenizer.encode(found, add_special_tokens=False)[0]
    with torch.no_grad():
        output = model(**inputs, labels=labels)
    best = output.logits[is_mask].topk(5).indices[0]
    guesses = ", ".join(repr(tokenizer.decode([token])) for token in best.tolist())
    place = f"...{before[-60:]!r} {tokenizer.mask_token}, one of {is_mask.shape[1]} tokens"
    return f"{place}: {guesses}; loss of {found!r} {output.loss:.2f}"


def classify(directory: Path) -> str:
    tokenizer = BigBirdTokenizer.from_pretrained(directory)
    model = bigbird.BigBirdForSequenceClassification.from_pretrained(directory)
    line = "w = TextWrapper(width=width, **kwargs)"
    before, _, after = SOURCE.partition(line)
    inputs = tokenizer(f"{before}{tokenizer.mask_token}{after}", return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**inputs).logits.softmax(-1)[0]
    best = probabilities.topk(2)
    shares = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    kinds = ", ".join(f"{model.config.id2label[label]} {share:.0%}" for label, share in shares)
    return f"in the place of {line!r} stood: {kinds}"


def choose(directory: Path) -> str:
    tokenizer = BigBirdTokenizer.from_pretrained(directory)
    model = bigbird.BigBirdForMultipleChoice.from_pretrained(directory)
    middle = ARTICLE.index("\n\n", len(ARTICLE) // 2)
    beginning, ending = ARTICLE[:middle], ARTICLE[middle:]
    endings = [topics["lambda"].strip(), ending]
    pairs = tokenizer([beginning] * len(endings), endings, padding=True, return_tensors="pt")
    # (batch, num_choices, seq_len): here one question with two choices.
    inputs = {name: values[None] for name, values in pairs.items()}
    with torch.no_grad():
        output = model(**inputs, labels=torch.tensor([1]))
    scores = output.logits.softmax(-1)[0].tolist()
    return f"another article follows {scores[0]:.0%}, its own second half {scores[1]:.0%}; loss {output.loss:.2f}"


def tag(directory: Path) -> str:
    tokenizer = BigBirdTokenizer.from_pretrained(directory)
    model = bigbird.BigBirdForTokenClassification.from_pretrained(directory)
    text = "class Cache:\n    def load(self, path):\n        return json.loads(path.read_text())\n"
    encoding = tokenizer.encode_batch(text)
    with torch.no_grad():
        labels = model(torch.tensor([encoding.ids])).logits[0].argmax(-1).tolist()
    entities = []
    labelled = list(zip(labels, encoding.offsets, strict=True))[1:-1]  # without [CLS] and [SEP]
    for label, tokens in groupby(labelled, key=lambda token: token[0]):
        spans = [offsets for _, offsets in tokens]
        name = model.config.id2label[label]
        if name != "O":
            entities.append(f"{text[spans[0][0] : spans[-1][1]].strip()} {name}")
    return f"{text!r}: {', '.join(entities) or 'no entity'}"


def answer(directory: Path) -> str:
    tokenizer = BigBirdTokenizer.from_pretrained(directory)
    model = bigbird.BigBirdForQuestionAnswering.from_pretrained(directory)
    question = "What does fill do?"
    encoding = tokenizer.encode_batch({"text": question, "text_pair": SOURCE})
    with torch.no_grad():
        output = model(torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.token_type_ids]))
    # The best pair of a first token and a last one, in order and not too far apart.
    pairs = output.start_logits[0, :, None] + output.end_logits[0, None, :]
    near = torch.ones_like(pairs, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
    first, last = divmod(int(pairs.masked_fill(~near, -torch.inf).argmax()), len(encoding.ids))
    found = SOURCE[encoding.offsets[first][0] : encoding.offsets[last][1]]
    return f"{question} {found!r}"


def causal_loss(directory: Path) -> str:
    tokenizer = BigBirdTokenizer.from_pretrained(directory)
    model = bigbird.BigBirdForCausalLM.from_pretrained(directory)
    ids = torch.tensor([encode_prompt(tokenizer, ARTICLE)])
    with torch.no_grad():
        loss = model(ids, labels=ids).loss  # the model shifts the labels by one itself
    return f"{loss:.2f} nats a token, a perplexity of {loss.exp():.0f}, over {ids.shape[1]} tokens"


EXAMPLES: dict[str, Callable[[Path], str]] = {
    "fill-mask": fill_mask,
    "text-classification": classify,
    "multiple-choice": choose,
    "token-classification": tag,
    "question-answering": answer,
    "text-generation": causal_loss,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Every head of the family on an article of Python's documentation.")
    parser.add_argument("heads", nargs="*", metavar="head", help=f"{', '.join(EXAMPLES)}; all by default")
    chosen = parser.parse_args().heads or [name for name in EXAMPLES if (CHECKPOINTS / name).is_dir()]
    for name in chosen:
        if name not in EXAMPLES:
            parser.error(f"no head {name}: choose from {', '.join(EXAMPLES)}")
        print(f"{name}: {EXAMPLES[name](CHECKPOINTS / name)}\n")


if __name__ == "__main__":
    main()
