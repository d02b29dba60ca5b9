"""The methods that code written for transformers calls on a model: by the same names, with the same results."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from parity import pair, tokens
from torch import nn

import bigbird
from bigbird.checkpoint import CLASSES
from bigbird.errors import ConfigError, InputError

FIRST = ["input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask", "inputs_embeds"]
CROSS = ["encoder_hidden_states", "encoder_attention_mask"]
LAST = ["output_attentions", "output_hidden_states", "return_dict"]
# The order in transformers 4.37's documentation.
ORDERS = {
    "BigBirdModel": [*FIRST, *CROSS, "past_key_values", "use_cache", *LAST],
    "BigBirdForPreTraining": [*FIRST, "labels", "next_sentence_label", *LAST],
    "BigBirdForMaskedLM": [*FIRST, *CROSS, "labels", *LAST],
    "BigBirdForCausalLM": [*FIRST, *CROSS, "past_key_values", "labels", "use_cache", *LAST],
    "BigBirdForSequenceClassification": [*FIRST, "labels", *LAST],
    "BigBirdForMultipleChoice": [*FIRST, "labels", *LAST],
    "BigBirdForTokenClassification": [*FIRST, "labels", *LAST],
    "BigBirdForQuestionAnswering": [*FIRST[:2], "question_lengths", *FIRST[2:], "start_positions", "end_positions",
                                    *LAST],
}  # fmt: skip
DECODER = {"is_decoder": True, "attention_type": "original_full"}
LANGUAGE_MODELS = [
    ("BigBirdForPreTraining", {}),
    ("BigBirdForMaskedLM", {}),
    ("BigBirdForMaskedLM", {"tie_word_embeddings": False}),
    ("BigBirdForCausalLM", DECODER),
]


@pytest.mark.parametrize("head", CLASSES)
def test_forward_takes_the_documented_arguments_in_their_order(head):
    parameters = inspect.signature(CLASSES[head].forward).parameters.values()
    assert [parameter.name for parameter in parameters] == ["self", *ORDERS[head]]
    assert all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)


@pytest.mark.parametrize("head", CLASSES)
def test_a_positional_call_gives_what_the_call_by_name_gives(head):
    config = DECODER | {"add_cross_attention": True} if head == "BigBirdForCausalLM" else {}
    ours, _ = pair(head, **config)
    ids = tokens(20, 3)[None] if head == "BigBirdForMultipleChoice" else tokens(20, 2)
    embeds = torch.randn(*ids.shape, 32)
    by_name = {
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": ids % 2,
        "position_ids": torch.arange(19, -1, -1),
        "head_mask": torch.tensor([1.0, 0.5]),
        "inputs_embeds": embeds,
        "labels": torch.tensor([1]) if head == "BigBirdForMultipleChoice" else ids % 2,
        "next_sentence_label": torch.tensor([0, 1]),
        "question_lengths": torch.tensor([4, 6]),
        "start_positions": torch.tensor([8, 9]),
        "end_positions": torch.tensor([9, 9]),
        "output_hidden_states": True,
        "output_attentions": True,
        "return_dict": False,
    }
    if head == "BigBirdForSequenceClassification":
        by_name["labels"] = torch.tensor([0, 1])
    if head == "BigBirdForCausalLM":
        by_name |= {"encoder_hidden_states": torch.randn(2, 5, 32), "encoder_attention_mask": torch.ones(2, 5)}
        by_name["use_cache"] = True
    positional = [by_name.get(name) for name in ORDERS[head]]
    named = {name: value for name, value in by_name.items() if name in ORDERS[head]}
    with torch.no_grad():
        torch.testing.assert_close(ours(*positional), ours(**named), rtol=0, atol=0)


@pytest.mark.parametrize("head", CLASSES)
def test_a_model_survives_pickle_deepcopy_and_torch_save_whole(head):
    ours, _ = pair(head, **(DECODER if head == "BigBirdForCausalLM" else {"hidden_act": "gelu_fast"}))
    ids = tokens(20, 2)[None] if head == "BigBirdForMultipleChoice" else tokens(20, 2)
    saved = io.BytesIO()
    torch.save(ours, saved)
    saved.seek(0)
    copies = [pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), torch.load(saved, weights_only=False)]
    with torch.no_grad():
        expected = ours(ids, return_dict=False)
        for other in copies:
            torch.testing.assert_close(other(ids, return_dict=False), expected, rtol=0, atol=0)
            assert other.num_parameters() == ours.num_parameters()  # what was tied is tied in the copy


@pytest.mark.parametrize("head", CLASSES)
def test_state_dicts_of_transformers_load_strictly_and_ours_there(head):
    ours, theirs = pair(head, **(DECODER if head == "BigBirdForCausalLM" else {}))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.num_parameters(True, True) == theirs.num_parameters(only_trainable=True, exclude_embeddings=True)
    assert (ours.dtype, ours.device, ours.main_input_name) == (theirs.dtype, theirs.device, theirs.main_input_name)
    assert ours.base_model is getattr(ours, "bert", ours)


@pytest.mark.parametrize("size", [{"new_num_tokens": 170}, {"new_num_tokens": 120}, {"pad_to_multiple_of": 64},
                                  {"new_num_tokens": 161, "pad_to_multiple_of": 8}, {}])  # fmt: skip
@pytest.mark.parametrize(("head", "config"), [*LANGUAGE_MODELS, ("BigBirdForTokenClassification", {})])
def test_resizing_keeps_and_adds_what_transformers_keeps_and_adds(head, config, size):
    ours, theirs = pair(head, **config)
    ids = tokens(20).clamp(max=110)
    found = ours.resize_token_embeddings(**size)
    expected = theirs.resize_token_embeddings(**size, mean_resizing=False)
    assert found is ours.get_input_embeddings()
    assert found.weight.shape == expected.weight.shape
    assert ours.config.vocab_size == ours.bert.config.vocab_size == theirs.config.vocab_size
    with torch.no_grad():
        a, b = ours(ids)[0], theirs(ids)[0]
    assert a.shape == b.shape
    kept = min(150, len(found.weight))
    torch.testing.assert_close(a[..., :kept], b[..., :kept], atol=1e-4, rtol=1e-5)
    decoder = ours.get_output_embeddings()
    assert (decoder is None) == (head == "BigBirdForTokenClassification")
    if decoder is not None:
        assert decoder.out_features == len(decoder.bias) == len(found.weight)
        assert (decoder.weight is found.weight) == config.get("tie_word_embeddings", True)
        assert not decoder.bias[150:].any()


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_can_be_exchanged_and_a_tied_decoder_follows(tied):
    model, _ = pair("BigBirdForMaskedLM", tie_word_embeddings=tied)
    words, decoder = nn.Embedding(150, 32), nn.Linear(32, 150)
    model.set_input_embeddings(words)
    assert model.get_input_embeddings() is model.bert.get_input_embeddings() is words
    assert (model.get_output_embeddings().weight is words.weight) == tied
    model.set_output_embeddings(decoder)
    assert model.get_output_embeddings() is decoder
    torch.testing.assert_close(
        model(tokens(9)).logits, decoder(model.cls.predictions.transform(model.bert(tokens(9)).last_hidden_state))
    )
    classifier = bigbird.BigBirdForTokenClassification(model.config)
    assert classifier.get_output_embeddings() is None
    with pytest.raises(ConfigError, match="BigBirdForTokenClassification has no output embeddings"):
        classifier.set_output_embeddings(decoder)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"new_num_tokens": 0}, "new_num_tokens is 0, expected an integer of at least 1"),
        ({"new_num_tokens": 170.0}, r"new_num_tokens is 170\.0"),
        ({"new_num_tokens": 170, "pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(size, message):
    model, _ = pair("BigBirdForMaskedLM")
    with pytest.raises(InputError, match=message):
        model.resize_token_embeddings(**size)
    padded = bigbird.BigBirdModel(model.config.replace(pad_token_id=9))
    with pytest.raises(InputError, match="new_num_tokens is 9, which leaves out pad_token_id=9"):
        padded.resize_token_embeddings(9)


@pytest.mark.parametrize("use_reentrant", [True, False, None])
def test_gradient_checkpointing_goes_on_and_off_as_in_transformers(use_reentrant):
    model = pair("BigBirdForMaskedLM")[0].train()
    ids = tokens(40)

    def gradients():
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients()
    model.gradient_checkpointing_enable(None if use_reentrant is None else {"use_reentrant": use_reentrant})
    assert model.is_gradient_checkpointing
    torch.testing.assert_close(gradients(), expected)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    with pytest.raises(InputError, match="gradient_checkpointing_kwargs has 'reentrant'"):
        model.gradient_checkpointing_enable({"reentrant": True})


def test_every_nth_layer_is_recomputed_by_the_name_of_transformers_5():
    model = pair("BigBirdForMaskedLM")[0].train()
    calls = []
    for index, layer in enumerate(model.bert.encoder.layer):
        layer.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
    model.activation_checkpointing_enable(every_n_layers=2)
    model(tokens(9), labels=tokens(9)).loss.backward()
    assert sorted(calls) == [0, 0, 1]
    model.activation_checkpointing_disable()
    assert not model.is_activation_checkpointing
    for wrong in ({"offload": True}, {"every_n_layers": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            model.activation_checkpointing_enable(**wrong)


def test_reentrant_checkpoints_that_would_lose_gradients_of_cross_attention_are_refused():
    model = pair("BigBirdForCausalLM", **DECODER, add_cross_attention=True)[0].train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(InputError, match="use_reentrant=True loses the gradients of encoder_hidden_states"):
        model(tokens(9), encoder_hidden_states=torch.randn(1, 4, 32))


def test_the_attention_type_can_be_set_as_in_transformers():
    ours, theirs = pair("BigBirdModel")
    ids = tokens(1024)
    for model in (ours, theirs):
        model.set_attention_type("original_full")
    with torch.no_grad():
        torch.testing.assert_close(ours(ids)[0], theirs(ids)[0], atol=1e-4, rtol=1e-5)
    with pytest.raises(ConfigError, match="attention_type"):
        ours.set_attention_type("dense")
