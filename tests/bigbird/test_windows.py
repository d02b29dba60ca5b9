"""Windows over long documents: cut, kept, stitched."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbird.errors import InputError
from bigbird.predictors.options import LengthOptions
from bigbird.predictors.windows import cut, cut_document, stitch


@st.composite
def documents(draw):
    room = draw(st.integers(1, 80))
    return draw(st.integers(1, 500)), room, draw(st.integers(0, room - 1))


@given(documents())
def test_every_token_is_kept_by_exactly_one_window(document):
    windows = cut(*document)
    kept = [token for window in windows for token in range(window.keep_start, window.keep_stop)]
    assert kept == list(range(document[0]))


@given(documents())
def test_windows_fit_are_equally_long_and_overlap_as_asked(document):
    num_tokens, room, overlap = document
    windows = cut(num_tokens, room, overlap)
    assert {len(window) for window in windows} == {len(windows[0])}
    assert len(windows[0]) <= room
    assert (windows[0].start, windows[-1].stop) == (0, num_tokens)
    for left, right in pairwise(windows):
        assert left.start < right.start
        assert left.stop - right.start >= overlap
    fewest = 1 if num_tokens <= room else -(-(num_tokens - overlap) // (room - overlap))
    assert len(windows) == fewest


@given(documents())
def test_a_token_is_kept_by_the_window_with_most_context(document):
    windows = cut(*document)

    def context(window, token):
        left = np.inf if window.start == 0 else token - window.start
        right = np.inf if window.stop == document[0] else window.stop - 1 - token
        return min(left, right)

    for window in windows:
        for token in range(window.keep_start, window.keep_stop):
            assert window.start <= token < window.stop
            rivals = [other for other in windows if other.start <= token < other.stop]
            assert context(window, token) == max(context(other, token) for other in rivals)


@given(documents())
def test_stitching_gives_each_token_the_value_of_the_window_that_keeps_it(document):
    windows = cut(*document)
    arrays = [
        np.stack([np.arange(window.start, window.stop), np.full(len(window), index)], axis=1)
        for index, window in enumerate(windows)
    ]
    stitched = stitch(windows, arrays)
    assert stitched[:, 0].tolist() == list(range(document[0]))
    for index, window in enumerate(windows):
        assert (stitched[window.keep_start : window.keep_stop, 1] == index).all()


@pytest.mark.parametrize("case", [(0, 5, 0), (5, 0, 0), (9, 5, 5), (9, 5, -1)])
def test_impossible_cuts_are_refused(case):
    with pytest.raises(ValueError, match="cannot cut"):
        cut(*case)


def test_on_long_decides_what_happens_beyond_one_window():
    windows, truncated = cut_document(25, 10, LengthOptions(window_overlap=4), what="text")
    assert not truncated
    assert windows[-1].stop == 25
    windows, truncated = cut_document(25, 10, LengthOptions(on_long="truncate"), what="text")
    assert truncated
    assert [(window.start, window.stop) for window in windows] == [(0, 10)]
    with pytest.raises(InputError, match=r"text has 25 tokens, more than the 10 .*on_long"):
        cut_document(25, 10, LengthOptions(on_long="error"), what="text")


@pytest.mark.parametrize("on_long", ["window", "truncate", "error"])
def test_a_document_that_fits_is_one_window_whatever_on_long_says(on_long):
    windows, truncated = cut_document(10, 10, LengthOptions(on_long=on_long, window_overlap=9), what="text")
    assert len(windows) == 1
    assert not truncated


def test_more_than_half_a_window_of_overlap_is_refused_by_name():
    with pytest.raises(InputError, match="window_overlap is 6, more than half of the 10"):
        cut_document(25, 10, LengthOptions(window_overlap=6), what="text")


def test_no_room_is_refused_by_name():
    with pytest.raises(InputError, match=r"context: .*no room"):
        cut_document(25, 0, LengthOptions(), what="context")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("on_long", "cut"),
        ("window_overlap", -1),
        ("window_overlap", 1.5),
        ("max_length", 0),
        ("max_tokens_per_document", True),
    ],
)
def test_options_out_of_range_name_the_option_and_the_value(name, value):
    with pytest.raises(InputError, match=f"{name} is {value!r}"):
        LengthOptions(**{name: value})


def test_a_max_length_beyond_the_model_is_refused():
    assert LengthOptions().length_limit(512) == 512
    assert LengthOptions(max_length=100).length_limit(512) == 100
    with pytest.raises(InputError, match="max_length is 513, but the model reads at most 512"):
        LengthOptions(max_length=513).length_limit(512)
