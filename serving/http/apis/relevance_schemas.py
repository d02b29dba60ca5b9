"""Wire types of reranking and scoring: Cohere's, Jina's and vLLM's shapes, and text-embeddings-inference's.

Rerank requests of Cohere, Jina and vLLM name `documents`, that of text-embeddings-inference `texts`; both are taken.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from serving.http.answers import example
from serving.http.apis.wire import MAX_INPUTS, Int, Text, Texts, Wire, only

Query = Annotated[Text, Field(min_length=1)]
Direction = Annotated[
    Literal["left", "right", "Left", "Right"] | None,
    only("right", "Right", instead="a document's beginning is what truncate reads"),
]
_MODEL = Field(default=None, description="The head that scores; a cross-encoder, or else the embeddings, without one.")


class Document(Wire):
    text: Text


class RerankRequest(Wire):
    """As Cohere, Jina and vLLM have it. A document of any length is read in windows; its best one gives its score."""

    model: Text | None = _MODEL
    query: Query = Field(examples=["Where did the Senate meet?"])
    documents: Annotated[list[Text | Document], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)] = Field(
        examples=[["The Senate met in Rome.", "It rained all day."]]
    )
    top_n: Int | None = Field(default=None, ge=1, description="Results in the answer; all by default.")
    return_documents: bool | None = Field(default=None, description="Whether a result brings its document.")
    max_tokens_per_doc: Int | None = Field(default=None, ge=1, description="Tokens of a document that are read.")
    rank_fields: Annotated[Any, only(["text"], instead="a document has one field, text")] = None
    max_chunks_per_doc: Annotated[Any, only(instead="max_tokens_per_doc bounds what is read of a document")] = None
    instruction: Annotated[Any, only(instead="put it before the query")] = None
    priority: Annotated[Any, only(0)] = None
    truncate_prompt_tokens: Annotated[Any, only(instead="max_tokens_per_doc bounds what is read")] = None
    user: Text | None = None

    @property
    def texts(self) -> list[str]:
        return [document if isinstance(document, str) else document.text for document in self.documents]


class TextsRequest(Wire):
    """As text-embeddings-inference has it; the answer is a list."""

    query: Query
    texts: Texts
    raw_scores: bool | None = Field(default=None, description="A cross-encoder's logits, not brought to 0 to 1.")
    return_text: bool | None = Field(default=None, description="Whether a result brings its text.")
    truncate: bool | None = Field(default=None, description="true reads beginnings only, false refuses long texts.")
    truncation_direction: Direction = None


def _shape(body: Any) -> str:
    return "of texts" if isinstance(body, dict) and "texts" in body else "of documents"


AnyRerankRequest = Annotated[
    Annotated[RerankRequest, Tag("of documents")] | Annotated[TextsRequest, Tag("of texts")], Discriminator(_shape)
]


class ScoreRequest(Wire):
    """As vLLM has it: text_1 and text_2, or queries and documents. One query for all documents, or one for each."""

    model: Text | None = _MODEL
    text_1: Query | Texts | None = Field(default=None, examples=["Where did the Senate meet?"])
    text_2: Query | Texts | None = Field(default=None, examples=[["The Senate met in Rome."]])
    queries: Query | Texts | None = Field(default=None, description="Another name for text_1.")
    documents: Query | Texts | None = Field(default=None, description="Another name for text_2.")
    priority: Annotated[Any, only(0)] = None
    truncate_prompt_tokens: Annotated[Any, only()] = None
    user: Text | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        given = [name for name in ("text_1", "text_2", "queries", "documents") if getattr(self, name) is not None]
        if given not in (["text_1", "text_2"], ["queries", "documents"]):
            raise ValueError(f"text_1 and text_2, or queries and documents, are needed; it has {given or 'neither'}")
        queries, documents = self.pairs
        if len(queries) not in (1, len(documents)):
            raise ValueError(f"{given[0]} has {len(queries)} items and {given[1]} {len(documents)}; one, or as many")
        return self

    @property
    def names(self) -> tuple[str, str]:
        return ("text_1", "text_2") if self.text_1 is not None else ("queries", "documents")

    @property
    def pairs(self) -> tuple[list[str], list[str]]:
        queries, documents = (getattr(self, name) for name in self.names)
        return [queries] if isinstance(queries, str) else queries, [documents] if isinstance(
            documents, str
        ) else documents


class SimilarityInputs(Wire):
    source_sentence: Query
    sentences: Texts


class SimilarityParameters(Wire):
    truncate: bool | None = None
    truncation_direction: Direction = None
    prompt_name: Annotated[Any, only(instead="put the prompt before the text")] = None


class SimilarityRequest(Wire):
    inputs: SimilarityInputs
    parameters: SimilarityParameters = Field(default_factory=SimilarityParameters)
    model: Text | None = Field(default=None, description="A model of feature-extraction; its default without one.")


class Window(BaseModel):
    start: int = Field(description="First character of the document that its best window reads.")
    end: int = Field(description="One past the last.")


class RerankResult(BaseModel):
    index: int = Field(description="Of the document in the request.")
    relevance_score: float
    window: Window
    document: Document | None = Field(default=None, description="With return_documents only.")


class RerankUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Reranked(BaseModel):
    model_config = example(
        id="rerank-4f1c",
        model="feature-extraction",
        results=[{"index": 0, "relevance_score": 0.83, "window": {"start": 0, "end": 23}}],
        usage={"prompt_tokens": 18, "total_tokens": 18},
        meta={"api_version": {"version": "2"}, "tokens": {"input_tokens": 18, "output_tokens": 0}},
    )

    id: str
    model: str = Field(description="The head that scored.")
    results: list[RerankResult] = Field(description="The most relevant first.")
    usage: RerankUsage
    meta: dict[str, Any]


class ScoredText(BaseModel):
    model_config = example(index=0, score=0.83, window={"start": 0, "end": 23})

    index: int
    score: float
    text: str | None = Field(default=None, description="With return_text only.")
    window: Window


class PairScore(BaseModel):
    index: int
    object: Literal["score"]
    score: float
    window: Window


class Scores(BaseModel):
    model_config = example(
        id="score-4f1c",
        object="list",
        created=1767225600,
        model="feature-extraction",
        data=[{"index": 0, "object": "score", "score": 0.83, "window": {"start": 0, "end": 23}}],
        usage={"prompt_tokens": 18, "total_tokens": 18},
    )

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PairScore]
    usage: RerankUsage
