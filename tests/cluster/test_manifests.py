"""The files in `cluster/`: valid for what reads them, and every name in them leads somewhere."""

import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
CRDS = ROOT.parent / "shared" / "kuberay-crds"
OVERLAYS = ("cpu", "gpu")
CREATED_BY_HAND = {"bigbird-ray-token", "bigbird-redis", "bigbird-api-keys"}
Document = dict[str, Any]


def manifest(name: str) -> list[Document]:
    return [document for document in yaml.safe_load_all((KUBERNETES / "base" / name).read_text()) if document]


def only(name: str) -> Document:
    (document,) = manifest(name)
    return document


BASE_FILES = [file.name for file in sorted((KUBERNETES / "base").glob("*.yaml")) if file.name != "kustomization.yaml"]
BASE = [document for name in BASE_FILES for document in manifest(name)]


@pytest.fixture(scope="module", params=["base", *OVERLAYS])
def documents(request) -> list[Document]:
    """What is applied: the files as they are, and what kustomize makes of them for each overlay."""
    if request.param == "base":
        return BASE
    kubectl, kustomize = shutil.which("kubectl"), shutil.which("kustomize")
    if not (kubectl or kustomize):
        pytest.skip("neither kubectl nor kustomize is installed here: the overlays are not built")
    command = [kustomize, "build"] if kustomize else [kubectl, "kustomize"]
    built = subprocess.run(
        [*command, KUBERNETES / "overlays" / request.param], capture_output=True, text=True, timeout=60
    )
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def walk(value: Any) -> Iterator[Any]:
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)


def pod_specs(document: Document) -> list[Document]:
    return [value["template"]["spec"] for value in walk(document) if isinstance(value, dict) and "template" in value]


def containers(document: Document) -> list[Document]:
    return [container for pod in pod_specs(document) for container in pod["containers"]]


def strict(schema: Any) -> Any:
    """The schema as an API server with strict field validation reads it: a field it does not know is an error."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # What lies under "properties" are names of fields, not keywords of a schema.
    changed = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if isinstance(schema.get("properties"), dict):
        changed["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        if schema["properties"] and not keeps_unknown:
            changed["additionalProperties"] = False
    return changed


@cache
def schema_of(kind: str) -> Document:
    text = (CRDS / f"ray.io_{kind.lower()}s.yaml").read_text()
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # a megabyte each
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    return strict(version["schema"]["openAPIV3Schema"])


def test_ray_resources_are_valid_against_the_schemas_of_kuberay(documents):
    if not CRDS.is_dir():
        pytest.skip("KubeRay's CRD schemas are not beside this checkout (../shared/kuberay-crds)")
    kinds = []
    for document in documents:
        if not document["apiVersion"].startswith("ray.io/"):
            continue
        assert document["apiVersion"] == "ray.io/v1"
        jsonschema.Draft7Validator(schema_of(document["kind"])).validate(document)
        kinds.append(document["kind"])
    assert sorted(kinds) == ["RayCluster", "RayJob", "RayService"]


def test_everything_else_and_every_pod_is_valid_against_the_schemas_of_kubernetes(documents):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="Kubernetes' schemas are not installed")
    for document in documents:
        if not document["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(document, "1.33", strict=True)
        for pod in pod_specs(document):
            wrapped = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
            kubernetes_validate.validate(wrapped, "1.33", strict=True)


def test_a_field_that_does_not_exist_would_be_found():
    """The two validators above do refuse: they are worth nothing if they accept everything."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="Kubernetes' schemas are not installed")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [], "contaners": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, "1.33", strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"a": {"c": 1}}, strict({"properties": {"a": {"properties": {"b": {"type": "string"}}}}}))


def test_the_head_schedules_and_does_no_work(documents):
    for document in documents:
        for head in [
            value["headGroupSpec"] for value in walk(document) if isinstance(value, dict) and "headGroupSpec" in value
        ]:
            assert head["rayStartParams"]["num-cpus"] == "0"


def test_every_ray_cluster_asks_for_the_token_and_scales_by_the_second_autoscaler(documents):
    specs = [
        value
        for document in documents
        for value in walk(document)
        if isinstance(value, dict) and "headGroupSpec" in value
    ]
    assert len(specs) == 3
    for spec in specs:
        assert spec["authOptions"] == {"mode": "token", "secretName": "bigbird-ray-token"}
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["autoscalerOptions"]["version"] == "v2"
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            # The second autoscaler replaces workers itself; a kubelet that restarts one would be a second opinion.
            assert group["template"]["spec"]["restartPolicy"] == "Never"


def test_no_container_runs_as_root_and_every_one_states_its_resources(documents):
    for document in documents:
        for pod in pod_specs(document):
            assert pod["securityContext"]["runAsNonRoot"] is True
        for container in containers(document):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()


def test_every_volume_secret_and_service_that_is_named_exists(documents):
    claims = {document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"}
    services = {document["metadata"]["name"] for document in documents if document["kind"] == "Service"}
    for document in documents:
        for pod in pod_specs(document):
            volumes = {volume["name"] for volume in pod.get("volumes", [])}
            mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
            owned = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
            assert mounted == volumes | owned
        for value in walk(document):
            if not isinstance(value, dict):
                continue
            if "claimName" in value:
                assert value["claimName"] in claims
            if "secretName" in value:
                assert value["secretName"] in CREATED_BY_HAND
            if "secretKeyRef" in value:
                assert value["secretKeyRef"]["name"] in CREATED_BY_HAND
            if "redisAddress" in value:
                assert value["redisAddress"].partition(":")[0] in services


def test_the_readme_creates_every_secret_with_the_keys_that_are_read():
    readme = (CLUSTER / "README.md").read_text()
    for secret in CREATED_BY_HAND:
        assert f"create secret generic {secret}" in readme
    keys = {
        (v["secretKeyRef"]["name"], v["secretKeyRef"]["key"])
        for v in walk(BASE)
        if isinstance(v, dict) and "secretKeyRef" in v
    }
    for name, key in keys | {("bigbird-ray-token", "auth_token")}:
        assert re.search(rf"create secret generic {name} [^\n]*--from-(literal|file)={key}=", readme), (name, key)


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

    command, _, otherwise = entrypoint.partition(" || ")
    python, dash_m, module, *arguments = shlex.split(command)
    assert (python, dash_m, module) == ("python", "-m", "pipelines.score")
    assert otherwise.strip() == f"[ $? -eq {score.DONE_WITH_ERRORS} ]"
    parsed = score._parser().parse_args(arguments)
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
    (setting,) = importlib.import_module("serving.http.proxy").PROXY_CALLBACK.items()
    assert "=".join(setting) in (CLUSTER / "Dockerfile").read_text()
    blocks = re.findall(r"```bash run=(head|worker)\n(.*?)```", (CLUSTER / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for _, block in blocks:
        assert f"export {'='.join(setting)}\n" in block


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
