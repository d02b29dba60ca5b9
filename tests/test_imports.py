"""Who may import whom, and what an import may do: the directions of ARCHITECTURE.md, asserted in a fresh process."""

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bigbird", "pipelines", "serving", "batch_job")
APPLICATION_LIBRARIES = {"ray", "pyarrow", "fastapi", "starlette", "uvicorn", "pydantic", "pandas"}
# Asked for by some and never needed to import: a hub id, an old vocabulary file, the oracle of the tests.
OPTIONAL_LIBRARIES = {"transformers", "huggingface_hub", "sentencepiece"}


def modules_of(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def loaded_by(modules: list[str]) -> dict[str, object]:
    """What a fresh interpreter holds after importing `modules`: module names, threads, connections and the rest."""
    watch = """
import json, os, sys, threading
seen = {"connections": [], "written": [], "processes": []}
def hook(event, args):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
        seen["connections"].append(event)
    elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        seen["written"].append(str(args[0]))
    elif event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.fork"):
        seen["processes"].append(str(args))
import numpy, torch
if any(name.startswith(("pipelines", "serving", "batch_job")) for name in sys.argv[1:]):
    import fastapi, pyarrow, ray, ray.data, ray.serve  # what others do at import is theirs
before = set(sys.modules)
threads = threading.active_count()
environment = dict(os.environ)
state = torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype(), torch.random.initial_seed()
sys.addaudithook(hook)
for name in sys.argv[1:]:
    __import__(name)
after = torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype(), torch.random.initial_seed()
print(json.dumps(seen | {
    "modules": sorted(set(sys.modules) - before),
    "new_threads": threading.active_count() - threads,
    "environment_changed": environment != dict(os.environ),
    "torch_changed": state != after,
    "ray_started": "ray" in sys.modules and sys.modules["ray"].is_initialized(),
}))
"""
    process = subprocess.run(
        [sys.executable, "-B", "-c", watch, *modules],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def top_level(modules: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_library_imports_neither_cluster_nor_arrow_nor_http_nor_the_applications():
    library = loaded_by(modules_of("bigbird"))
    loaded = top_level(library["modules"])
    assert not loaded & (APPLICATION_LIBRARIES | OPTIONAL_LIBRARIES | {"pipelines", "serving", "batch_job"})


@pytest.mark.parametrize(("application", "other"), [("pipelines", "serving"), ("serving", "pipelines")])
def test_the_applications_never_import_each_other(application, other):
    loaded = top_level(loaded_by(modules_of(application))["modules"])
    assert not loaded & {other, "batch_job"}
    assert not loaded & OPTIONAL_LIBRARIES


def test_nothing_happens_at_import():
    everything = loaded_by([name for package in PACKAGES for name in modules_of(package)])
    del everything["modules"]
    assert everything == {
        "connections": [],
        "written": [],
        "processes": [],
        "new_threads": 0,
        "environment_changed": False,
        "torch_changed": False,
        "ray_started": False,
    }


@pytest.mark.parametrize("package", ["bigbird", "bigbird.predictors"])
def test_the_public_names_are_those_that_type_checkers_see(package):
    stub = ast.parse((ROOT / package.replace(".", "/") / "__init__.pyi").read_text())
    places = {alias.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    others = [node for node in stub.body if isinstance(node, ast.Assign)]
    for node in others:
        for target in node.targets:
            if target.id != "__all__":
                places[target.id] = places[node.value.id]
    (listed,) = (ast.literal_eval(node.value) for node in others if node.targets[0].id == "__all__")
    module = importlib.import_module(package)
    assert sorted(places) == sorted(listed) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for name, place in places.items():
        found = getattr(module, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert found.__module__.startswith(place)
        assert name not in vars(sys.modules[place]) or getattr(sys.modules[place], name) is found


def test_what_does_not_compute_waits_for_no_torch_and_what_computes_for_no_compiler(tiny_checkpoint):
    from bigbird import BigBirdForTokenClassification

    model = tiny_checkpoint(BigBirdForTokenClassification)
    program = f"""
import sys
import bigbird.config, bigbird.errors, bigbird.loading.hub
import batch_job.run, bigbird.predictors, bigbird.tokenization.tokenizer, pipelines.score
pipelines.score.inspect_model("token-classification", {str(model)!r})
assert "torch" not in sys.modules
import bigbird
assert bigbird.load_predictor("token-classification", {str(model)!r})(["a text"])[0]["num_tokens"]
assert not {{"torch._dynamo", "torch._inductor", "sympy"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def environment_reads(tree: ast.Module) -> list[int]:
    """Lines outside of functions that name the environment: read at import, they cannot be changed afterwards."""
    lines = []
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}:
            lines.append(node.lineno)
        pending.extend(ast.iter_child_nodes(node))
    return lines


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_reads_the_environment_at_import(package):
    found = {
        str(file.relative_to(ROOT)): lines
        for file in (ROOT / package).rglob("*.py")
        if (lines := environment_reads(ast.parse(file.read_text())))
    }
    assert found == {}


# Lower layers first: a room imports from its own layer or from below, wherever in the file the import stands.
LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "bigbird": (
        (
            "errors",
            "outputs",
            "lazy_names",
            "not_offered",
            "config_values",
            "dropout",
            "loading.hub",
            "loading.remote",
            "loading.keywords",
        ),
        ("config",),
        ("packing", "compiled", "attention", "linear"),
        ("layers",),
        ("module",),
        ("loading",),
        ("model", "tokenization"),
        ("head_layers", "generation"),
        ("heads",),
        ("checkpoint", "inference"),
        ("predictors",),
    ),
    "pipelines": (
        ("ray_cluster", "command_line", "scoring.storage"),
        ("scoring.inputs",),
        ("scoring.schemas",),
        ("scoring.ledger",),
        ("scoring.report", "scoring.checks", "scoring.scores", "scoring.ids", "finetuning"),
        ("scoring.actors",),
        ("scoring.plan", "scoring.progress", "scoring.failures"),
        ("scoring.work", "scoring.proof"),
        ("scoring.arguments",),
        ("scoring.estimate",),
        ("scoring.job",),
        ("score", "finetune", "corpus"),
    ),
    "serving": (
        ("errors", "names", "otlp", "texts", "versions", "batches.arguments"),
        ("settings",),
        ("replicas", "batches"),
        ("http.answers", "http.limits", "http.metrics", "http.error_response", "http.routing"),
        ("http.error_handlers", "http.edge", "http.probes"),
        ("http.apis", "rpc"),
        ("http.gateway",),
        ("http.deployment",),
        ("preflight", "stopping"),
        ("app",),
    ),
    "batch_job": (
        ("lines", "watch"),
        ("endpoint",),
        ("groups",),
        ("run",),
        ("__main__",),
    ),
}


def layer_of(package: str, module: str) -> int | None:
    """The layer of a module's room, None where the module is the package itself or a room without code of its own."""
    for number, rooms in enumerate(LAYERS[package]):
        if any(f"{module}.".startswith(f"{package}.{room}.") for room in rooms):
            return number
    return None


def imported_modules(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_inside_a_package_imports_only_point_downward(package):
    upward = []
    for file in sorted((ROOT / package).rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if file.name == "__init__.py" and layer_of(package, module.removesuffix(".__init__")) is None:
            continue
        layer = layer_of(package, module)
        assert layer is not None, f"{module} has no place among LAYERS: give it one"
        for imported in imported_modules(file):
            below = layer_of(package, imported) if imported.startswith(f"{package}.") else None
            if below is not None and below > layer:
                upward.append(f"{file.relative_to(ROOT)} imports {imported}")
    assert upward == []


def test_no_import_hides_behind_type_checking():
    hiding = [
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if "TYPE_CHECKING" in file.read_text()
    ]
    assert hiding == []
