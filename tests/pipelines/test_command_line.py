"""The commands as a person meets them: help, names, refusals in one form, schemas, every option."""

import contextlib
import dataclasses
import re
import signal
import sys
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigbird.errors import InputError
from bigbird.predictors import OPTIONS
from pipelines import corpus, finetune, score
from pipelines.scoring.arguments import job_of, parser

VERIFY = "bigbird-score verify"
COMMANDS = {
    "bigbird-score": score.main,
    VERIFY: lambda argv: score.main(["verify", *argv]),
    "bigbird-finetune": finetune.main,
    "python -m pipelines.corpus": corpus.main,
}


def ended(main, argv):
    """The exit status, also where argparse ends the process."""
    with contextlib.suppress(SystemExit):
        return main(argv)
    with pytest.raises(SystemExit) as end:
        main(argv)
    return end.value.code


def help_of(main, capsys):
    capsys.readouterr()
    assert ended(main, ["--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("prog", "main"), COMMANDS.items())
def test_help_names_the_command_and_says_something_of_each_option(prog, main, capsys):
    text = help_of(main, capsys)
    assert text.startswith(f"usage: {prog} ")
    flags = re.findall(r"^  (?:-h, )?(--[a-z-]+)(.*(?:\n {10,}.*)*)", text, re.MULTILINE)
    assert len(flags) > 2
    for flag, told in flags:
        assert re.search(r"(  |\n +)\S", told), f"{flag} is not explained"


@pytest.mark.parametrize("main", [score.main, finetune.main])
def test_help_has_examples_and_every_exit_code(main, capsys):
    text = help_of(main, capsys)
    assert "examples:\n  bigbird-" in text
    codes = dict(re.findall(r"^  (\d)  (.*)", text.partition("exit codes:")[2], re.MULTILINE))
    assert codes.keys() == ({"0", "1", "2", "3"} if main is score.main else {"0", "1", "2"})


@pytest.mark.parametrize("task", OPTIONS)
def test_help_lists_the_options_of_each_task_with_type_and_default(task, capsys):
    told = help_of(score.main, capsys).partition("options of the tasks")[2]
    common, *rest = re.split(r"^  (\S.*)\n", told, flags=re.MULTILINE)[2:]
    own = dict(zip(rest[::2], rest[1::2], strict=True))[task]
    lines = own if task == "text-generation" else common + own
    found = dict(re.findall(r"^    (\w+)=\S+ \(default: (.*)\)$", lines, re.MULTILINE))
    assert found.keys() == {field.name for field in dataclasses.fields(OPTIONS[task])}
    for field in dataclasses.fields(OPTIONS[task]):
        if type(field.default) in (int, float, str):
            assert found[field.name] == str(field.default)


@pytest.mark.parametrize(("prog", "main"), COMMANDS.items())
def test_what_is_refused_is_said_in_one_line_that_names_the_command(prog, main, capsys, tmp_path):
    refused = {
        score.main: ["--task", "fill-mask", "--model", "m", "--input", "/no/where", "--output", str(tmp_path / "out")],
        finetune.main: [
            *("--task", "masked-lm", "--model", "/no/where", "--train", "t", "--eval", "e"),
            *("--output", str(tmp_path / "out")),
        ],
        COMMANDS[VERIFY]: ["/no/where", "--sample", "1"],
        corpus.main: ["--files", str(tmp_path / "*.none"), str(tmp_path / "out.parquet")],
    }
    for argv in ([], ["--outptu", "x"], refused[main]):
        assert ended(main, argv) == 2
        (line,) = set(capsys.readouterr().err.splitlines())
        assert line.startswith((f"{prog}: ", "bigbird-score: "))


def test_an_unknown_option_is_refused_with_the_nearest_known_one(capsys):
    assert ended(score.main, ["--task", "fill-mask", "--num-actor", "2"]) == 2
    assert "--num-actor is not known; did you mean --num-actors?" in capsys.readouterr().err


@pytest.mark.parametrize("main", [score.main, finetune.main])
def test_a_value_that_is_empty_or_no_text_is_refused_by_name(main, capsys):
    whole = {"--task": "masked-lm-scoring" if main is score.main else "masked-lm", "--model": "m", "--output": "out"}
    whole |= {"--input": "i"} if main is score.main else {"--train": "t", "--eval": "e"}
    for flag in whole.keys() - {"--task"}:
        assert ended(main, [word for pair in (whole | {flag: ""}).items() for word in pair]) == 2
        assert f"{flag} is empty" in capsys.readouterr().err
    for value in ("\udcff", "a\0b"):
        assert ended(main, [word for pair in (whole | {"--output": value}).items() for word in pair]) == 2
        assert f"{value!r} is no text" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "step"), [(score, "_run"), (finetune, "finetune")])
def test_ctrl_c_and_sigterm_stop_a_command_and_any_other_exit_is_one(module, step, monkeypatch, capsys):
    typed = "--task masked-lm-scoring --model m --input i --output o"
    typed = typed if module is score else "--task masked-lm --model m --train t --eval e --output o"
    for error, status in ((KeyboardInterrupt(), 1), (SystemExit(signal.SIGTERM), 1), (SystemExit(5), 5)):
        monkeypatch.setattr(module, step, Mock(side_effect=error))
        assert ended(module.main, typed.split()) == status
        stopped = f"{module.PROG}: stopped; start it again with the same command to continue\n"
        assert capsys.readouterr().err == (stopped if status == 1 else "")


