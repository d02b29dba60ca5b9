"""bigbird-serve: what it refuses before Ray starts, and how it ends."""

import shutil
import signal
import socket
import subprocess
import sys

import pytest
from local_cluster import free_base
from serving_cluster import LABELS, wait_until
from serving_command import TASK, finishes_what_it_accepted, started, wait_until_serving

from bigbird import BigBirdForTokenClassification
from serving import app
from serving.app import _affordable, build
from serving.settings import ALL_HEADS, ServeArguments


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return tiny_checkpoint(BigBirdForTokenClassification, id2label=LABELS)


@pytest.fixture
def refusal(monkeypatch, capsys):
    """What the command says before it ends with status 2, without having started Ray."""

    def started(*_, **__):
        pytest.fail("Ray was started")

    def refused(*arguments: str) -> str:
        monkeypatch.setattr(app, "_serve", started)
        assert app.main([str(argument) for argument in arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("bigbird-serve: ")

    return refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "summarization=x"], f"unknown head summarization; the heads are {', '.join(ALL_HEADS)}"),
        (["--head", "fill-mask"], "heads: 'fill-mask' is not of the form task=checkpoint"),
        (["--port", "0"], "port is 0, expected 1 to 65535"),
        (["--port", "70000"], "port is 70000, expected 1 to 65535"),
        (["--host", "203.0.113.7", "--open-without-keys"], "cannot listen on 203.0.113.7:8000: "),
        (["--host", "0.0.0.0"], "0.0.0.0 is reached from other machines and there are no API keys"),
        (["--grpc-port", "9000"], "0.0.0.0 is reached from other machines and there are no API keys"),
        (["--port", "9000", "--grpc-port", "9000"], "port and grpc_port are both 9000; each needs one of its own"),
        (["--grpc-port", "9000", "--ingress", "haproxy"], "gRPC is not served through HAProxy"),
        (["--api-keys-file", "/nowhere/keys"], "api_keys_file /nowhere/keys cannot be read: No such file or directory"),
        (["--device", "cuda"], "device is cuda, and torch finds no GPU here"),
        (["--head", "fill-mask=/nowhere/model"], "head fill-mask: /nowhere/model: there is no such directory"),
        (["--num-cpus", "-1"], "num_cpus"),
        (["--pool", "0"], "max_models"),
        (["--pool", "2", "--head", "text-generation=x"], "pool is 2, and text-generation, the one head, is not for"),
        (["--pool", "2", "--device", "cuda"], "device is cuda, and torch finds no GPU here"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line_before_ray_starts(refusal, checkpoint, arguments, message):
    port = [] if "--port" in arguments or "203.0.113.7" in arguments else ["--port", str(free_base("127.0.0.1"))]
    head = [] if "--head" in arguments else ["--head", f"{TASK}={checkpoint}"]
    assert message in refusal(*arguments, *port, *head)


def test_a_checkpoint_that_does_not_fit_its_head_is_refused_before_ray_starts(refusal, checkpoint, tmp_path):
    port = str(free_base("127.0.0.1"))
    said = refusal("--port", port, "--head", f"fill-mask={checkpoint}")
    assert said.startswith("head fill-mask: fill-mask needs a checkpoint of")
    for broken, change in (
        ("without config", lambda copy: (copy / "config.json").unlink()),
        ("bad config", lambda copy: (copy / "config.json").write_text("{")),
        ("without tokenizer", lambda copy: [file.unlink() for file in copy.glob("tokenizer*")]),
        ("without weights", lambda copy: [file.unlink() for file in copy.glob("*.safetensors")]),
        ("half of the weights", lambda copy: (copy / "model.safetensors").write_bytes(b"\x00" * 100)),
    ):
        copy = tmp_path / broken.replace(" ", "-")
        shutil.copytree(checkpoint, copy)
        change(copy)
        assert str(copy) in refusal("--port", port, "--head", f"{TASK}={copy}") or broken == "half of the weights"


def test_a_port_that_is_taken_is_refused_even_where_the_other_server_shares_it(refusal, checkpoint):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Serve's proxy does
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refusal("--port", str(port), "--head", f"{TASK}={checkpoint}")
    assert said == f"cannot listen on 127.0.0.1:{port}: Address already in use"


def test_a_second_signal_ends_the_server_at_once():
    code = (
        "import signal, time; from serving.stopping import StopRequested, StopSignals\n"
        "signals = StopSignals(); signals.install()\n"
        "try:\n    signal.raise_signal(signal.SIGINT)\n    raise SystemExit('not interrupted')\n"
        "except StopRequested:\n    signal.raise_signal(signal.SIGTERM)\n    time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 128 + signal.SIGTERM


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_sigint_in_the_middle_of_starting_ends_the_server_without_a_trace(checkpoint):
    with started(checkpoint) as (process, _, output):
        wait_until(lambda: any("Started Serve" in line for line in output) or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0, "".join(output)
    assert "Traceback" not in "".join(output), "".join(output)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_sigterm_lets_the_server_finish_what_it_accepted(checkpoint):
    with started(checkpoint) as (process, url, output):
        wait_until_serving(process, url, output)
        finishes_what_it_accepted(process, url, output)


def test_bigbird_serve_shares_out_the_cpus_where_there_are_fewer_than_heads_want():
    arguments = ServeArguments.model_validate({"heads": "fill-mask=a,token-classification=b"})
    for num_cpus, wanted in ((2.0, 0.95), (16.0, 1.0)):
        shared = _affordable(arguments, num_cpus)
        assert [head.num_cpus for head in shared.heads.values()] == [wanted, wanted]


def test_bigbird_serve_pool_puts_all_heads_that_score_into_one_process_with_the_settings_of_the_command(
    monkeypatch, checkpoint
):
    found = []
    monkeypatch.setattr(app, "_serve", lambda arguments, *_: found.append(arguments))
    monkeypatch.setattr(app, "drain", lambda: None)
    heads = ["--head", f"a:{TASK}={checkpoint},b:{TASK}={checkpoint},text-generation=checkpoints/text-generation"]
    assert app.main([*heads, "--pool", "2", "--dtype", "bfloat16", "--port", str(free_base("127.0.0.1"))]) == 0
    shared = _affordable(found[0], 2.0)
    assert {name: head.pool for name, head in shared.heads.items()} == {
        "a": "pool",
        "b": "pool",
        "text-generation": None,
    }
    (pool,) = shared.resolved_pools().values()
    assert (pool.max_models, pool.dtype, pool.num_cpus) == (2, "bfloat16", 0.95)
    assert [head.dtype for head in shared.resolved_heads().values()] == ["bfloat16"] * 3
    build(shared)
