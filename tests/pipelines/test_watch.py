"""pipelines.scoring.actors.watch: which row kills its process."""

from pipelines.scoring.actors.watch import WatchState, split_windows


def test_a_killing_row_is_found_by_unit_window_and_row():
    watch = WatchState()
    assert watch.begin("u").deaths == 0  # dies somewhere
    assert watch.begin("u").suspects == ()
    watch.enter("u", 0, 8)
    watch.enter("u", 8, 16)  # dies in here
    verdict = watch.begin("u")
    assert verdict.suspects == ((8, 16),)
    windows = split_windows([(0, 8), (8, 16)], verdict.suspects)
    assert windows == [(0, 8), *((row, row + 1) for row in range(8, 16))]
    for _ in range(2):
        watch.enter("u", 11, 12)
        verdict = watch.begin("u")
    assert verdict.marked == {11}
    watch.finish("u")
    assert watch.begin("u").deaths == 0


def test_a_watch_that_was_killed_itself_goes_on_with_what_it_hears():
    watch = WatchState()
    watch.enter("u", 8, 16)
    assert watch.begin("u").suspects == ((8, 16),)
