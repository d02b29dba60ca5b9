"""Serve configs, job entrypoints, `ray start`, scripts and the image in `cluster/`: each accepted by what reads it."""

import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from manifests import BASE, CLUSTER, KUBERNETES, ROOT, Document, containers, manifest, only, walk


def serve_configs() -> dict[str, Document]:
    patch = yaml.safe_load((KUBERNETES / "overlays/gpu/heads-on-gpus.yaml").read_text())
    (heads_on_gpus,) = [step["value"] for step in patch if step["path"] == "/spec/serveConfigV2"]
    return {
        "serve.yaml": yaml.safe_load((CLUSTER / "serve.yaml").read_text()),
        "heads-on-gpus.yaml": yaml.safe_load(heads_on_gpus),
    }


def test_the_service_deploys_what_serve_yaml_says():
    assert yaml.safe_load(only("ray-service.yaml")["spec"]["serveConfigV2"]) == serve_configs()["serve.yaml"]


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray's own schemas
@pytest.mark.parametrize("name", ["serve.yaml", "heads-on-gpus.yaml"])
def test_serve_configs_name_a_builder_that_accepts_their_arguments(name):
    from ray.serve.schema import ServeDeploySchema

    config = serve_configs()[name]
    unknown = set(config) - set(ServeDeploySchema.model_fields)
    assert not unknown, f"{name}: {unknown}"
    for application in ServeDeploySchema.model_validate(config).applications:
        module, _, attribute = application.import_path.partition(":")
        builder = getattr(importlib.import_module(module), attribute)
        settings = importlib.import_module("serving.settings").ServeArguments
        assert inspect.signature(builder, eval_str=True).parameters["args"].annotation is settings
        settings.model_validate(application.args)


@pytest.mark.parametrize("name", ["serve.yaml", "heads-on-gpus.yaml"])
def test_every_shipped_head_is_served_and_fits_on_the_nodes_that_are_always_there(name, monkeypatch):
    settings = importlib.import_module("serving.settings").ServeArguments
    monkeypatch.chdir(ROOT)
    heads = settings.model_validate(serve_configs()[name]["applications"][0]["args"]).resolved_heads()
    assert set(heads) >= {path.parent.name for path in ROOT.glob("checkpoints/*/config.json")}
    (group,) = only("ray-service.yaml")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert sum(head.num_cpus * head.min_replicas for head in heads.values()) < group["minReplicas"] * int(
        worker["resources"]["requests"]["cpu"]
    )
    patch = yaml.safe_load((KUBERNETES / "overlays/gpu/workers-with-gpus.yaml").read_text())
    (resources,) = [step["value"] for step in patch if step["path"].endswith("/resources")]
    gpus = group["minReplicas"] * int(resources["requests"]["nvidia.com/gpu"])
    assert sum(head.num_gpus * head.min_replicas for head in heads.values()) <= gpus


def test_the_ports_of_the_service_are_those_of_the_serve_config():
    (port,) = {config["http_options"]["port"] for config in serve_configs().values()}
    service = only("ray-service.yaml")
    ports = {p["containerPort"] for c in containers(service) for p in c.get("ports", []) if p["name"] == "serve"}
    probed = {
        value["readinessProbe"]["httpGet"]["port"]
        for value in walk(service["spec"]["rayClusterConfig"]["workerGroupSpecs"])
        if isinstance(value, dict) and "readinessProbe" in value
    }
    assert ports == probed == {port}
    policy = manifest("network-policy.yaml")[0]
    assert port in {p["port"] for rule in policy["spec"]["ingress"] for p in rule.get("ports", [])}


def job_entrypoints() -> list[str]:
    patch = yaml.safe_load((KUBERNETES / "overlays/gpu/job-on-gpus.yaml").read_text())
    return [
        only("ray-job.score.yaml")["spec"]["entrypoint"],
        *[step["value"] for step in patch if step["path"] == "/spec/entrypoint"],
    ]


