"""A stream of training batches that is taken up again: the same batches come, or the state is refused."""

import json
import os
import signal
import subprocess
import sys

import pytest

from data_pipeline import loader
from data_pipeline.workers import WorkerError
from tests import worker_processes
from tests.data_pipeline.known_records import RANDOM, VCT, assert_same, options, take, write_set


@pytest.mark.parametrize("stream", [{}, RANDOM, VCT], ids=["plain", "random", "as VCT"])
@pytest.mark.parametrize("work", [{}, {"cache": True}, {"threads": 0}], ids=str)
def test_a_resumed_stream_goes_on_bit_for_bit(s4, stream, work):
    whole = take(loader.train_batches(s4, "train", options(**stream)), 9)
    first = loader.train_batches(s4, "train", options(**stream, **work))
    assert_same(take(first, 5), whole[:5])
    state = json.loads(json.dumps(first.get_state()))
    assert state["next_index"] == 20
    resumed = loader.train_batches(s4, "train", options(**stream, **work))
    resumed.set_state(state)
    assert_same(take(resumed, 4), whole[5:])
    resumed.set_state(state)  # also after it has run
    assert_same(take(resumed, 1), whole[5:6])


def test_worker_processes_change_nothing(s4):
    here = take(loader.train_batches(s4, "train", options(**RANDOM)), 6)
    workers = options(**RANDOM, workers=2, cache=True)
    there = loader.train_batches(s4, "train", workers)
    assert_same(take(there, 3), here[:3])
    state = there.get_state()
    there.close()
    back = loader.train_batches(s4, "train", options(**RANDOM))
    back.set_state(state)
    assert_same(take(back, 3), here[3:])
    resumed = loader.train_batches(s4, "train", workers)
    resumed.set_state({"next_index": 8, "fingerprint": state["fingerprint"]})
    assert_same(take(resumed, 2), here[2:4])
    resumed.close()


@pytest.mark.parametrize("training", [True, False])
def test_signals_to_the_whole_job_leave_its_processes_to_this_one(s4, training):
    """A terminal's or a scheduler's SIGINT and SIGTERM; one that is killed is one clear error, not an endless wait."""
    before = set(worker_processes.of(os.getpid()))
    settings = options(workers=1, buffer=1, batch_size=1)
    stream = loader.train_batches(s4, "train", settings) if training else loader.eval_batches(s4, "train", settings)
    batches = iter(stream)
    next(batches)
    (worker,) = set(worker_processes.of(os.getpid())) - before
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker, number)
    next(batches)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(WorkerError, match="set data.workers lower"):
        for _ in range(1000):
            next(batches)
    batches.close()


READ_AND_KEEP = """
import sys
from absl import flags
from data_pipeline import loader
from tests.data_pipeline.known_records import options, take
flags.FLAGS.mark_as_parsed()
settings = options(workers=2, batch_size=2)
kept = list(loader.eval_batches(sys.argv[1], "train", settings))
stream = loader.train_batches(sys.argv[1], "train", settings)
kept += take(stream, 3)
stream.close()
print(len(kept))
"""


def test_batches_that_are_kept_hold_no_shared_memory(s4):
    """Python counts what is left of it at the end, and warns."""
    done = subprocess.run([sys.executable, "-c", READ_AND_KEEP, str(s4)], capture_output=True, text=True, check=True)
    assert (done.stdout, "shared_memory" in done.stderr) == ("10\n", False), done.stderr


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 7}, "seed was 0, is 7"),
        ({"batch_size": 2}, "batch_size was 4, is 2"),
        ({"image_size": (12, 16)}, r"image_size was \[24, 32\], is \[12, 16\]"),
        ({"flip": True, "audio": "silence"}, "audio was 'true', is 'silence'; flip was False, is True"),
        ({"scales": (0.5, 2.0), "colour": True}, r"colour was False, is True; scales was \[\], is \[0.5, 2.0\]"),
    ],
)
def test_a_state_of_other_settings_is_refused(s4, changes, named):
    state = loader.train_batches(s4, "train", options()).get_state()
    with pytest.raises(loader.StateError, match=named):
        loader.train_batches(s4, "train", options(**changes)).set_state(state)


def test_a_state_of_other_data_is_refused(s4, tmp_path):
    other = write_set(tmp_path, "s4", {"train": 6})
    state = loader.train_batches(s4, "train", options()).get_state()
    with pytest.raises(loader.StateError, match="clips was 13, is 6; records was"):
        loader.train_batches(other, "train", options()).set_state(state)


def test_a_state_does_not_depend_on_how_the_work_is_done(s4):
    state = loader.train_batches(s4, "train", options()).get_state()
    loader.train_batches(s4, "train", options(threads=3, buffer=1, cache=True)).set_state(state)
