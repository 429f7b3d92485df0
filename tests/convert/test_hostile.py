"""Hostile and damaged files are refused at once: one clear message, little time and memory, and nothing is run.

All files are read by one other process, which imports the reader once and is watched.
"""

import json
import os
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from avs_jax.convert import safetensors_file
from data_pipeline import torch_file
from tests.convert import hostile_archives, hostile_pickles

FILES = hostile_pickles.FILES | hostile_archives.FILES

MAX_SECONDS, MAX_MEGABYTES = 2, 200
STREAM = pathlib.Path(__file__).parents[1] / "data_pipeline/fixtures/stream.pth"
SPECIAL = {
    "pipe.pth": "is a pipe or a device",
    "pipe.safetensors": "is a pipe or a device",
    "device.pth": "is a pipe or a device",
    "missing.pth": "is missing",
    "loop.pth": "cannot be read",
}
WHOLE = ("zip.pth", "stream.pth", "numpy.pkl", "whole.safetensors")
CUTS = [f"{place}_{name}" for name in WHOLE for place in range(10)]

READER = """
import json, sys, time
from avs_jax import convert

HARMFUL = ("exec", "compile", "import", "os.", "subprocess.", "socket.", "ctypes.", "shutil.")

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024

def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

def read(name):
    try:
        convert.read(name)
        return "None", "was read"
    except Exception as error:
        return " ".join(kind.__name__ for kind in type(error).__mro__), str(error)

events = []
read("zip.pth"), read("whole.safetensors")  # what is imported once, is
sys.addaudithook(lambda event, _: event.startswith(HARMFUL) and events.append(event))
for name in json.load(sys.stdin):
    forget_peak()
    before, start = status("VmRSS"), time.process_time()
    events.clear()
    kind, message = read(name)
    found = {"name": name, "kind": kind, "message": message, "events": sorted(set(events))}
    used = {"seconds": time.process_time() - start, "megabytes": status("VmHWM") - before}
    print(json.dumps(found | used), flush=True)
"""


def write_files(folder):
    for name, (content, _) in FILES.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.pth")
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "device.pth").symlink_to("/dev/zero")
    (folder / "loop.pth").symlink_to("loop.pth")
    arrays = {f"layer{n}.weight": np.arange(64, dtype=np.float32) for n in range(4)}
    torch_file.save(folder / "zip.pth", arrays)
    (folder / "stream.pth").write_bytes(STREAM.read_bytes())
    (folder / "numpy.pkl").write_bytes(pickle.dumps({"model": arrays}, 2))
    safetensors_file.write(folder / "whole.safetensors", arrays)
    for name in WHOLE:
        content = (folder / name).read_bytes()
        for place in range(10):
            (folder / f"{place}_{name}").write_bytes(content[: len(content) * (2 * place + 1) // 20])


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    write_files(folder)
    names = [*FILES, *SPECIAL, *CUTS]
    root = pathlib.Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", READER],
        input=json.dumps(names),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert not (folder / hostile_pickles.CANARY).exists()
    return {found["name"]: found for found in map(json.loads, ran.stdout.splitlines())}


def assert_refused(found):
    assert "BadFile" in found["kind"].split(), found
    assert found["message"].startswith(f"{found['name']}: ") and "To mend it: " in found["message"]
    assert len(found["message"]) < 1000 and "\n" not in found["message"]
    assert found["seconds"] < MAX_SECONDS and found["megabytes"] < MAX_MEGABYTES
    assert not found["events"], "something was run or imported"


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_refused(outcomes, name):
    assert_refused(outcomes[name])
    assert re.search(FILES[name][1], outcomes[name]["message"])


@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_no_file_is_refused(outcomes, name):
    assert_refused(outcomes[name])
    assert SPECIAL[name] in outcomes[name]["message"]


@pytest.mark.parametrize("name", CUTS)
def test_files_cut_short_are_refused(outcomes, name):
    assert_refused(outcomes[name])
