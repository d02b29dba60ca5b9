"""actors.pool and `score()`: how many actors there are, and that a pipeline's other steps find a core beside them."""

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray_session import ON_TWO_CPUS

from bigbird.errors import InputError
from pipelines import score
from pipelines.scoring.actors.pool import Cluster, ScoreOptions, job_pool, step_pool
from pipelines.scoring.checks import ModelInfo

pytestmark = [*ON_TWO_CPUS, pytest.mark.filterwarnings("ignore:Use 'expr' instead of 'fn'")]

GIB = 1 << 30


class CountCharacters:
    """A masked-lm-scoring predictor whose nll is the length of the text."""

    def preprocess(self, examples, options=None):
        return list(examples)

    def forward(self, prepared):
        return prepared

    def postprocess(self, prepared, outputs, options=None):
        null = {"error": {"type": "InputError", "message": "text is null"}}
        done = {"pseudo_perplexity": 1.0, "num_windows": 1, "truncated": False}
        return [
            null if text is None else {"nll": float(len(text)), "num_tokens": len(text), **done} for text in outputs
        ]


@pytest.fixture
def scored(monkeypatch):
    """`score()` with the stand-in in the place of every model."""
    info = ModelInfo(digest="m", embedding_size=4, weight_bytes=1000)
    monkeypatch.setattr(score, "inspect_model", lambda *args: info)

    def step(dataset, options=None):
        return score.score(dataset, "masked-lm-scoring", "m", options, load=lambda *a, **k: CountCharacters())

    return step


def test_two_scores_after_a_read_a_map_and_a_filter_end_on_two_cores(scored, tmp_path):
    texts = [f"text {number}" for number in range(40)]
    for number in range(4):
        rows = range(10 * number, 10 * number + 10)
        pq.write_table(pa.table({"id": rows, "text": [texts[row] for row in rows]}), tmp_path / f"{number}.parquet")
    dataset = ray.data.read_parquet(str(tmp_path)).map(lambda row: {**row, "text": row["text"] * 2})
    once = scored(dataset.filter(lambda row: row["id"] % 2 == 0)).select_columns(["id", "text", "nll"])
    again = scored(once.rename_columns({"nll": "first"}), ScoreOptions(num_actors=1))
    rows = sorted(again.map(lambda row: {**row, "seen": True}).take_all(), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(0, 40, 2))
    assert all(row["seen"] and row["nll"] == row["first"] == 2 * len(texts[row["id"]]) for row in rows)


def test_a_row_that_cannot_be_scored_keeps_its_place(scored):
    dataset = ray.data.from_items([{"text": "four"}, {"text": None}, {"text": "seventh"}])
    rows = scored(dataset).map_batches(
        lambda table: table.append_column("twice", table["num_tokens"]), batch_format="pyarrow"
    )
    found = {row["text"]: row for row in rows.take_all()}
    assert {text: row["twice"] for text, row in found.items()} == {"four": 4, "seventh": 7, None: None}
    assert found[None]["error"]["type"] == "InputError"


def test_a_dataset_without_the_column_is_refused_when_its_schema_is_known(scored):
    with pytest.raises(InputError, match="column 'text' is not in the input; its columns are body"):
        scored(ray.data.from_arrow(pa.table({"body": ["a"]})))


def test_a_pool_that_leaves_no_core_to_the_other_steps_is_refused(scored):
    with pytest.raises(InputError, match=r"2 actors of 1 CPUs leave none of the cluster's 2 .*; 1 are to be had"):
        scored(ray.data.from_arrow(pa.table({"text": ["a"]})), ScoreOptions(num_actors=2, num_cpus_per_actor=1))


@pytest.mark.parametrize(
    ("given", "cores", "held", "sizes", "cpus", "declared"),
    [
        ({}, 2, [], (1, 1), 1, 0.5),
        ({}, 2, [0.5], (1, 1), 1, 0.25),
        ({}, 16, [], (1, 3), 4, 4),
        ({}, 16, [4.0], (1, 2), 4, 4),
        ({}, 1, [], (1, 1), 1, 0),
        ({"num_actors": 2}, 9, [], (2, 2), 4, 2),
        ({"min_actors": 2, "max_actors": 5, "num_cpus_per_actor": 1}, 8, [], (2, 5), 1, 1),
    ],
)
def test_a_step_leaves_a_core_to_the_others_and_room_for_another_pool(given, cores, held, sizes, cpus, declared):
    dataset = ray.data.range(3)
    for held_cpus in held:
        dataset = dataset.map_batches(CountCharacters, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=held_cpus)
    pool = step_pool(ScoreOptions(**given), dataset, Cluster(nodes=[{"CPU": cores}]))
    assert (pool.min_size, pool.max_size) == sizes
    assert (pool.cpus, pool.declared_cpus) == (cpus, declared)
    assert sum(held) + pool.min_size * pool.declared_cpus <= cores - 1


