"""serving.replicas.pool without a cluster: what is loaded, shared and dropped, and what one's failure costs others."""

import asyncio
import gc
import shutil
import threading
import weakref

import pytest
from safetensors.torch import load_file, save_file

from bigbird import BigBirdForTokenClassification
from bigbird.predictors import OPTIONS, load_predictor
from serving.settings import PoolArguments

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # as Serve is imported

NER, EMBED = "token-classification", "feature-extraction"
TEXT = "Paris is the capital of France."


@pytest.fixture(scope="module")
def heads(tiny_checkpoint, tmp_path_factory):
    """What requests say of their heads: three on one encoder, one on another, one of odd shapes, one not there."""
    folder = tmp_path_factory.mktemp("pool")
    tagger = tiny_checkpoint(BigBirdForTokenClassification, num_labels=3)
    other = shutil.copytree(tagger, folder / "other-labels")
    tensors = load_file(other / "model.safetensors")
    save_file({**tensors, "classifier.bias": tensors["classifier.bias"] + 1}, other / "model.safetensors")
    damaged = shutil.copytree(tagger, folder / "damaged")
    save_file({**tensors, "classifier.bias": tensors["classifier.bias"][:2]}, damaged / "model.safetensors")
    places = {
        "a": (NER, tagger),
        "b": (NER, other),
        "vectors": (EMBED, tagger),
        "elsewhere": (NER, tiny_checkpoint(BigBirdForTokenClassification, num_labels=3, seed=1)),
        "damaged": (NER, damaged),
        "unread": (NER, folder / "nowhere"),
    }
    return {
        name: {"name": name, "id": f"{name}@1", "arguments": {"task": task, "checkpoint": str(place)}}
        for name, (task, place) in places.items()
    }


@pytest.fixture
def pool(monkeypatch):
    """A pool of two models in what Serve takes for a replica."""
    from ray.serve import context
    from ray.serve._private.common import DeploymentID, ReplicaID

    from serving.replicas.pool import PoolReplica

    identity = ReplicaID(unique_id="r", deployment_id=DeploymentID(name="small", app_name="bigbird"))
    replica = context.ReplicaContext(identity, None, None, None, 1)
    monkeypatch.setattr(context, "_INTERNAL_REPLICA_CONTEXT", replica)
    # There are no routers to tell, and asking for them would start a Ray.
    monkeypatch.setattr("ray.serve.multiplex.MetricsPusher.register_or_update_task", lambda *_: None)
    # Memory is free at once, not when Python happens to look.
    gc.disable()
    yield PoolReplica("small", PoolArguments(max_models=2))
    gc.enable()


def request(head, **changes):
    return {"head": head, "inputs": [TEXT], "options": {}, "timeout_s": 60.0, **changes}


def replica(pool, name):
    return pool._heads[f"{name}@1"].loaded()


async def loaded(pool, heads):
    told = {name: await pool.describe({"head": head}) for name, head in heads.items()}
    return {name for name, answer in told.items() if answer["details"]["loaded"]}


def expected(head):
    arguments = head["arguments"]
    return load_predictor(arguments["task"], arguments["checkpoint"])([TEXT], OPTIONS[arguments["task"]]())


def test_each_head_answers_as_alone_whatever_is_asked_at_once_and_no_more_stay_than_may(pool, heads):
    names = ["a", "elsewhere", "vectors", "b"]

    async def main():
        answers = await asyncio.gather(*(pool.score(request(heads[name])) for name in names * 5))
        return answers, await loaded(pool, heads)

    answers, left = asyncio.run(main())
    for name, answer in zip(names * 5, answers, strict=True):
        (record,), (own,) = answer["records"], expected(heads[name])
        if name == "vectors":
            assert record["embedding"] == pytest.approx(own["embedding"], abs=1e-5)
        else:
            assert [one["entity_group"] for one in record["entities"]] == [
                one["entity_group"] for one in own["entities"]
            ]
            assert record["entities"] == [
                {**one, "score": pytest.approx(one["score"], abs=1e-5)} for one in own["entities"]
            ]
    assert len(left) == 2


def test_heads_of_one_encoder_hold_its_weights_once_for_as_long_as_one_of_them_is_loaded(pool, heads):
    def words(name):
        return replica(pool, name).encoder.embeddings.word_embeddings.weight.data_ptr()

    async def main():
        for name in ("a", "b"):
            await pool.score(request(heads[name]))
        assert words("a") == words("b")
        model = weakref.ref(replica(pool, "a").encoder)
        kept = words("b")
        await pool.score(request(heads["vectors"]))
        assert model() is None, "a is dropped, and its memory free"
        assert words("vectors") == words("b") == kept
        await pool.score(request(heads["elsewhere"]))
        assert words("elsewhere") != kept
        told = [(await pool.describe({"head": heads[name]}))["details"] for name in ("vectors", "elsewhere")]
        assert told[0]["encoder"] != told[1]["encoder"]

    asyncio.run(main())


