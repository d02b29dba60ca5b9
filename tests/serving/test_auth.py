"""serving.http.edge.auth: where keys come from, that they are read again, and what each may use."""

import os

import pytest

from serving.errors import ServingError
from serving.http.edge.auth import ApiKeys


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_keys_come_from_file_and_environment_and_are_never_shown(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("# ours\nalpha\n\n beta \n")
    monkeypatch.setenv("SOME_KEYS", "gamma, delta")
    keys = ApiKeys.load(file=str(file), environment_variable="SOME_KEYS")
    asked = ("alpha", "beta", "gamma", "delta", "", "# ours", "alpha\udcff")
    assert [key for key in asked if keys.find(key)] == ["alpha", "beta", "gamma", "delta"]
    assert not keys.find(None)
    assert "alpha" not in repr(keys) + repr(vars(keys))


def test_a_source_of_keys_without_keys_is_an_error(tmp_path, monkeypatch):
    empty = tmp_path / "keys"
    empty.write_text("# nothing\n")
    monkeypatch.delenv("SOME_KEYS", raising=False)
    with pytest.raises(ValueError, match="holds no key"):
        ApiKeys.load(file=str(empty))
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        ApiKeys.load(file=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="SOME_KEYS holds no API key"):
        ApiKeys.load(environment_variable="SOME_KEYS")


@pytest.mark.parametrize("line", ["requests_per_s=5", "tokens_per_min=5 secret"])
def test_a_limit_without_a_key_is_not_taken_for_one(line):
    with pytest.raises(ValueError, match="line 1: a limit without a key"):
        ApiKeys([line])


@pytest.mark.parametrize(
    "line",
    [
        "secret requests_per_s=0",
        "secret tokens_per_min=x",
        "secret requests=3",
        "sec ret",
        "secret requests_per_s=1 requests_per_s=2",
    ],
)
def test_a_limit_that_is_none_is_refused_without_showing_the_key(line):
    with pytest.raises(ValueError, match="requests_per_s=N") as caught:
        ApiKeys([line])
    assert "sec" not in str(caught.value)


def test_the_file_is_read_again_once_it_changes_and_a_broken_one_changes_nothing(tmp_path):
    clock = Clock()
    file = tmp_path / "keys"
    file.write_text("first\n")
    keys = ApiKeys([], file=file, clock=clock)

    def looked() -> list[str]:
        clock.now += 2.0
        return [key for key in ("first", "second", "sec") if keys.find(key)]

    def accepted(text: str | bytes | None) -> list[str]:
        before = looked()
        if text is None:
            file.unlink()
        else:
            new = tmp_path / "new"
            new.write_bytes(text.encode() if isinstance(text, str) else text)
            os.replace(new, file)
        assert looked() == before, "it may not be whole yet"
        return looked()

    assert accepted("first\nsecond\n") == ["first", "second"]
    assert accepted("second\n") == ["second"]
    assert accepted("") == ["second"], "an emptied file must not open the server"
    assert accepted(b"first\n\xff\xfe\n") == ["second"]
    assert accepted("first\nfirst requests_per_s=1\n") == ["second"], "which of the two was meant?"
    assert accepted("second tokens_per_min=-1\n") == ["second"]
    assert accepted(None) == ["second"]
    assert accepted("first\n") == ["first"]
    file.write_text("first\nsec")
    assert looked() == ["first"]
    file.write_text("first\nsecond\n")
    assert looked() == ["first"]
    assert looked() == ["first", "second"]


@pytest.mark.parametrize("content", ["\ufeffschlüssel\r\nother\r\n", "schlüssel\nother"])
def test_a_key_is_the_bytes_that_a_client_sends_whatever_editor_wrote_the_file(tmp_path, content):
    file = tmp_path / "keys"
    file.write_bytes(content.encode())
    keys = ApiKeys.load(file=str(file))
    assert keys.find("schlüssel".encode().decode("latin-1")), "as Starlette reads a header"
    assert keys.find("other")
    assert not keys.find("schlüssel")


def test_a_key_has_its_own_requests_a_second():
    clock = Clock()
    keys = ApiKeys(["slow requests_per_s=2", "fast"], clock=clock)
    for _ in range(2):
        keys.find("slow").begin()
    with pytest.raises(ServingError, match="requests_per_s, which is 2") as caught:
        keys.find("slow").begin()
    assert (caught.value.kind, 0 < caught.value.retry_after_s <= 1) == ("overloaded", True)
    keys.find("fast").begin()
    clock.now += 0.6
    keys.find("slow").begin()


def test_a_key_has_its_own_tokens_a_minute_and_keeps_its_debt_when_the_file_is_read_again(tmp_path):
    clock = Clock()
    file = tmp_path / "keys"
    file.write_text("small tokens_per_min=600\n")
    keys = ApiKeys([], file=file, clock=clock)
    keys.find("small").begin()
    keys.find("small").end(1200)
    file.write_text("small tokens_per_min=600\nother\n")
    clock.now += 15.0
    assert not keys.find("other")
    clock.now += 15.0
    assert keys.find("other")
    with pytest.raises(ServingError, match="tokens_per_min, which is 600"):
        keys.find("small").begin()
    clock.now += 31.0
    keys.find("small").begin()
