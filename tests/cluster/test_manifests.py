"""The files in `cluster/`: valid for what reads them, and every name in them leads somewhere."""

import re
import shutil
import subprocess
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml
from manifests import BASE, CLUSTER, KUBERNETES, ROOT, Document, containers, pod_specs, walk

CRDS = ROOT.parent / "shared" / "kuberay-crds"
OVERLAYS = ("cpu", "gpu")
CREATED_BY_HAND = {"bigbird-ray-token", "bigbird-redis", "bigbird-api-keys"}


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


def test_a_pod_that_serves_is_drained_before_it_gets_a_signal(documents):
    (service,) = (document for document in documents if document["kind"] == "RayService")
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"][-1]
    deadline_s = int(re.search(r"ray drain-node .*--deadline-remaining-seconds=(\d+)", command)[1])
    waits_s = int(re.search(r"sleep (\d+)", command)[1])
    # What a head and the gateway have to answer what they accepted.
    assert 60 < waits_s < deadline_s < pod["terminationGracePeriodSeconds"]


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