@pytest.mark.parametrize(("name", "said"), [("damaged", "classifier.bias"), ("unread", "nowhere")])
def test_a_head_that_cannot_be_loaded_fails_its_own_requests_drops_nobody_and_is_not_read_at_each(
    pool, heads, name, said, monkeypatch
):
    from serving.replicas import pool as module

    made = []

    def counted(*arguments, make=module.ScoringReplica, **more):
        made.append(arguments[0])
        return make(*arguments, **more)

    monkeypatch.setattr(module, "ScoringReplica", counted)

    async def main():
        for neighbour in ("a", "elsewhere"):
            await pool.score(request(heads[neighbour]))
        answers = [await pool.score(request(heads[name])) for _ in range(3)]
        assert await loaded(pool, heads) == {"a", "elsewhere"}
        return answers, await pool.describe({"head": heads[name]})

    answers, told = asyncio.run(main())
    assert made.count(name) <= 1
    for answer in answers:
        assert answer["failure"]["kind"] == "head_unavailable"
        assert answer["failure"]["retry_after_s"] > 0
        assert f"{name} cannot be loaded: " in answer["failure"]["message"]
        assert said in answer["failure"]["message"]
    assert told["details"]["error"] == answers[0]["failure"]["message"]


def test_a_client_that_leaves_while_its_head_loads_stops_nothing_and_the_next_finds_it_loaded(pool, heads, monkeypatch):
    from serving.replicas import pool as module

    begun, gate, made = threading.Event(), threading.Event(), []

    def slow(*arguments, make=module.ScoringReplica, **more):
        made.append(arguments[0])
        begun.set()
        gate.wait(60)
        return make(*arguments, **more)

    monkeypatch.setattr(module, "ScoringReplica", slow)

    async def main():
        leaves = asyncio.create_task(pool.score(request(heads["a"])))
        await asyncio.to_thread(begun.wait, 60)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        stays = asyncio.create_task(pool.score(request(heads["a"])))
        gate.set()
        assert "records" in await stays
        assert made == ["a"]
        begun.clear()
        gate.clear()
        leaves = asyncio.create_task(pool.score(request(heads["b"])))
        await asyncio.to_thread(begun.wait, 60)
        assert "records" in await pool.score(request(heads["a"])), "a neighbour does not wait for a load"
        leaves.cancel()
        gate.set()
        while pool._heads["b@1"].loading:
            await asyncio.sleep(0.01)
        assert await loaded(pool, heads) == {"a", "b"}

    try:
        asyncio.run(main())
    finally:
        gate.set()


def test_failures_of_one_head_in_a_row_do_not_make_the_replica_of_all_unhealthy(pool, heads, monkeypatch):
    async def main():
        for name in ("a", "b"):
            await pool.score(request(heads[name]))

        error = ValueError("odd")

        def broken(prepared):
            raise error

        bad = replica(pool, "b")
        monkeypatch.setattr(bad._predictor, "forward", broken)
        for _ in range(6):
            with pytest.raises(ValueError, match="odd"):
                await pool.score(request(heads["b"]))
        with pytest.raises(RuntimeError, match="failed"):
            bad.check_health()
        pool.check_health()
        monkeypatch.setattr(
            bad._predictor, "forward", lambda prepared: (_ for _ in ()).throw(RuntimeError("CUDA error"))
        )
        with pytest.raises(RuntimeError):
            await pool.score(request(heads["b"]))
        with pytest.raises(RuntimeError, match="device is lost"):
            pool.check_health()

    asyncio.run(main())


def test_a_pooled_head_tokenizes_decodes_and_is_described_without_being_loaded(pool, heads):
    async def main():
        assert (await pool.describe({"head": heads["a"]}))["details"] == {
            "max_position_embeddings": 512,
            "labels": ["LABEL_0", "LABEL_1", "LABEL_2"],
            "device": "cpu",
            "loaded": False,
        }
        (tokens,) = (await pool.tokenize(request(heads["a"], add_special_tokens=False)))["tokens"]
        ids = [token["id"] for token in tokens]
        assert (await pool.decode(request(heads["a"], ids=[ids], skip_special_tokens=True)))["texts"] == [TEXT]
        late = await pool.score(request(heads["a"], timeout_s=0.0))
        assert late["failure"]["kind"] in ("deadline_exceeded", "overloaded")

    asyncio.run(main())
