"""masked-lm-scoring and fill-mask: every token masked once, logits only where needed, the same as asking the model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_predictors import tiny_predictor

from bigbird import load_predictor
from bigbird.errors import InputError
from bigbird.predictors import FillMaskOptions, MaskedLMScoringOptions, masked_tokens
from bigbird.predictors.masked_lm_scoring import PreparedScoring
from bigbird.predictors.texts import TokenizedText
from bigbird.predictors.windows import cut

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "fill-mask"
TEXT = "the microsoft company met Angela Merkel in Z\u00fcrich, def value(parameter)"


@pytest.fixture(scope="module")
def scorer():
    return tiny_predictor("masked-lm-scoring")


@pytest.fixture(scope="module")
def filler():
    return tiny_predictor("fill-mask")


def logits_of(predictor, ids):
    with torch.inference_mode():
        return predictor.model(torch.tensor([list(ids)])).logits[0]


def nll_by_hand(predictor, text, num_passes):
    """Each token's negative log-likelihood, one forward pass of the whole model after the other."""
    ids = predictor.tokenizer.encode(text)
    losses = np.zeros(len(ids) - 2)
    for first in range(min(num_passes, len(losses))):
        places = range(1 + first, len(ids) - 1, num_passes)
        masked = [predictor.tokenizer.mask_token_id if at in places else token for at, token in enumerate(ids)]
        log_probabilities = logits_of(predictor, masked).log_softmax(dim=-1)
        for at in places:
            losses[at - 1] = -log_probabilities[at, ids[at]]
    return losses


@pytest.mark.parametrize("num_passes", [1, 2, 7, 1000])
def test_scores_equal_those_of_the_model_asked_pass_by_pass(scorer, num_passes):
    options = MaskedLMScoringOptions(num_passes=num_passes, return_tokens=True)
    (record,) = scorer([TEXT], options)
    expected = nll_by_hand(scorer, TEXT, num_passes)
    assert [token["nll"] for token in record["tokens"]] == pytest.approx(expected.tolist(), abs=1e-4)
    assert record["nll"] == pytest.approx(expected.mean(), abs=1e-5)
    assert record["pseudo_perplexity"] == pytest.approx(np.exp(expected.mean()), rel=1e-4)
    assert record["num_tokens"] == len(expected)


def test_listed_tokens_lie_where_the_text_has_them(scorer):
    (record,) = scorer(["def value"], MaskedLMScoringOptions(return_tokens=True))
    assert "".join("def value"[token["start"] : token["end"]] for token in record["tokens"]) == "def value"
    assert "tokens" not in scorer(["def value"])[0]