@pytest.mark.parametrize("entrypoint", job_entrypoints())
def test_the_entrypoint_is_a_command_line_that_the_job_accepts(entrypoint):
    from pipelines import score
    from pipelines.scoring.arguments import parser

    command, _, otherwise = entrypoint.partition(" || ")
    python, dash_m, module, *arguments = shlex.split(command)
    assert (python, dash_m, module) == ("python", "-m", "pipelines.score")
    assert otherwise.strip() == f"[ $? -eq {score.DONE_WITH_ERRORS} ]"
    parsed = parser().parse_args(arguments)
    mounts = [m["mountPath"] for c in containers(only("ray-job.score.yaml")) for m in c["volumeMounts"]]
    for path in (*parsed.input, parsed.output):
        assert path.startswith(tuple(mounts))
    shipped = Path(parsed.model).relative_to("/app")
    assert "WORKDIR /app\nCOPY checkpoints checkpoints" in (CLUSTER / "Dockerfile").read_text()
    assert shipped.parts[0] == "checkpoints"


def test_the_launcher_files_are_valid_against_the_schema_of_ray():
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    for name in ("aws.yaml", "gcp.yaml"):
        config = yaml.safe_load((CLUSTER / name).read_text())
        jsonschema.validate(config, schema)
        types = config["available_node_types"]
        assert config["head_node_type"] in types
        assert types[config["head_node_type"]]["resources"]["CPU"] == 0
        assert sum(kind["max_workers"] for kind in types.values()) >= config["max_workers"]


def ray_start_commands() -> list[tuple[str, list[str]]]:
    """Every `ray start` in the files for machines: where it stands, and its options."""
    found = []
    for file in (*CLUSTER.glob("*.yaml"), *CLUSTER.glob("*.sh"), *CLUSTER.glob("*.md")):
        text = re.sub(r"\\\n\s*", " ", file.read_text())
        text = re.sub(r">-\n((?:\s+.*\n)+?)(?=\s*-|\w)", lambda match: " ".join(match[1].split()) + "\n", text)
        for line in text.splitlines():
            if match := re.search(r'(?:^|[\s/$])ray"? start (--.*)', line):
                found.append((file.name, re.findall(r"(?<=--)[a-z][a-z-]*", match[1].partition(">")[0])))
    return found


def test_every_option_of_ray_start_exists():
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    commands = ray_start_commands()
    assert {name for name, _ in commands} >= {"aws.yaml", "gcp.yaml", "slurm.sh", "README.md"}
    for name, options in commands:
        assert set(options) <= known, name
    for document in BASE:
        for value in walk(document):
            if isinstance(value, dict) and "rayStartParams" in value:
                assert set(value["rayStartParams"]) <= known


def test_shell_scripts_parse():
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed here")
    for script in (*CLUSTER.glob("*.sh"), ROOT / ".ci" / "run"):
        checked = subprocess.run([bash, "-n", script], capture_output=True, text=True, timeout=30)
        assert checked.returncode == 0, checked.stderr
        assert script.stat().st_mode & 0o111, f"{script} is not executable"


def test_the_nodes_of_image_and_page_have_what_the_proxies_ask_for():
    settings = ["=".join(item) for item in importlib.import_module("serving.http.edge.proxy").SERVE_ENVIRONMENT.items()]
    image = (CLUSTER / "Dockerfile").read_text().split()
    assert set(settings) <= set(image)
    blocks = re.findall(r"```bash run=(head|worker)\n(.*?)```", (CLUSTER / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for _, block in blocks:
        assert set(settings) <= set(block.split())


def test_the_image_copies_what_exists_and_does_not_run_as_root():
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    stages = "\n".join(lines).split("\nFROM ")[1:]
    assert [stage.split(" AS ")[1].split("\n")[0] for stage in stages] == ["cpu", "cuda"]
    for stage in stages:
        assert re.findall(r"^USER (\S+)$", stage, re.MULTILINE)[-1] == "1000"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for line in lines:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line
                assert f"!{source}" in ignored, f"{source} does not reach the builder"
