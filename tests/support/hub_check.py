"""Published checkpoints, from the hub, against transformers: token ids and results of one long text.

    python tests/support/hub_check.py [HUB_ID ...]

Needs the network, or the checkpoints in huggingface_hub's cache, and the extras named hub, spiece and parity. Prints
one line a checkpoint and exits with 1 when one differs.
"""

import argparse
import sys

import torch
import transformers

from bigbird import BigBirdTokenizer, load_model

PUBLISHED = (
    "google/bigbird-roberta-base",
    "google/bigbird-roberta-large",
    "google/bigbird-base-trivia-itc",
    "yikuan8/Clinical-BigBird",
)
QUESTION = "What did the patient report?"  # and heads that answer none read a pair
SENTENCE = "The patient, a woman of 64, reported (for the 3rd time) pain in the left knee; naïve café, 12.5 mg. "
NUM_TOKENS = 1500  # beyond 704: attention is sparse
TOLERANCE = 1e-3
"""Of the largest difference to the results' own deviation: float32 rounds differently in another order of sums."""


def difference(hub_id: str) -> tuple[str, float]:
    """The checkpoint's class, and the largest difference of its results as a part of their deviation.

    Raises ValueError where the token ids differ.
    """
    text = SENTENCE * (NUM_TOKENS // 10)
    ours, theirs = BigBirdTokenizer.from_pretrained(hub_id), transformers.AutoTokenizer.from_pretrained(hub_id)
    options = {"truncation": "only_second", "max_length": NUM_TOKENS}
    ids = ours(QUESTION, text, **options)["input_ids"]
    if ids != (expected := theirs(QUESTION, text, **options)["input_ids"]):
        at = next(index for index, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1])
        raise ValueError(f"token {at} is {ids[at : at + 5]} here, {expected[at : at + 5]} in transformers")
    model = load_model(hub_id)
    name = type(model).__name__
    oracle = getattr(transformers, name).from_pretrained(hub_id, dtype=torch.float32).eval()
    inputs = torch.tensor([ids])
    with torch.inference_mode():
        found, wanted = (one(inputs, return_dict=False) for one in (model, oracle))
    pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if isinstance(a, torch.Tensor) and a.numel() > 2]
    # The logits of a question's own tokens are -1e6, which says nothing of the model.
    read = [(a[b > -1e5], b[b > -1e5]) for a, b in pairs]
    return name, max(float((a - b).abs().max() / b.std()) for a, b in read)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("hub_ids", nargs="*", default=PUBLISHED, metavar="HUB_ID")
    transformers.utils.logging.disable_progress_bar()
    failed = False
    for hub_id in parser.parse_args().hub_ids:
        try:
            name, apart = difference(hub_id)
        except Exception as error:  # of the network, of either library: each checkpoint has its own line
            failed, said = True, f"FAILED: {type(error).__name__}: {error}"
        else:
            failed |= not apart <= TOLERANCE  # nor nan
            said = (
                f"{'ok' if apart <= TOLERANCE else 'DIFFERS'}: {name}, {NUM_TOKENS} tokens, {apart:.1e} of a deviation"
            )
        print(f"{hub_id}: {said}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
