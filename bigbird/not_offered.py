"""What code written for transformers asks for and this library does not have: each by name, with what to use.

Only names; a wrong argument is refused where it is given.
"""

import re

_ENCODER_DECODER = "an encoder-decoder is not BigBird; use transformers"
_TRAINING = "transformers' own trains these models; or python -m pipelines.finetune"

_ADVICE = {
    r"pipeline|\w+Pipeline": "use bigbird.load_predictor(task, directory)",
    "Trainer|TrainingArguments|Seq2SeqTrainer|Seq2SeqTrainingArguments": _TRAINING,
    r"DataCollator\w*|default_data_collator": "transformers' own reads these tokenizers' batches",
    r"TF(?:BigBird|Auto)\w+|Flax(?:BigBird|Auto)\w+": "PyTorch only; use the class without TF or Flax before its name",
    r"BigBirdPegasus\w+": _ENCODER_DECODER,
    r"EncoderDecoder\w+|AutoModelForSeq2SeqLM": _ENCODER_DECODER,
    "BigBirdOnnxConfig": "use torch.onnx.export or torch.export",
    "load_tf_weights_in_big_bird": "convert the TensorFlow checkpoint once with transformers",
    r"BigBirdPreTrainedModel|BigBirdLayer|Pre[Tt]rained(?:Model|Config|Tokenizer\w*)": "derive from a BigBird class",
    r"Auto(?:Model\w*|Backbone|\w*Processor|FeatureExtractor)": "BigBird has no such head or processor",
    "BitsAndBytesConfig": 'use bigbird.prepare_for_inference(model, dtype="int8")',
    r"\w*(?:Streamer)": "use bigbird.generation.generate.stream",
    "set_seed": "use torch.manual_seed; generation takes a seed of its own",
    "GenerationConfig": "use the keywords of model.generate; a checkpoint's own is model.generation_config",
    "LogitsProcessorList|StoppingCriteriaList": "use a list",
}


def advice_for(name: str) -> str | None:
    """What to use in the place of one of transformers' names; None for a name that is not one of those."""
    return next((advice for pattern, advice in _ADVICE.items() if re.fullmatch(pattern, name)), None)
