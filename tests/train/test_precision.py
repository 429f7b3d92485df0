"""Training in float32 follows training in float64."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]


def start(precision):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/golden")]),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    line = [sys.executable, str(ROOT / "tests/train/adamw_steps.py"), precision]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_twenty_adamw_steps_follow_float64():
    runs = {precision: start(precision) for precision in ("float32", "float64")}
    found = {}
    for precision, run in runs.items():
        output, errors = run.communicate()
        assert run.returncode == 0, errors
        found[precision] = json.loads(output)
    assert found["float32"]["types"] == ["f32"]
    assert found["float64"]["types"] == ["f64"], "the run in float64 computes something in less"
    exact = np.array(found["float64"]["losses"])
    assert len(exact) == 20 and exact[-1] < 0.7 * exact[0]
    np.testing.assert_allclose(found["float32"]["losses"], exact, rtol=1e-4)
