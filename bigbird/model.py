"""BigBirdModel: embeddings, encoder and pooler behind two interfaces.

`encode` takes packed rows and is what everything fast is built on. `forward` is the padded interface of Hugging
Face's documentation: it packs on entry and unpacks on exit. A row's result is what the row gives alone, whatever
stands beside it, and no call changes the model.

Knows no task; reading and writing checkpoints it has from `PretrainedModel`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bigbird.attention import Attention
from bigbird.attention.block_sparse import BlockSparseAttention
from bigbird.attention.flex import FlexAttention
from bigbird.attention.growing import is_cache, past_of
from bigbird.attention.past import CrossAttention, Keeping, PastAttention, check_encoder_states, present
from bigbird.attention.plan import AttentionPlan
from bigbird.attention.reference import DenseAttention
from bigbird.attention.tiles import Layout, layout
from bigbird.config import BigBirdConfig
from bigbird.errors import InputError
from bigbird.layers import Embeddings, Encoder
from bigbird.loading.pretrained import PretrainedModel
from bigbird.outputs import BaseModelOutput, PastKeyValues
from bigbird.packing import PackedBatch, Packing, close_starts


class BigBirdModel(PretrainedModel):
    """The bare model. `add_pooling_layer`: a dense layer and tanh over each row's first token that is not masked."""

    encoder_prefix = ""

    def __init__(self, config: BigBirdConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.attention: type[BlockSparseAttention] | type[FlexAttention] = BlockSparseAttention
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if add_pooling_layer else None
        self.initialise()

    def set_attention_type(self, value: Literal["original_full", "block_sparse"]) -> None:
        """How rows beyond `config.full_attention_limit` are read from now on."""
        self.config = self.config.replace(attention_type=value)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """As nn.Module. torch.compile leaves the call as it is: rows' lengths decide what is computed, and its products
        and attention are kernels already. What stands around it is compiled."""
        if torch.compiler.is_dynamo_compiling():
            return torch.compiler.disable(super().__call__, reason="rows' lengths decide what is computed")(
                *inputs, **named
            )
        return super().__call__(*inputs, **named)

    def pool(self, first_token_states: Tensor) -> Tensor:
        """(rows, hidden_size) -> (rows, hidden_size)."""
        if self.pooler is None:
            raise InputError("this model was made with add_pooling_layer=False and has no pooler")
        return torch.tanh(self.pooler(first_token_states))

    def layout(self, lengths: Sequence[int]) -> Layout:
        """Where rows of these lengths lie best on the packed axis, for the attention this model has."""
        if self.attention is FlexAttention:
            return layout(self.config, lengths)
        return Layout(close_starts(lengths), sum(lengths))

    def encode(self, packed: PackedBatch) -> Tensor:
        """The packed interface: last hidden states, (T, hidden_size), of rows laid one after another."""
        self._check_length(max(packed.lengths))
        hidden = self.embeddings(packed.input_ids, packed.token_type_ids, packed.position_ids)
        encoded: Tensor = self.encoder(hidden, self._attention(packed.lengths, None, starts=packed.starts))
        return encoded

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: PastKeyValues | Any | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """The padded interface, with the arguments of Hugging Face's documentation.

        input_ids: (batch, seq_len), or inputs_embeds: (batch, seq_len, hidden_size); exactly one of them.
        attention_mask: (batch, past_length + seq_len), 1 = attend; padding may stand on either side or between.
        token_type_ids, position_ids: (batch, seq_len), or (seq_len,) for all rows alike.
        head_mask: (num_heads,) or (num_layers, num_heads).
        For decoders: encoder_hidden_states (batch, encoder_length, hidden_size), encoder_attention_mask
        (batch, encoder_length), past_key_values as in `bigbird.outputs`, with which only new tokens are passed;
        transformers' DynamicCache does as well, and is updated and returned.
        output_attentions computes densely: slow and large for long rows.

        Raises InputError naming the argument, its limit and its value.
        """
        config = self.config
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("pass exactly one of input_ids and inputs_embeds")
        cache = past_key_values if is_cache(past_key_values) else None
        if cache is not None:
            past_key_values = past_of(cache)
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None
        if given.dim() != (2 if inputs_embeds is None else 3):
            raise InputError(f"input_ids must be (batch, seq_len), inputs_embeds one more; got {tuple(given.shape)}")
        batch, new_length = given.shape[:2]
        check_encoder_states(config, batch, encoder_hidden_states, encoder_attention_mask)
        self._check_past(past_key_values, use_cache or cache is not None, encoder_hidden_states)
        past_length = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        if not batch or not new_length:
            raise InputError(f"at least one row of one token is needed, got {tuple(given.shape)}")
        self._check_length(past_length + new_length)
        want_attentions = config.output_attentions if output_attentions is None else output_attentions
        want_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states

        if past_key_values is None:
            rows = Packing.of_mask(attention_mask, (batch, new_length))
            record_width = new_length if want_attentions else None
            attend: Attention = self._attention(rows.lengths, rows.attended, record_width)
        else:
            if attention_mask is None:
                attention_mask = given.new_ones((batch, past_length + new_length), dtype=torch.long)
            if attention_mask.shape != (batch, past_length + new_length):
                raise InputError(
                    f"attention_mask must be {(batch, past_length + new_length)}, past and new tokens together; "
                    f"got {tuple(attention_mask.shape)}"
                )
            # Rows stay padded: their pasts are of one length already.
            rows = Packing((batch, new_length), (new_length,) * batch, None, None)
            attend = PastAttention(
                past_key_values, attention_mask, dropout=self._attention_dropout, record=want_attentions
            )
        keep = config.is_decoder and (config.use_cache if use_cache is None else use_cache)
        kept = Keeping(attend)
        cross = None
        if encoder_hidden_states is not None:
            cross = self._cross_attention(
                encoder_hidden_states, encoder_attention_mask, past_key_values, rows, want_attentions
            )

        if position_ids is None:
            position_ids = torch.arange(past_length, past_length + new_length, device=given.device)
        if token_type_ids is None:
            token_type_ids = torch.zeros((), dtype=torch.long, device=given.device)
        hidden = self.embeddings(
            None if input_ids is None else rows.pack(input_ids),
            rows.pack(_for_all_rows("token_type_ids", token_type_ids, (batch, new_length))),
            rows.pack(_for_all_rows("position_ids", position_ids, (batch, new_length))),
            None if inputs_embeds is None else rows.pack(inputs_embeds),
        )
        hidden_states: list[Tensor] = []

        def collect(packed: Tensor) -> Tensor:
            hidden_states.append(self._unpack(packed, rows, attention_mask))
            return rows.pack(hidden_states[-1])  # the padded form is what is used, so that gradients reach it

        hidden = self.encoder(
            hidden,
            kept if keep else attend,
            cross=cross,
            head_mask=self._head_mask(head_mask),
            collect=collect if want_states else None,
        )

        last = hidden_states[-1] if want_states else self._unpack(hidden, rows, attention_mask)
        output = BaseModelOutput(
            last_hidden_state=last,
            pooler_output=None if self.pooler is None else self.pool(first_attended(last, attention_mask)),
            past_key_values=present(attend, kept, cross, rows, cache) if keep else None,
            hidden_states=tuple(hidden_states) if want_states else None,
            attentions=_attentions(attend) if want_attentions else None,
            cross_attentions=tuple(cross.probabilities) if want_attentions and cross is not None else None,
        )
        as_result = config.return_dict if return_dict is None else return_dict
        return output if as_result else output.to_tuple()

    @property
    def _attention_dropout(self) -> float:
        return self.config.attention_probs_dropout_prob if self.training else 0.0

    def _attention(
        self,
        lengths: tuple[int, ...],
        attended: Tensor | None,
        record_width: int | None = None,
        starts: tuple[int, ...] = (),
    ) -> Attention:
        """Training draws seeded random blocks, as transformers does; evaluation follows the configuration.

        record_width: compute densely, and keep the probabilities of every row padded to so many tokens.
        """
        seeded = self.training or self.config.random_attention == "seeded"
        plan = AttentionPlan(self.config, lengths, seeded, starts)
        if record_width is not None:
            return DenseAttention(plan, attended, dropout=self._attention_dropout, record_width=record_width)
        return self.attention(plan, attended, dropout=self._attention_dropout)

    def _cross_attention(
        self, states: Tensor, mask: Tensor | None, past: PastKeyValues | None, rows: Packing, record: bool
    ) -> CrossAttention:
        if mask is None:
            mask = states.new_ones(states.shape[:2], dtype=torch.long)
        # The keys and values of the encoder's states end a layer's past, once they have been computed.
        known = {} if past is None else {layer: (of[2], of[3]) for layer, of in enumerate(past) if len(of) == 4}
        cross = CrossAttention(
            states,
            mask,
            known=known,
            dropout=self._attention_dropout,
            record=rows if record else None,
        )
        cross.begin(list(enumerate(rows.lengths)))
        return cross

    def _head_mask(self, head_mask: Tensor | None) -> Tensor | None:
        if head_mask is None:
            return None
        expected = (self.config.num_hidden_layers, self.config.num_attention_heads)
        if tuple(head_mask.shape) not in (expected, expected[1:]):
            raise InputError(f"head_mask must be {expected[1:]} or {expected}, got {tuple(head_mask.shape)}")
        return head_mask.to(self.dtype).expand(expected)

    def _unpack(self, states: Tensor, rows: Packing, attention_mask: Tensor | None) -> Tensor:
        padded = rows.unpack(states)
        if attention_mask is None:
            return padded
        # With a past, rows were not packed; a row masked altogether keeps one token: both are zeroed here.
        return padded * (attention_mask[:, -padded.shape[1] :] != 0)[..., None]

    def _check_length(self, length: int) -> None:
        if length > self.config.max_position_embeddings:
            raise InputError(
                f"a row has {length} tokens; max_position_embeddings is {self.config.max_position_embeddings}"
            )

    def _check_past(self, past: PastKeyValues | None, use_cache: bool | None, states: Tensor | None) -> None:
        if not self.config.is_decoder and (past is not None or use_cache):
            raise InputError("past_key_values and use_cache need a decoder; this model has is_decoder=False")
        if past is None:
            return
        if len(past) != self.config.num_hidden_layers:
            raise InputError(f"past_key_values has {len(past)} layers, the model {self.config.num_hidden_layers}")
        if len(past[0]) == 4:
            if states is None:
                raise InputError("past_key_values hold an encoder's keys and values; pass its encoder_hidden_states")
            if past[0][2].shape[2] != states.shape[1]:
                known = past[0][2].shape[2]
                raise InputError(f"past_key_values are of {known} encoder states, got {states.shape[1]}")


def first_attended(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(batch, seq_len, hidden_size) -> (batch, hidden_size): [CLS], also where padding stands before it."""
    if attention_mask is None:
        return states[:, 0]
    first = (attention_mask[:, -states.shape[1] :] != 0).int().argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), first]


def _attentions(attend: Attention) -> tuple[Tensor, ...]:
    """Probabilities a layer, (batch, num_heads, seq_len, keys), zeros outside a row."""
    assert isinstance(attend, PastAttention | DenseAttention)
    return tuple(attend.probabilities)


def _for_all_rows(name: str, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """(batch, seq_len) of values given for all rows or once for every row."""
    try:
        return values.expand(shape)
    except RuntimeError:
        raise InputError(f"{name} must be {shape} or {shape[1:]}, got {tuple(values.shape)}") from None
