"""What each task takes for options, and asks of a checkpoint.

Knows names and values, no tokenizer, weights or tensors: what only checks a task does not wait seconds for torch.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

from bigbird.config import BigBirdConfig
from bigbird.errors import CheckpointError, InputError
from bigbird.generation.options import GenerationOptions, refuse_other_devices
from bigbird.predictors.entities import STRATEGIES, Strategy
from bigbird.predictors.options import LengthOptions, WindowOptions, require_at_least, require_choice

Combine = Literal["mean", "max"]
Function = Literal["softmax", "sigmoid", "none"]
Metric = Literal["passes", "exact", "within_word_l2r"]
OnLongPrompt = Literal["truncate", "error"]
Pooling = Literal["cls", "mean", "none"]
Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class FillMaskOptions(LengthOptions):
    """Lengths, and which candidates a mask gets.

    top_k: how many, at most the whole vocabulary. targets: only these tokens compete; their probabilities are still
    those among the whole vocabulary. Each is an entry of the vocabulary, or a text that is one token; other texts make
    error records. return_sequence: each candidate also brings the whole text with the mask filled, as transformers
    decodes it (with [CLS] and [SEP] where there are several masks): as many texts as masks times candidates.
    """

    top_k: int = 5
    targets: tuple[str, ...] | None = None
    return_sequence: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", (self.targets,))
        super().__post_init__()
        require_at_least("top_k", self.top_k, 1)


@dataclass(frozen=True, kw_only=True)
class MaskedLMScoringOptions(WindowOptions):
    """Lengths, and how often the text is read.

    metric: "passes" masks many tokens at once; "exact" one at a time (Salazar et al. 2020, "Masked Language Model
    Scoring"); "within_word_l2r" with it the later tokens of its word, which would give it away (Kauf and Ivanova 2023).
    num_passes: of "passes", in how many the tokens are masked; more of them hide less of the text at once.
    return_tokens: whether the record lists every token with its own negative log-likelihood.
    """

    metric: Metric = "passes"
    num_passes: int = 7
    return_tokens: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("num_passes", self.num_passes, 1)


@dataclass(frozen=True, kw_only=True)
class TokenClassificationOptions(LengthOptions):
    """Lengths, and how tokens become entities.

    aggregation_strategy: as in transformers. "none" gives every token with its label; "simple" joins neighbours of
    one label, respecting B- and I-; "first", "average" and "max" first give each word one label, by its first
    token, its mean probabilities, or its surest token. Ours is "words": "average", where a word is not what stands
    between spaces but a run of letters, digits and underscores. None: what the checkpoint's config asks for
    (`task_specific_params`), "simple" where it asks for nothing. ignore_labels: labels (or groups) left out of the
    record.
    """

    aggregation_strategy: Strategy | None = None
    ignore_labels: tuple[str, ...] = ("O",)


@dataclass(frozen=True, kw_only=True)
class TextClassificationOptions(WindowOptions):
    """Lengths, and how logits become scores.

    combine: the logits of a document's windows become one set by their "mean" or their "max", label by label.
    function_to_apply: "softmax", "sigmoid" or "none"; None goes by the checkpoint as transformers does: "none" for
    problem_type regression, "sigmoid" for multi_label_classification or a single label, "softmax" otherwise.
    top_k: labels in the record, the highest scores; None for all.
    """

    combine: Combine = "mean"
    function_to_apply: Function | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("top_k", self.top_k, 1)


@dataclass(frozen=True, kw_only=True)
class ZeroShotClassificationOptions(WindowOptions):
    """Lengths, and the labels to choose among.

    candidate_labels: the labels; a string is split at its commas. hypothesis_template: the sentence each is put into
    in the place of {}. multi_label: every label by itself, entailment against contradiction, in the place of one
    probability shared by all. combine: the logits of a document's windows become one set by their "mean" or "max".
    """

    candidate_labels: tuple[str, ...] = ()
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False
    combine: Combine = "mean"

    def __post_init__(self) -> None:
        if isinstance(self.candidate_labels, str):
            labels = (label.strip() for label in self.candidate_labels.split(","))
            object.__setattr__(self, "candidate_labels", tuple(label for label in labels if label))
        super().__post_init__()
        try:
            filled = self.hypothesis_template.format("\0")
        except (IndexError, KeyError, ValueError):
            filled = ""
        if "\0" not in filled:
            raise InputError(f"hypothesis_template is {self.hypothesis_template!r}, expected a sentence with one {{}}")


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceOptions(LengthOptions):
    """Lengths, and how the logits of a long prompt's windows become one for each choice: "mean" or "max".

    max_tokens_per_document counts the prompt once for every choice, as the model reads it.
    """

    combine: Combine = "mean"


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringOptions(WindowOptions):
    """Lengths, and which spans may answer.

    max_answer_len: tokens of the longest answer considered. max_question_len: a question with more tokens is an
    error record (None: it only has to leave room in the window). allow_no_answer: whether the answer may be empty
    (start and end 0), which it is when in every window "no answer" outdoes the best span of all windows.
    align_to_words: an answer that begins or ends within a word of the tokenizer is widened to the whole word; False
    for languages without spaces between words. top_k: above 1, the record also lists so many answers, the best first;
    spans of other tokens in the same words give the same answer again, as in transformers.
    """

    max_answer_len: int = 15
    max_question_len: int | None = None
    allow_no_answer: bool = False
    align_to_words: bool = True
    top_k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("max_answer_len", self.max_answer_len, 1)
        require_at_least("top_k", self.top_k, 1)
        require_at_least("max_question_len", self.max_question_len, 1)


@dataclass(frozen=True, kw_only=True)
class FeatureExtractionOptions(WindowOptions):
    """Lengths, and how states become vectors.

    pooling: "mean" of the last hidden states of all tokens, [CLS] and [SEP] with them, as sentence-transformers
    computes it; or the state of the first token, "cls". A long text's vector is the mean of its windows' vectors,
    weighted by the tokens each window keeps. "none" gives every token's state, as transformers' pipeline: [CLS] of
    the first window, each token of the text as the window that keeps it has it, [SEP] of the last.
    normalize: vectors to length 1, at the very end. truncation_side: with on_long "truncate", which end of a long text
    is left out; "left" reads its last tokens, as a tokenizer of that truncation_side does.
    """

    pooling: Pooling = "mean"
    normalize: bool = False
    truncation_side: Side = "right"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.truncation_side == "left" and self.on_long != "truncate":
            raise InputError(f'truncation_side is "left", but on_long is "{self.on_long}", which leaves nothing out')
        if self.return_windows and self.pooling == "none":
            raise InputError("return_windows is for one vector a window; with pooling none every token has its own")


@dataclass(frozen=True, kw_only=True)
class TextGenerationOptions(GenerationOptions):
    """How to go on, and what to do with a prompt too long for the model beside max_new_tokens.

    on_long: "error" makes it an error record; "truncate" goes on from its end and says so in the record. There are
    no windows: a text goes on in one place only. return_full_text: begin generated texts with the prompt.
    """

    on_long: OnLongPrompt = "error"
    return_full_text: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("on_long", self.on_long, ("truncate", "error"))
        if self.num_top_logprobs:
            raise InputError(
                f"num_top_logprobs must be 0: records have one number a token, got {self.num_top_logprobs}"
            )
        if not isinstance(self.return_full_text, bool):
            raise InputError(f"return_full_text must be True or False, got {self.return_full_text!r}")

    @property
    def generation(self) -> GenerationOptions:
        """The same without what the predictor adds."""
        return GenerationOptions(**{field.name: getattr(self, field.name) for field in fields(GenerationOptions)})


_MASKED_LM = ("BigBirdForMaskedLM", "BigBirdForPreTraining")
_TASKS: dict[str, tuple[type, tuple[str, ...]]] = {
    "fill-mask": (FillMaskOptions, _MASKED_LM),
    "masked-lm-scoring": (MaskedLMScoringOptions, _MASKED_LM),
    "token-classification": (TokenClassificationOptions, ("BigBirdForTokenClassification",)),
    "text-classification": (TextClassificationOptions, ("BigBirdForSequenceClassification",)),
    "zero-shot-classification": (ZeroShotClassificationOptions, ("BigBirdForSequenceClassification",)),
    "multiple-choice": (MultipleChoiceOptions, ("BigBirdForMultipleChoice",)),
    "question-answering": (QuestionAnsweringOptions, ("BigBirdForQuestionAnswering",)),
    "feature-extraction": (FeatureExtractionOptions, ()),
    "text-generation": (TextGenerationOptions, ("BigBirdForCausalLM",)),
}
TASKS = tuple(_TASKS)
ALIASES = {"ner": "token-classification", "sentiment-analysis": "text-classification"}
"""Other names of tasks, as in transformers."""
OPTIONS: dict[str, Any] = {task: options for task, (options, _) in _TASKS.items()}
"""The options dataclass of each task."""
HEADS = {task: heads for task, (_, heads) in _TASKS.items()}
"""The architectures that do each task; () where any encoder does."""


def check_call(task: str, options: Any = None, max_tokens_per_batch: int | None = None, device: object = "cpu") -> str:
    """The task by its own name.

    Raises InputError for an unknown one, options of another task, a budget below 1, or text-generation on another
    device than the CPU.
    """
    task = ALIASES.get(task, task)
    if task not in TASKS:
        raise InputError(f"task {task!r} is not known; the tasks are {', '.join(TASKS)}")
    if options is not None and not isinstance(options, OPTIONS[task]):
        raise InputError(f"options for {task} are {type(options).__name__}, expected {OPTIONS[task].__name__}")
    if max_tokens_per_batch is not None and max_tokens_per_batch < 1:
        raise InputError(f"max_tokens_per_batch is {max_tokens_per_batch}, expected at least 1")
    if task == "text-generation":
        refuse_other_devices(device)
    return task


def check_checkpoint(task: str, name: object, config: BigBirdConfig, options: Any) -> None:
    """Whether the checkpoint `name` of this configuration does the task with these options (None: the defaults).

    Raises CheckpointError where it lacks the head or labels that the task needs, InputError for options beyond the
    model.
    """
    heads = HEADS[task]
    if heads and not set(heads) & set(config.architectures):
        found = " and ".join(config.architectures) or "no architecture"
        raise CheckpointError(f"{task} needs a checkpoint of {' or '.join(heads)}; {name} has {found}")
    if isinstance(options, LengthOptions):
        options.length_limit(config.max_position_embeddings)
    if task == "token-classification":
        default_strategy(config)
    if task == "zero-shot-classification":
        entailment_label(config)


def default_strategy(config: BigBirdConfig) -> Strategy:
    """How a checkpoint asks for tokens to become entities, "simple" where it asks for nothing."""
    asked = (config.extra.get("task_specific_params") or {}).get("token-classification", {})
    strategy: Strategy = asked.get("aggregation_strategy", "simple")
    require_choice("task_specific_params.aggregation_strategy", strategy, STRATEGIES[1:])
    return strategy


def entailment_label(config: BigBirdConfig) -> int:
    """Which label means entailment. Raises CheckpointError for labels without one: it must not be guessed."""
    names = [config.id2label[index] for index in range(config.num_labels)]
    found = [index for index, name in enumerate(names) if name.lower().startswith("entail")]
    if not found or len(names) < 2:
        raise CheckpointError(
            "zero-shot-classification needs a head for natural language inference, with a label that begins with "
            f"'entail' and others; the checkpoint's labels are {', '.join(names)}"
        )
    return found[0]