@given(num_tokens=st.integers(1, 400), room=st.integers(4, 100), num_passes=st.integers(1, 20))
def test_every_token_is_masked_exactly_once(num_tokens, room, num_passes):
    windows = cut(num_tokens, room, room // 4)
    text = TokenizedText("", np.arange(num_tokens), np.zeros((num_tokens, 2), dtype=int))
    item = PreparedScoring(
        rows=(), num_tokens=num_tokens, num_windows=len(windows), truncated=False,
        text=text, windows=windows, num_passes=num_passes,
    )  # fmt: skip
    masked = item.masked()
    assert sorted(np.concatenate([tokens for _, tokens in masked])) == list(range(num_tokens))
    for window, tokens in masked:
        assert windows[window].keep_start <= tokens[0]
        assert tokens[-1] < windows[window].keep_stop
        assert (np.diff(tokens) == num_passes).all()


def test_a_token_of_a_long_text_is_scored_in_the_window_that_keeps_it(scorer):
    options = MaskedLMScoringOptions(max_length=12, window_overlap=4, return_tokens=True)
    (item,) = scorer.preprocess([TEXT], options)
    assert len(item.windows) > 1
    (record,) = scorer([TEXT], options)
    for window in item.windows:
        ids = [5, *item.text.ids[window.start : window.stop].tolist(), 5]
        ids[0], ids[-1] = scorer.tokenizer.cls_token_id, scorer.tokenizer.sep_token_id
        first = window.keep_start
        masked = list(ids)
        for token in range(first, window.keep_stop, 7):
            masked[token - window.start + 1] = scorer.tokenizer.mask_token_id
        loss = -logits_of(scorer, masked).log_softmax(dim=-1)[first - window.start + 1, item.text.ids[first]]
        assert record["tokens"][first]["nll"] == pytest.approx(float(loss), abs=1e-4)


def test_the_cost_of_scoring_is_known_beforehand(scorer):
    texts = [TEXT, "a", TEXT * 20]
    read = []
    encode = scorer.model.bert.encode
    scorer.model.bert.encode = lambda packed: (read.append(packed.num_tokens), encode(packed))[1]
    try:
        prepared = scorer.preprocess(texts)
        scorer.forward(prepared)
    finally:
        del scorer.model.bert.encode
    assert sum(read) == sum(item.num_model_tokens for item in prepared)


@pytest.mark.parametrize("metric", ["exact", "within_word_l2r"])
@pytest.mark.parametrize("max_length", [None, 12])
def test_the_published_metrics_equal_a_loop_that_masks_one_token_at_a_time(scorer, metric, max_length):
    text = "def microsoft_companies(parameters): r\u00e9sum\u00e9s"
    options = MaskedLMScoringOptions(metric=metric, max_length=max_length, window_overlap=3, return_tokens=True)
    (item,) = scorer.preprocess([text], options)
    words = scorer.tokenizer(text, add_special_tokens=False).word_ids()
    expected = []
    for window in item.windows:
        ids = torch.tensor([scorer.tokenizer.cls_token_id, *item.text.ids[window.start : window.stop].tolist(),
                            scorer.tokenizer.sep_token_id])  # fmt: skip
        for token in range(window.keep_start, window.keep_stop):
            masked = ids.clone()
            for other in range(token, window.stop):
                if other == token or (metric == "within_word_l2r" and words[other] == words[token]):
                    masked[1 + other - window.start] = scorer.tokenizer.mask_token_id
            with torch.inference_mode():
                scores = scorer.model(masked[None]).logits[0, 1 + token - window.start].log_softmax(-1)
            expected.append(-float(scores[item.text.ids[token]]))
    (record,) = scorer([text], options)
    assert len(set(words)) < len(words)
    assert (len(item.windows) > 1) == (max_length is not None)
    assert [token["nll"] for token in record["tokens"]] == pytest.approx(expected, abs=1e-4)
    assert record["nll"] == pytest.approx(np.mean(expected), abs=1e-4)


@pytest.mark.parametrize(("metric", "published_as"), [("exact", "original"), ("within_word_l2r", "within_word_l2r")])
def test_the_published_metrics_equal_minicons_on_the_shipped_checkpoint(metric, published_as):
    minicons = pytest.importorskip("minicons.scorer", reason="minicons is not installed: pip install '.[parity]'")
    texts = [
        "class Parser(ValueError): def r\u00e9sum\u00e9s(self): pass",
        "import os",
        " asynchronous\tgenerators' identifiers ",
    ]
    theirs = minicons.MaskedLMScorer(str(SHIPPED), dtype=torch.float32)
    ours = load_predictor("masked-lm-scoring", SHIPPED)
    records = ours(texts, MaskedLMScoringOptions(metric=metric, return_tokens=True))
    for text, record in zip(texts, records, strict=True):
        # Its own call of the tokenizer is one that transformers 5 no longer has.
        (expected,) = theirs.token_score(theirs.tokenizer([text]), surprisal=True, PLL_metric=published_as)
        assert [token["nll"] for token in record["tokens"]] == pytest.approx([nll for _, nll in expected], abs=1e-4)


def test_logits_are_made_for_masked_tokens_only_and_a_chunk_at_a_time(scorer, monkeypatch):
    monkeypatch.setattr(masked_tokens, "LOGITS_PER_CHUNK", 10 * scorer.config.vocab_size)
    sizes = []
    hook = scorer.model.cls.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    (record,) = scorer([TEXT * 3])
    hook.remove()
    assert max(sizes) == 10
    assert sum(sizes) == record["num_tokens"]
    monkeypatch.undo()
    assert scorer([TEXT * 3])[0]["nll"] == pytest.approx(record["nll"], abs=1e-5)


def test_a_hopeless_text_has_a_finite_perplexity(scorer):
    prepared = scorer.preprocess(["a"])
    (record,) = scorer.postprocess(prepared, [np.array([1e5], dtype=np.float32)])
    assert record["nll"] == 1e5
    assert np.isfinite(record["pseudo_perplexity"])


def test_candidates_equal_the_models_best_tokens(filler):
    text = "the [MASK] company met Angela [MASK]"
    (record,) = filler([text], FillMaskOptions(top_k=3))
    ids = filler.tokenizer.encode(text)
    probabilities = logits_of(filler, ids).softmax(dim=-1)
    places = [at for at, token in enumerate(ids) if token == filler.tokenizer.mask_token_id]
    assert len(record["masks"]) == len(places) == 2
    for mask, place in zip(record["masks"], places, strict=True):
        scores, tokens = probabilities[place].topk(3)
        assert [candidate["token"] for candidate in mask["candidates"]] == tokens.tolist()
        assert [candidate["score"] for candidate in mask["candidates"]] == pytest.approx(scores.tolist(), abs=1e-5)
        for candidate in mask["candidates"]:
            expected = filler.tokenizer.decode([candidate["token"]], skip_special_tokens=False)
            assert candidate["token_str"] == expected


def test_positions_point_at_the_masks_in_the_text(filler):
    text = "  [MASK] the\n [MASK]company[MASK] caf\u00e9 " + "the company " * 400 + "[MASK]"
    (record,) = filler([text])
    starts = [mask["position"] for mask in record["masks"]]
    assert [text[start : start + 6] for start in starts] == ["[MASK]"] * 4
    assert starts == sorted(set(starts))
    assert record["num_windows"] > 1


def test_only_windows_that_keep_a_mask_are_read(filler):
    text = "the company met Angela " * 300
    (item,) = filler.preprocess([text + "[MASK]"])
    assert item.num_windows > 2
    assert len(item.rows) == 1


def test_texts_with_different_top_k_share_a_batch(filler):
    few, many = (filler.preprocess(["the [MASK]"], FillMaskOptions(top_k=k))[0] for k in (1, 10**6))
    records = filler.postprocess([few, many], filler.forward([few, many]))
    candidates = [record["masks"][0]["candidates"] for record in records]
    assert [len(found) for found in candidates] == [1, filler.config.vocab_size]
    assert candidates[0][0]["token"] == candidates[1][0]["token"]
    assert sum(candidate["score"] for candidate in candidates[1]) == pytest.approx(1, abs=1e-4)


def test_a_text_without_a_mask_is_an_error_record(filler):
    records = filler(["the company", "the [MASK]", "the " * 600 + "[MASK]"], FillMaskOptions(on_long="truncate"))
    assert "0 [MASK] tokens, expected at least one" in records[0]["error"]["message"]
    assert "error" not in records[1]
    assert "the first 510 tokens of text: 0 [MASK]" in records[2]["error"]["message"]


@pytest.mark.parametrize(("kind", "name"), [(FillMaskOptions, "top_k"), (MaskedLMScoringOptions, "num_passes")])
def test_counts_below_one_are_refused_by_name(kind, name):
    with pytest.raises(InputError, match=f"{name} is 0, expected an integer of at least 1"):
        kind(**{name: 0})


def test_entries_without_a_spelling_are_no_candidates(filler):
    size = len(filler.tokenizer)
    padded = tiny_predictor("fill-mask", vocab_size=size + 50)
    padded.model.cls.predictions.bias.data[size:] = 100
    (record,) = padded(["the [MASK]"], FillMaskOptions(top_k=10**6))
    assert sorted(entry["token"] for entry in record["masks"][0]["candidates"]) == list(range(size))


def test_a_token_the_model_has_no_embedding_for_is_an_error_record(filler):
    small = tiny_predictor("masked-lm-scoring", vocab_size=290)
    good, bad = small(["a b", "the microsoft company"])
    assert "error" not in good
    assert "the model's vocabulary ends before 290" in bad["error"]["message"]
