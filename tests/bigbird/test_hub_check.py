"""`make hub-check` without a network: the script against a copy of the hub's cache, as huggingface_hub lays it out."""

import os
import sys
from pathlib import Path

import pytest
from commands import run

from bigbird import BigBirdConfig, BigBirdForPreTraining, BigBirdForQuestionAnswering, BigBirdTokenizer

pytest.importorskip("transformers", reason="needs the extra named parity")
pytest.importorskip("huggingface_hub", reason="needs the extra named hub")

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache, hub_id, directory):
    """A directory's files where a download of the hub would have put them."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "refs", repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(directory.iterdir())):
        (repository / "blobs" / f"{number:040x}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number:040x}")


def test_the_script_compares_published_checkpoints_from_the_hubs_cache(tiny_checkpoint, tiny_tokenizer_dir, tmp_path):
    classes = {"some/pretrained": BigBirdForPreTraining, "some/answers": BigBirdForQuestionAnswering}
    for hub_id, cls in classes.items():
        directory = tiny_checkpoint(cls, max_position_embeddings=2048)
        BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir).save_pretrained(directory)
        cached(tmp_path / "hub", hub_id, directory)
    # Attention to other blocks, of which transformers knows nothing.
    config = BigBirdConfig.from_pretrained(directory, random_attention="seeded")
    config.save_pretrained(directory)
    cached(tmp_path / "hub", "some/different", directory)
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_CACHE", "HF_HOME")}
    environment |= {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    script = str(ROOT / "tests" / "support" / "hub_check.py")
    with pytest.raises(pytest.fail.Exception, match="ended with 1") as ended:
        run([sys.executable, script, *classes, "some/different", "some/missing"], env=environment)
    said = str(ended.value)
    assert "some/pretrained: ok: BigBirdForPreTraining, 1500 tokens" in said
    assert "some/answers: ok: BigBirdForQuestionAnswering, 1500 tokens" in said
    assert "some/different: DIFFERS: BigBirdForQuestionAnswering" in said
    assert "some/missing: FAILED: CheckpointError" in said
