"""What stands on the encoder, by the names checkpoints give it: states in, logits out, no loss.

Knows nothing of rows: whoever calls chooses the states a head is needed for.
"""

from torch import Tensor, nn

from bigbird.config import BigBirdConfig
from bigbird.dropout import Dropout
from bigbird.layers import ACTIVATIONS, Intermediate, ResidualOutput
from bigbird.linear.training import Linear, linear


def classifier_dropout(config: BigBirdConfig) -> float:
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


class PredictionTransform(nn.Module):
    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.activation(self.dense(states)))
        return normed


class Predictions(nn.Module):
    """Vocabulary logits; the decoder's weight is the word embeddings', its bias is the head's too."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.transform = PredictionTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = self.decoder.bias

    def forward(self, states: Tensor) -> Tensor:
        """(..., hidden_size) -> (..., vocab_size)."""
        return linear(self.transform(states), self.decoder.weight, self.bias)


class LanguageModelHead(nn.Module):
    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.predictions = Predictions(config)

    def forward(self, states: Tensor) -> Tensor:
        """(..., hidden_size) -> (..., vocab_size)."""
        logits: Tensor = self.predictions(states)
        return logits


class PreTrainingHeads(LanguageModelHead):
    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)


class SequenceClassificationHead(nn.Module):
    """Dense, activation and projection over each row's first token; the pooler has no part in it."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(classifier_dropout(config))
        self.activation = ACTIVATIONS[config.hidden_act]
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, first_token_states: Tensor) -> Tensor:
        """(rows, hidden_size) -> (rows, num_labels)."""
        hidden = self.activation(self.dense(self.dropout(first_token_states)))
        logits: Tensor = self.out_proj(self.dropout(hidden))
        return logits


class QuestionAnsweringHead(nn.Module):
    """A feed-forward block of its own before the projection to start and end."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config.intermediate_size, config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def forward(self, states: Tensor) -> Tensor:
        """(..., hidden_size) -> (..., 2): start and end."""
        states = self.dropout(states)
        logits: Tensor = self.qa_outputs(self.output(self.intermediate(states), states))
        return logits
