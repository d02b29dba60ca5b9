"""Where heads are told to look is exact, and training makes them look there."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bigbird import BigBirdForQuestionAnswering
from bigbird.checkpoint import load_model
from bigbird.packing import pack
from bigbird.tokenization.tokenizer import BigBirdTokenizer
from checkpoints import guided
from checkpoints.code_entities import definitions
from checkpoints.corpus_split import Document
from checkpoints.guided import GuidedObjective, moved_on
from checkpoints.head_data import rows_of
from checkpoints.looks import after_the_same_pair, at_definitions, looks_of, names_and_docstrings
from pipelines.finetuning.plan import Job, make_rows, new_model, plan_job

FILL_MASK = Path(__file__).parents[1] / "checkpoints" / "fill-mask"
SOURCE = '''
import os.path; from elsewhere import thing

def read_all(path, limit):
    """Return what stands in a file."""
    found = open(path).read(limit)
    return os.linesep + found

def write_all(path):
    """Put something into it again."""
    limit = 3
    return read_all(path, limit)
'''


@pytest.fixture(scope="module")
def tokenizer() -> BigBirdTokenizer:
    return BigBirdTokenizer.from_pretrained(FILL_MASK)


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    return rows_of("question-answering", [Document(path="here.py", kind="source", text=SOURCE)])


def lines_of(found: dict[int, list[int]], name: str) -> list[tuple[int, list[int]]]:
    """Uses of a name in SOURCE, and where it is defined, as line numbers."""
    line = lambda place: SOURCE[:place].count("\n")  # noqa: E731
    return [(line(use), [line(p) for p in places]) for use, places in found.items() if SOURCE.startswith(name, use)]


def test_a_use_knows_the_definition_its_scope_gives() -> None:
    found = definitions(SOURCE)
    assert lines_of(found, "path") == [(5, [3]), (11, [8])]
    assert lines_of(found, "limit") == [(5, [3]), (10, []), (11, [])]  # a variable, in the second function
    assert lines_of(found, "os") == [(6, [1])]
    assert lines_of(found, "read_all") == [(11, [3])]
    assert lines_of(found, "open") == [(5, [])]


def test_every_token_of_a_use_reads_the_same_token_of_the_nearest_definition(tokenizer: BigBirdTokenizer) -> None:
    text = "def a(path_to_it): return path_to_it\ndef b(path_to_it): return path_to_it\n"
    encoding = tokenizer.encode(text, add_special_tokens=False)
    looks = at_definitions(text, tokenizer)
    assert len(looks) >= 6
    for token, (place,) in looks.items():
        assert encoding.ids[token] == encoding.ids[place] or text[slice(*encoding.offsets[token])].strip() == "path"
        assert text[: encoding.offsets[token][0]].count("\n") == text[: encoding.offsets[place][0]].count("\n")
        assert place < token


def test_a_definition_outside_the_row_is_nowhere(tokenizer: BigBirdTokenizer) -> None:
    text = "def first(item):\n    return item\n" * 40
    document = {"text": text, "entities": []}
    job = Job(task="token-classification", model=str(FILL_MASK), train="", held_out="", output="")
    rows, _ = make_rows(job, ["O"], None, 30).rows([document])
    whole = at_definitions(text, tokenizer)
    found = looks_of("token-classification", document, rows, tokenizer)
    seen = 0
    for number, row in enumerate(rows):
        for token, (place,) in found[row.key][0].items():
            (far,) = whole[number * 28 + token - 1]
            assert place == (far - number * 28 + 1 if far >= number * 28 else 0)
            seen += 1
    assert seen == len(whole) >= 40


def test_after_the_same_pair_is_what_brute_force_finds() -> None:
    ids = torch.randint(7, 12, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    for token, (place,) in after_the_same_pair(ids).items():
        before = [end for end in range(2, token) if ids[end - 1 : end + 1] == ids[token - 1 : token + 1]]
        assert place == (before[-1] + 1 if before else 0)


def test_names_read_the_question_and_docstrings_read_their_names(
    tokenizer: BigBirdTokenizer, questions: list[dict[str, Any]]
) -> None:
    row = next(row for row in questions if "write_all" in row["question"])
    ids = [
        tokenizer.cls_token_id,
        *tokenizer.encode(row["question"], add_special_tokens=False).ids,
        tokenizer.sep_token_id,
        *tokenizer.encode(row["context"], add_special_tokens=False).ids,
    ]
    text = lambda places: tokenizer.decode([ids[place] for place in places])  # noqa: E731
    equal, described = names_and_docstrings(row, tokenizer)
    assert {text([token]) for token, places in equal.items() if tuple(places) != (0,)} == {" write", "_all"}
    assert all(text([token]) == text(places) for token, places in equal.items() if tuple(places) != (0,))
    assert len(equal) == len(tokenizer.encode(row["context"], add_special_tokens=False).ids)
    by_name: dict[str, list[int]] = {}
    for token, places in described.items():
        by_name.setdefault(text(places), []).append(token)
    assert {name.strip(): text(tokens).strip(' "') for name, tokens in by_name.items()} == {
        "read_all": "Return what stands in a file",
        "write_all": "Put something into it again",
    }


@pytest.mark.parametrize("task", ["token-classification", "causal-lm"])
def test_the_loss_is_that_of_the_attention_the_model_returns(
    task: Any, tokenizer: BigBirdTokenizer, tmp_path: Path
) -> None:
    entities = [{"start": at, "end": at + 8, "label": "FUNCTION"} for at in (SOURCE.index("read_all"),)]
    for part, text in (("train", SOURCE), ("eval", SOURCE + "\n")):
        pq.write_table(pa.Table.from_pylist([{"text": text, "entities": entities}]), tmp_path / part)
    job = Job(
        task=task, model=str(FILL_MASK), train=str(tmp_path / "train"), held_out=str(tmp_path / "eval"), output=""
    )
    plan = plan_job(job)
    model = new_model(job, plan).eval()
    document = {"text": SOURCE, "entities": entities}
    (row,), _ = make_rows(job, plan.labels, None, 512).rows([document])
    looks = looks_of(task, document, [row], tokenizer)
    objective = GuidedObjective(model, job, looks, tokenizer.mask_token_id)
    plain = objective.loss_sum([row], 0).item() - objective.attention_loss[0] * objective.num_targets(row)
    packed = pack([list(row.ids)])
    (layer, head), (places,) = objective.heads[0], looks[row.key]
    attention = model.bert(packed.input_ids[None], output_attentions=True).attentions[layer][0, head].double()
    nats = {token: -attention[token, list(some)].log().mean().item() for token, some in places.items()}
    means = [
        sum(some) / len(some)
        for is_sink in (True, False)
        if (some := [nats[token] for token, read in places.items() if (tuple(read) == (0,)) == is_sink])
    ]
    assert len(means) == 2
    assert objective.attention_loss[0] == pytest.approx(sum(means) / 2, rel=1e-4)
    objective.looks = {}
    assert objective.loss_sum([row], 0).item() == pytest.approx(plain, rel=1e-4)


def test_contexts_are_moved_on_by_what_the_positions_leave() -> None:
    rows = [[0, 0, 1, 1, 1], [0, 0, 0], [0, 1]]
    packed = pack([[9] * len(types) for types in rows], rows)
    draw = torch.Generator().manual_seed(0)
    moved = [moved_on(packed.token_type_ids, packed.position_ids, 40, draw).tolist() for _ in range(2000)]
    for row in moved:
        assert row[:2] + row[5:9] == [0, 1, 0, 1, 2, 0]
        assert row[3:5] == [row[2] + 1, row[2] + 2]
    firsts, lasts = [row[2] for row in moved], [row[9] for row in moved]
    assert (min(firsts), min(lasts)) == (2, 1)
    assert (max(firsts), max(lasts)) == (37, 39)
    assert sum(first < 2 + 9 for first in firsts) > 800


def test_training_reads_contexts_further_on_and_leaves_the_model_as_it_is(
    tokenizer: BigBirdTokenizer, questions: list[dict[str, Any]], tmp_path: Path
) -> None:
    job = Job(task="question-answering", model=str(FILL_MASK), train="", held_out="", output="")
    model = BigBirdForQuestionAnswering.from_pretrained(FILL_MASK, dtype=torch.float32).eval()
    (row,), _ = make_rows(job, [], None, 4096).rows([questions[0]])
    read: list[int] = []
    model.bert.embeddings.position_embeddings.register_forward_hook(lambda *call: read.append(int(call[1][0].max())))
    model.bert.encode(pack([list(row.ids)], [list(row.token_type_ids)]))
    objective = GuidedObjective(model, job, {}, None)
    for step in range(9):
        objective.loss_sum([row], step)
    assert read[0] == len(row.ids) - 1
    assert len({*read}) > 5
    model.bert.encode(pack([list(row.ids)], [list(row.token_type_ids)]))
    assert read[-1] == read[0]


def test_guided_training_makes_a_checkpoint_whose_heads_look_there(
    tokenizer: BigBirdTokenizer, questions: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Document(path="there.py", kind="source", text=SOURCE.replace("_all", "_some"))
    held_out = rows_of("question-answering", [elsewhere])
    for part, rows in (("train", questions), ("eval", held_out)):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{part}.parquet")
    output = tmp_path / "guided"
    again = tmp_path / "again"
    rest = f"--task question-answering --train {tmp_path}/train.parquet --eval {tmp_path}/eval.parquet"
    rest += " --tokens-per-step 100 --as-in-inference"
    first = f"--model {FILL_MASK} --output {output} --epochs 100 --learning-rate 1e-3"
    second = f"--model {output} --output {again} --epochs 1 --learning-rate 1e-6 --go-on"
    for options in (first, second):
        monkeypatch.setattr("sys.argv", ["guided", *options.split(), *rest.split()])
        guided.main()
    assert reading(output, questions, tokenizer) > 0.9
    assert reading(again, questions, tokenizer) > 0.9  # such steps would teach nothing, had they begun anew


def reading(checkpoint: Path, questions: list[dict[str, Any]], tokenizer: BigBirdTokenizer) -> float:
    """The share of the guided heads' attention that lies where it has to, the least of all heads and rows."""
    model = load_model(checkpoint, dtype=torch.float32)
    job = Job(task="question-answering", model=str(checkpoint), train="", held_out="", output="")
    shares = []
    for document in questions:
        (row,), _ = make_rows(job, [], None, 4096).rows([document])
        looks = looks_of(job.task, document, [row], tokenizer)[row.key]
        types = torch.tensor([row.token_type_ids])
        attentions = model.bert(torch.tensor([row.ids]), token_type_ids=types, output_attentions=True).attentions
        for (layer, head), places in zip(guided.GUIDED[job.task], looks, strict=True):
            read = [attentions[layer][0, head, token, list(some)].sum().item() for token, some in places.items()]
            shares.append(sum(read) / len(read))
    return min(shares)