def nodes(number, **resources):
    return [{"memory": 64 * GIB, **resources}] * number


@pytest.mark.parametrize(
    ("given", "cluster", "sizes", "cpus"),
    [
        ({}, Cluster(nodes=nodes(1, CPU=2)), (2, 2, 99), 1),
        ({}, Cluster(nodes=nodes(4, CPU=16)), (16, 16, 99), 4),
        ({}, Cluster(nodes=nodes(3, CPU=6)), (3, 3, 99), 4),
        ({"num_actors": 2}, Cluster(nodes=nodes(1, CPU=8)), (2, 2, 2), 4),
        ({"num_actors": 3, "num_cpus_per_actor": 2}, Cluster(nodes=nodes(1, CPU=8)), (3, 3, 3), 2),
        ({"num_gpus_per_actor": 1 / 6}, Cluster(nodes=nodes(2, CPU=8, GPU=1)), (12, 12, 99), 1),
        ({"num_cpus_per_actor": 1 / 3}, Cluster(nodes=nodes(1, CPU=1)), (3, 3, 99), 1 / 3),
        ({"num_gpus_per_actor": 1, "num_actors": 2}, Cluster(nodes=nodes(1, CPU=8, GPU=4)), (2, 2, 2), 1),
        ({"min_actors": 1, "max_actors": 6}, Cluster(nodes=nodes(1, CPU=2)), (1, 1, 6), 1),
        ({"num_tokenizers": 2}, Cluster(nodes=nodes(1, CPU=8)), (6, 6, 99), 1),
        ({}, Cluster(nodes=[]), (1, 1, 99), 1),
        ({}, Cluster(nodes=[], growth=nodes(16, CPU=8)), (1, 1, 99), 1),
        ({}, Cluster(nodes=nodes(1, CPU=8), growth=nodes(15, CPU=8)), (1, 8, 99), 1),
        ({"num_actors": 16}, Cluster(nodes=[], growth=nodes(2, CPU=8)), (16, 16, 16), 1),
    ],
)
def test_a_job_fills_the_nodes_that_are_there_and_grows_with_the_cluster(given, cluster, sizes, cpus):
    pool = job_pool(ScoreOptions(**given), 99, GIB, cluster)
    assert (pool.min_size, pool.initial_size, pool.max_size) == sizes
    assert pool.cpus == cpus
    for share in (pool.declared_cpus, pool.gpus):
        assert round(share, 4) == share  # Ray takes no finer ones
    assert pool.declared_cpus < cpus, "the rest is for what reads"


def test_a_pool_is_no_larger_than_what_there_is_to_do():
    pool = job_pool(ScoreOptions(), 3, GIB, Cluster(nodes=nodes(1, CPU=8)))
    assert dataclasses.astuple(pool)[:3] == (3, 3, 3)


@pytest.mark.parametrize(
    ("given", "cluster", "tokenizers"),
    [
        ({}, nodes(1, CPU=8), 0),
        ({"num_gpus_per_actor": 1}, nodes(1, CPU=8, GPU=2), 2),
        ({"num_gpus_per_actor": 1}, nodes(1, CPU=3, GPU=2), 1),
        ({"num_gpus_per_actor": 1}, nodes(1, CPU=2, GPU=2), 0),
        ({"num_gpus_per_actor": 1, "num_tokenizers": 5}, nodes(1, CPU=8, GPU=2), 5),
    ],
)
def test_actors_with_gpus_have_tokenizers_as_cores_allow(given, cluster, tokenizers):
    assert job_pool(ScoreOptions(**given), 99, GIB, Cluster(nodes=cluster)).tokenizers == tokenizers


@pytest.mark.parametrize(
    ("given", "actor_bytes", "message"),
    [
        ({}, 65 * GIB, r"no node holds an actor of 1 CPUs, 0 GPUs and 65\.0 GiB; the largest have 8 CPUs.*64\.0 GiB"),
        ({"num_cpus_per_actor": 16}, GIB, "no node holds an actor of 16 CPUs"),
        ({"num_gpus_per_actor": 1}, GIB, "no node holds an actor of 1 CPUs, 1 GPUs"),
        ({"num_actors": 9, "num_cpus_per_actor": 1}, GIB, "9 actors of 1 CPUs, .* each: the cluster holds 8"),
        ({"num_tokenizers": 8}, GIB, "num_tokenizers is 8: of the cluster's 8 CPUs they leave none to an actor of 1"),
        ({"num_actors": 3, "num_cpus_per_actor": 1}, 30 * GIB, "3 actors of .* each: the cluster holds 2"),
    ],
)
def test_actors_that_fit_no_node_are_refused(given, actor_bytes, message):
    with pytest.raises(InputError, match=message):
        job_pool(ScoreOptions(**given), 99, actor_bytes, Cluster(nodes=nodes(1, CPU=8)))
