"""Small conversions of synthetic raw sets, for tests."""

from pathlib import Path

from data_pipeline import convert

CLIPS = {"train": 5, "val": 2, "test": 2}
SIZE = (64, 64)


def run(raw, out, task="s4", **settings):
    """Converts the raw set of a task, in this process and quietly unless `settings` say otherwise."""
    return convert.convert(task, raw / task, out, **{"processes": 1, "progress": False} | settings)


def contents(out):
    """Every file of a converted set but those that tell the time."""
    files = (path for path in Path(out).rglob("*") if path.is_file() and path.name not in ("report.json", ".lock"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}
