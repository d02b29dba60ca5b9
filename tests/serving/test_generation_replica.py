"""serving.replicas.generation without Ray: whoever leaves takes their work along, whenever they leave."""

import asyncio

import pytest

from bigbird import BigBirdForCausalLM
from serving.settings import HeadArguments

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # as Serve is imported
REQUEST = {"prompts": ["Long documents"], "n": 2, "echo": False, "options": {"max_new_tokens": 100}, "timeout_s": 60.0}


@pytest.fixture
def replica(tiny_checkpoint):
    from serving.replicas.generation import GenerationReplica

    checkpoint = tiny_checkpoint(BigBirdForCausalLM, is_decoder=True, attention_type="original_full")
    return GenerationReplica(
        "text-generation", HeadArguments(task="text-generation", checkpoint=str(checkpoint), num_cpus=1)
    )


def test_a_client_that_leaves_just_when_a_token_comes_frees_its_slots(replica, monkeypatch):
    from serving.replicas.choices import Choice

    async def events():
        return [event async for event in replica.stream({**REQUEST, "request_id": "a"})]

    async def leave():
        client = asyncio.create_task(events())
        read = Choice.read

        async def read_and_leave(choice, loop, merged):
            put = merged.put_nowait

            def put_and_leave(item):
                put(item)
                client.cancel()

            merged.put_nowait = put_and_leave
            await read(choice, loop, merged)

        monkeypatch.setattr(Choice, "read", read_and_leave)
        with pytest.raises(asyncio.CancelledError):
            await client
        while (await replica.describe({}))["details"]["num_running"]:
            await asyncio.sleep(0.01)
        details = (await replica.describe({}))["details"]
        assert details["dtype"] == "float32"
        return details["num_generated_tokens"]

    assert asyncio.run(asyncio.wait_for(leave(), 60)) < 20
