"""The input's benchmark: what it measures adds up, and what it computes follows from that."""

import pytest

from data_pipeline import benchmark
from data_pipeline.benchmark import Cost
from tests.data_pipeline.known_records import options


def test_every_part_is_timed_and_pictures_are_counted(avss):
    cost = benchmark.measure(avss, "train", options("avss", packed=True), 4)
    assert set(cost.parts) == {"clip", "rest", *benchmark.PARTS}
    assert all(seconds >= 0 for seconds in cost.parts.values()) and cost.parts["clip"] > 0
    assert cost.pictures == 15 and cost.frames == 7.5  # clips of 10 and of 5 frames, all annotated
    assert benchmark.measure(avss, "train", options("avss"), 2).frames == 10


def test_cores_follow_from_the_assumptions():
    """ResNet-50, 224 pixels, an H200: 0.4 of 989 TFLOP/s, by three times 82 GFLOP a frame."""
    cost = Cost({"clip": 0.01}, pictures=10, frames=5)
    rows = {row[:2]: row[2:] for row in benchmark.needs(cost, 224)}
    frames, clips, cores = rows["resnet50", "H200"]
    assert frames == pytest.approx(0.4 * 989e12 / (3 * 82e9))
    assert (clips, cores) == pytest.approx((frames / 5, frames / 500))
    assert benchmark.needs(cost, 96) == []


def test_the_command_prints_rates_and_headroom(avss, capsys):
    common = [str(avss), "--batch-size", "2", "--clips", "2", "--seconds", "0.1", "--workers", "0"]
    assert benchmark.main([*common, "--image-size", "224", "--packed", "--flip", "--consumption", "0.5"]) == 0
    out = capsys.readouterr().out
    for part in (
        "one core, 224 x 224 pixels",
        *benchmark.PARTS,
        "pictures/s decoded",
        "computed, not measured",
        "v5e-8",
    ):
        assert part in out
    assert "loader, 0 worker processes" in out and "times what training takes" in out
    assert benchmark.main([*common, "--image-size", "96"]) == 0
    assert "known for images of 224, 512 pixels" in capsys.readouterr().out


def test_what_cannot_be_read_is_one_line(tmp_path, avss, capsys):
    assert benchmark.main([str(tmp_path)]) == 1
    assert "holds no converted set" in capsys.readouterr().err
    assert benchmark.main([str(avss), "--split", "val"]) == 1
    assert "has no split 'val'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.main([str(avss), "--workers", "0,all"])
    assert "give whole numbers with commas between them, not '0,all'" in capsys.readouterr().err
