"""Progress is true: it counts what is done, its time left is steady, and short work says nothing."""

import collections
import contextlib
import fcntl
import io
import os
import struct
import termios

import pytest

from gz_jax.runtime import progress
from gz_jax.runtime.progress import Bar
from gz_jax.training import dispatch


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def bar(clock, total=None, unit="", **options):
    """A bar in a log file, without a thread; and the file."""
    file = io.StringIO()
    return Bar("work", total, unit, file=file, clock=clock, beat=None, **options), file


def test_work_that_ends_within_seconds_says_nothing():
    clock = Clock()
    shown, file = bar(clock, 10, "images")
    with shown:
        for _ in range(10):
            clock.now += 0.49
            shown.advance()
    assert file.getvalue() == ""


def test_a_log_file_gets_a_line_after_5_seconds_and_then_every_30():
    clock = Clock()
    shown, file = bar(clock, 10, "images")
    with shown:
        for _ in range(10):
            clock.now += 8
            shown.advance()
    assert file.getvalue().splitlines() == [
        "work: 1/10 images, 8 s so far",
        "work: 5/10 images, 0.12 images/s, 40 s left",
        "work: 9/10 images, 0.12 images/s, 8 s left",
        "work: done in 80 s",
    ]


def test_a_long_part_is_told_of_while_it_goes_on():
    clock = Clock()
    shown, file = bar(clock, 4, "batches", waiting="compiling the first step")
    for seconds in (2, 3, 20, 11):
        clock.now += seconds
        shown.tick()
    words = "work: 0/4 batches, compiling the first step, {} s so far\n"
    assert file.getvalue() == words.format(5) + words.format(36)
    clock.now += 40
    shown.advance()
    assert file.getvalue().splitlines()[2] == "work: 1/4 batches, 76 s so far"


def test_work_that_fails_is_not_said_to_be_done():
    clock = Clock()
    shown, file = bar(clock, first=0.0)
    with pytest.raises(KeyError), shown:
        raise KeyError
    clock.now += 100
    shown.tick()
    assert file.getvalue() == "work: 0 s so far\n"


def test_the_time_left_is_steady_and_compiling_takes_no_part_in_it():
    """60 s of compiling, then 2 s for each dispatch of 4 steps: from the second on the true end is predicted."""
    work, now = progress.Work("epoch 1", 100, "batches", start=0.0, rated=("images", 64)), 60.0
    for count in range(1, 26):
        work = progress.advanced(work, now := now + 2, 4)
        if count == 1:
            assert progress.rate(work) is None
            continue
        assert progress.rate(work) == pytest.approx(2)
        left = (work.total - work.done) / progress.rate(work)
        assert now + left == pytest.approx(60 + 2 * 25)
    assert progress.text(work, now) == "100/100 batches, 128 images/s, 0 s left"


def test_a_continued_epoch_counts_from_where_it_was():
    clock = Clock()
    shown, file = bar(clock, 10, "batches", done=6, rated=("images", 8), first=0.0)
    shown.advance()
    clock.now += 30
    shown.advance(2, "loss 0.1")
    assert file.getvalue().splitlines()[1] == "work: 9/10 batches, loss 0.1, 0.53 images/s, 15 s left"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (7169, "119 min"), (7200, "2.0 h")]
)
def test_durations_have_one_unit(seconds, words):
    assert progress.duration(seconds) == words


def everything(reader):
    """What was written to a pseudoterminal whose other end is closed."""
    parts = []
    with contextlib.suppress(OSError):  # EIO is Linux' end of file here
        while part := os.read(reader, 65536):
            parts.append(part)
    os.close(reader)
    return b"".join(parts).decode()


def test_on_a_terminal_a_bar_is_drawn_and_taken_away():
    """In a pseudoterminal of 80 columns: the bar stays in one line, and braces in a name are no format."""
    clock, (reader, writer) = Clock(), os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(writer, "w") as file, Bar("a{b}", 4, "images", file=file, clock=clock, beat=None) as shown:
        for _ in range(4):
            clock.now += 1
            shown.advance(note="{c}")
    drawn = everything(reader)
    frames = [frame for frame in drawn.split("\r") if frame.strip()]
    assert [frame[: frame.index("%")].split()[-1] for frame in frames] == ["25", "50", "75", "100"]
    assert all(frame.startswith("a{b}: ") and len(frame) <= 80 for frame in frames)
    assert frames[1].rstrip().endswith("| 2/4 images, {c}, 1 images/s, 2 s left")
    assert "\n" not in drawn


class Result:
    """Stands for an array on a device whose computation ends when a test says so."""

    def __init__(self):
        self.done = self.waited = False

    def is_ready(self):
        return self.done

    def block_until_ready(self):
        self.waited = not self.done
        self.done = True
        return self


def test_only_what_the_device_has_done_counts_and_the_host_waits_for_no_more_than_it_must():
    results = [Result() for _ in range(6)]
    sent = collections.deque(zip([4, 4, 4, 4, 4, 2], results, strict=True))
    assert list(dispatch.finished(sent, 6)) == []
    results[0].done = results[1].done = results[3].done = True  # the fourth does not count before the third
    assert [count for count, _ in dispatch.finished(sent, 6)] == [4, 4]
    assert not any(result.waited for result in results)
    assert [count for count, _ in dispatch.finished(sent, 2)] == [4, 4]
    assert [result.waited for result in results] == [False, False, True, False, False, False]
    assert [count for count, _ in dispatch.finished(sent, 0)] == [4, 2]
    assert not sent
