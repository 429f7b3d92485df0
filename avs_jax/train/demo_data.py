"""Synthetic records for configurations that bring their own data."""

from __future__ import annotations

import pathlib

from data_pipeline import convert


def ensure_records(config) -> None:
    """Makes the synthetic data set that `config.data.synthetic` asks for, unless its records are there.

    Raises:
      FileNotFoundError: the configuration wants real records, and they are not there.
    """
    records, wanted = pathlib.Path(config.data.records), config.data.synthetic
    if not (wanted.train or wanted.val or wanted.test):
        if not records.exists():
            raise FileNotFoundError(
                f"config.data.records={records} does not exist: make it with `python -m data_pipeline.convert "
                f"--dataset {config.task} --source RAW --out {records}`"
            )
        return
    convert.synthetic(
        config.task,
        records,
        clips={"train": wanted.train, "val": wanted.val, "test": wanted.test},
        size=tuple(config.data.image_size),
        seed=wanted.seed,
    )
