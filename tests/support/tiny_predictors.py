"""Small tokenizers and predictors with random weights, made on the spot: what the tests of predictors share."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import bigbird
from bigbird import predictors
from bigbird.tokenization.tokenizer import BigBirdTokenizer

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
SPECIAL_ROLES = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
CORPUS = [
    "def microsoft_company(parameter, value): return parameter + value",
    "the caf\u00e9 in Z\u00fcrich, where Angela Merkel met the microsoft company",
    "import numpy as np\nclass Window:\n    pass\n",
] * 20


def train(kind="byte-level"):
    """A tokenizer of a few hundred entries: "byte-level" BPE, as ours, or "sentence-piece", as the published one."""
    if kind == "byte-level":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator(CORPUS, trainer)
    ids = [("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return tokenizer


TASKS = {
    "fill-mask": (bigbird.BigBirdForMaskedLM, predictors.FillMaskPredictor),
    "masked-lm-scoring": (bigbird.BigBirdForMaskedLM, predictors.MaskedLMScoringPredictor),
    "token-classification": (bigbird.BigBirdForTokenClassification, predictors.TokenClassificationPredictor),
    "text-classification": (
        bigbird.BigBirdForSequenceClassification,
        predictors.TextClassificationPredictor,
    ),
    "multiple-choice": (bigbird.BigBirdForMultipleChoice, predictors.MultipleChoicePredictor),
    "question-answering": (bigbird.BigBirdForQuestionAnswering, predictors.QuestionAnsweringPredictor),
    "feature-extraction": (bigbird.BigBirdModel, predictors.FeatureExtractionPredictor),
}
EXAMPLES = {
    **dict.fromkeys(TASKS, "the microsoft company met Angela"),
    "fill-mask": "the [MASK] company met Angela",
    "question-answering": {"question": "who met the company?", "context": "the microsoft company met Angela"},
    "multiple-choice": {"prompt": "the company met", "choices": ["Angela", "the caf\u00e9"]},
}
LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]


def tiny_model(task, tokenizer, **changes):
    """A model for the task with random weights, whose outputs differ visibly from token to token.

    It reads 512 tokens; from 113 tokens on its attention is sparse.
    """
    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
        "block_size": 16,
        "num_random_blocks": 1,
        "id2label": dict(enumerate(LABELS)),
        "sep_token_id": tokenizer.sep_token_id,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    return TASKS[task][0](bigbird.BigBirdConfig(**{**values, **changes})).eval()


def tiny_predictor(task, tokenizer=None, options=None, max_tokens_per_batch=None, **changes):
    """The task's predictor over `tiny_model`; changes go to its configuration."""
    tokenizer = tokenizer or BigBirdTokenizer(train(), SPECIAL_ROLES)
    model = tiny_model(task, tokenizer, **changes)
    return TASKS[task][1](tokenizer, model.config, model, options=options, max_tokens_per_batch=max_tokens_per_batch)


def near(record, other):
    """Whether two records are the same but for the rounding of floats."""
    if isinstance(record, dict):
        return record.keys() == other.keys() and all(near(record[key], other[key]) for key in record)
    if isinstance(record, list):
        return len(record) == len(other) and all(map(near, record, other))
    return record == pytest.approx(other, abs=1e-4, rel=1e-4) if isinstance(record, float) else record == other


def save_heads_on_one_encoder(folder):
    """A checkpoint of each task, all with the encoder of the first and a pooler of its own: directory by task."""
    tokenizer = BigBirdTokenizer(train(), SPECIAL_ROLES)
    encoder = tiny_model("fill-mask", tokenizer).bert.state_dict()
    for seed, task in enumerate(TASKS):
        torch.manual_seed(seed)
        model = TASKS[task][0](tiny_model(task, tokenizer).config)
        model.base_model.load_state_dict({k: v for k, v in encoder.items() if "pooler" not in k}, strict=False)
        model.tie_weights()
        model.save_pretrained(folder / task)
        tokenizer.save_pretrained(folder / task)
    return {task: folder / task for task in TASKS}
