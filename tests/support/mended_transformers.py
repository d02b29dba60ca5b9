"""transformers with a defect taken out, where it would hide what is compared."""

from typing import Any


def mended(theirs: Any) -> Any:
    """transformers hands the encoder's states to self-attention too, which then reads those and is not masked."""
    for layer in theirs.bert.encoder.layer:
        attend, cross = layer.attention.forward, layer.crossattention.forward

        def attend_to_itself(*args, encoder_hidden_states=None, encoder_attention_mask=None, forward=attend, **kwargs):
            return forward(*args, **kwargs)

        def attend_to_encoder(*args, attention_mask=None, forward=cross, **kwargs):
            return forward(*args, encoder_attention_mask=attention_mask, **kwargs)

        layer.attention.forward, layer.crossattention.forward = attend_to_itself, attend_to_encoder
    return theirs