def test_the_schema_of_an_input_is_printed_whole_and_what_a_job_would_refuse_of_it_is_refused(tmp_path, capsys):
    table = pa.table({"id": pa.array([1], pa.int32()), "text": ["a"], "nll": [0.5], "n": [[1]]})
    pq.write_table(table, tmp_path / "in.parquet")
    ask = ["--task", "masked-lm-scoring", "--print-schema", "--input", str(tmp_path / "in.parquet")]
    assert score.main([*ask, "--prefix", "lm_"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:5] == ["id: int32", "text: string", "nll: double", "n: list<element: int64>", "lm_nll: double"]
    assert score.main([*ask, "--columns", "id", "--option", "return_tokens=true"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["id: int32", "nll: double"]
    assert score.main([*ask, "--columns", "--id-column", "id"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["id: int32", "nll: double"]
    assert score.main([*ask[:3], "--columns", "id"]) == 2
    assert "--columns is of the input: give --input as well" in capsys.readouterr().err
    for more, message in (
        ([], "input columns 'nll' have the names of columns the job writes"),
        (["--columns", "ids"], "columns 'ids' are not in the input; its columns are id, text, nll, n"),
        (["--columns", "id", "--text-column", "body"], "column 'body' is not in the input"),
        (["--columns", "text", "--text-column", "id"], "column 'id' has type int32; expected string"),
        (["--columns", "id", "--option", "return_token=true"], "option 'return_token=true'"),
        (["--columns", "id", "--limit", "0"], "limit is 0, expected at least 1"),
        (["--columns", "id", "--id-column", "ids"], "'ids' are not in the input"),
        (["--prefix", "lm_", "--id-column", "n"], "id column 'n' has type list"),
    ):
        assert score.main([*ask, *more]) == 2
        assert message in capsys.readouterr().err


def test_only_one_thing_is_done_instead_of_scoring_and_what_it_has_no_use_for_is_refused(tmp_path, capsys):
    assert ended(score.main, ["--report-only", "--print-schema"]) == 2
    assert "not allowed with" in capsys.readouterr().err
    assert ended(score.main, ["--report-only"]) == 2
    assert "--output is required" in capsys.readouterr().err
    for typed in ("--limit 3", "--overwrite", "--score a=fill-mask:m", "--option top_k=3", "--dtype int8"):
        assert ended(score.main, ["--report-only", "--output", "out", *typed.split()]) == 2
        assert f"{typed.split()[0]} does nothing with --report-only" in capsys.readouterr().err
    assert ended(score.main, ["--report-only", "--output", str(tmp_path), "--price-per-hour", "-5"]) == 2
    assert "price_per_hour is -5.0, expected at least 0" in capsys.readouterr().err
    assert ended(score.main, ["--quiet", "--verbose"]) == 2


def test_the_installed_commands_are_those_of_the_modules():
    for name, module in (("bigbird-score", "pipelines.score"), ("bigbird-finetune", "pipelines.finetune")):
        command = Path(sys.executable).with_name(name)
        if not command.exists():
            pytest.skip(f"{name} is not installed here")
        assert f"from {module} import main" in command.read_text()


SCORING = ["--task", "text-classification", "--model", "m", "--input", "in", "--output", "out"]
OF_SCORING = {
    "--input a.parquet b.parquet": ("inputs", ["a.parquet", "b.parquet"]),
    "--text-column body": ("options.columns.text", "body"),
    "--text-pair-column other": ("options.columns.text_pair", "other"),
    "--task question-answering --question-column q": ("options.columns.question", "q"),
    "--task question-answering --context-column c": ("options.columns.context", "c"),
    "--task text-generation --prompt-column p": ("options.columns.prompt", "p"),
    "--task multiple-choice --choices-column options": ("options.columns.choices", "options"),
    "--columns a b": ("keep", ["a", "b"]),
    "--id-column id": ("id_column", "id"),
    "--prefix tc_": ("options.prefix", "tc_"),
    "--option top_k=2 --option combine=max": (
        "options.task_options",
        OPTIONS["text-classification"](top_k=2, combine="max"),
    ),
    "--dtype int8": ("options.dtype", "int8"),
    "--limit 7": ("limit", 7),
    "--overwrite": ("overwrite", True),
    "--max-error-share 0.5": ("max_error_share", 0.5),
    "--target-file-size 1.5K": ("unit_bytes", 1536),
    "--report-documents 2": ("report_documents", 2),
    "--price-per-hour 1.25": ("price_per_hour", 1.25),
    "--num-actors 3": ("options.num_actors", 3),
    "--min-actors 2 --max-actors 5": ("options.max_actors", 5),
    "--num-cpus-per-actor 1.5": ("options.num_cpus_per_actor", 1.5),
    "--num-gpus-per-actor 0.25": ("options.num_gpus_per_actor", 0.25),
    "--num-tokenizers 4": ("options.num_tokenizers", 4),
    "--max-tokens-per-batch 999": ("options.max_tokens_per_batch", 999),
}
TRIED_BY_RUNNING = {
    "--task",
    "--model",
    "--output",
    "--score",
    "--quiet",
    "--verbose",
    "--dry-run",
    "--estimate",
    "--report-only",
    "--print-schema",
}

TUNING = ["--task", "masked-lm", "--model", "m", "--train", "t", "--eval", "e", "--output", "out"]
OF_TUNING = {
    "--max-length 64": ("max_length", 64),
    "--scheme io": ("scheme", "io"),
    "--num-workers 2": ("num_workers", 2),
    "--use-gpu": ("use_gpu", True),
    "--cpus-per-worker 3": ("cpus_per_worker", 3),
    "--save-every 5": ("save_every", 5),
    "--evaluate-every 6": ("evaluate_every", 6),
    "--patience 2": ("patience", 2),
    "--load-best": ("load_best", True),
    "--load-best --metric-for-best-model f1": ("metric_for_best_model", "f1"),
    "--max-failures 9": ("max_failures", 9),
    "--epochs 2.5": ("options.epochs", 2.5),
    "--learning-rate 0.01": ("options.learning_rate", 0.01),
    "--lr-scheduler cosine": ("options.lr_scheduler", "cosine"),
    "--warmup 0.25": ("options.warmup", 0.25),
    "--warmup-steps 8": ("options.warmup_steps", 8),
    "--weight-decay 0.5": ("options.weight_decay", 0.5),
    "--max-grad-norm 2.0": ("options.max_grad_norm", 2.0),
    "--tokens-per-step 512": ("options.tokens_per_step", 512),
    "--max-tokens-per-batch 256": ("options.max_tokens_per_batch", 256),
    "--mask-share 0.3": ("options.mask_share", 0.3),
    "--seed 11": ("options.seed", 11),
    "--dtype bfloat16": ("options.dtype", "bfloat16"),
    "--gradient-checkpointing": ("options.gradient_checkpointing", True),
    "--freeze-encoder": ("options.freeze_encoder", True),
}


def changed(given, default, path=""):
    """The fields in which two options differ, at any depth, with the value given."""
    found = {}
    for field in dataclasses.fields(given):
        one, other = getattr(given, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(one) and type(one) is type(other) and field.name != "task_options":
            found |= changed(one, other, f"{path}{field.name}.")
        elif one != other:
            found[f"{path}{field.name}"] = one
    return found


@pytest.mark.parametrize(("typed", "expected"), OF_SCORING.items())
def test_an_option_of_scoring_sets_its_field(typed, expected):
    default, given = (job_of(parser().parse_args([*SCORING, *more])) for more in ([], typed.split()))
    found = changed(given, default)
    assert found.pop(expected[0]) == expected[1]
    if "--task" in typed:
        del found["task"], found["options.task_options"]
    assert found == (
        {"options.min_actors": 2} if "--min" in typed else {"options.dtype": "bfloat16"} if "gpus" in typed else {}
    )


@pytest.mark.parametrize(("typed", "expected"), OF_TUNING.items())
def test_an_option_of_fine_tuning_sets_its_field(typed, expected):
    default, given = (finetune.parse([*TUNING, *more]) for more in ([], typed.split()))
    assert changed(given, default) == {**({"load_best": True} if "--load-best" in typed else {}), **dict([expected])}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--question-column q", "--question-column is not read by text-classification"),
        ("--task text-generation --text-column t", "--text-column is not read by text-generation"),
        ("--num-gpus-per-actor 1.5", "num_gpus_per_actor is 1.5, expected 0, 0.01 to 1, or a whole number"),
        ("--num-gpus-per-actor 1e-12", "num_gpus_per_actor is 1e-12, expected 0, 0.01 to 1, or a whole number"),
        ("--num-cpus-per-actor nan", "num_cpus_per_actor is nan, expected at least 0.01"),
        ("--num-cpus-per-actor 1e-9", "num_cpus_per_actor is 1e-09, expected at least 0.01"),
        ("--target-file-size 0.0001K", "size '0.0001K': expected a number"),
        (f"--target-file-size {'9' * 400}G", "expected a number with K, M or G"),
        ("--price-per-hour inf", "price_per_hour is inf, expected at least 0"),
        ("--num-tokenizers -1", "num_tokenizers is -1, expected at least 0"),
    ],
)
def test_an_option_that_could_not_be_applied_is_refused_by_name(typed, message):
    with pytest.raises(InputError, match=re.escape(message)):
        job_of(parser().parse_args([*SCORING, *typed.split()]))


def test_no_option_is_without_a_test(capsys):
    for main, tried in (
        (score.main, {*TRIED_BY_RUNNING, *" ".join(OF_SCORING).split()}),
        (finetune.main, {*TUNING, *" ".join(OF_TUNING).split()}),
    ):
        flags = re.findall(r"^  (--[a-z-]+)", help_of(main, capsys).partition("\nexamples:")[0], re.MULTILINE)
        assert set(flags) <= tried
