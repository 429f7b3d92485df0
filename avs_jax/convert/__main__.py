"""The command line of weights: the authors' files into checkpoints of ours, and back, without PyTorch.

    python -m avs_jax.convert AVSegFormer_pvt2_s4.pth --config configs/s4.py --out weights/s4
    python -m avs_jax.convert resnet50-19c8e357.pth --config configs/s4.py:resnet50 --part backbone --out weights/r50
    python -m avs_jax.convert runs/s4 --config configs/s4.py --to-torch mine.pth

Prints what became of every tensor, and how many numbers each part of the model holds. `--out` is for
`--config.init_from.model` (or `.backbone`, `.vggish`); `--to-torch` is for `load_state_dict(torch.load(...))`.
"""

from __future__ import annotations

import logging
import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from avs_jax import command_line
from avs_jax import config as configuration
from avs_jax.convert import ConversionError, parts, read, report
from avs_jax.convert.output import OutputError, check_file, check_folder, write_checkpoint, write_torch
from avs_jax.train.checkpoint import CheckpointError
from data_pipeline.problems import BadFile

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with arguments after a colon.")
OUT = flags.DEFINE_string("out", None, "Folder for a checkpoint of ours.")
TO_TORCH = flags.DEFINE_string("to-torch", None, "File for PyTorch: .pth, with the authors' names.")
PART = flags.DEFINE_enum("part", "model", parts.PARTS, "What the file holds.")
PUBLISHER = flags.DEFINE_string(
    "publisher", None, "With --to-torch --part=backbone: whose names to write; by default those of the file."
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what an earlier conversion wrote.")

USER_ERRORS = (configuration.ConfigError, ConversionError, BadFile, CheckpointError, OutputError)


def main(argv: list[str]) -> int:
    """Converts; returns the process's exit code."""
    command_line.set_up_logging()
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of a file that only its manager writes
    if len(argv) != 2:
        raise app.UsageError("give one file or folder of weights, and --config")
    if not (OUT.value or TO_TORCH.value):
        raise app.UsageError("say where to write: --out DIR, --to-torch OUT.pth, or both")
    try:
        configuration.validate(CONFIG.value)
        _convert(pathlib.Path(argv[1]), CONFIG.value)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _convert(source: pathlib.Path, config) -> None:
    if OUT.value:
        check_folder(pathlib.Path(OUT.value), OVERWRITE.value)
    if TO_TORCH.value:
        check_file(pathlib.Path(TO_TORCH.value), OVERWRITE.value)
    found = parts.convert_part(read(source), config.model, PART.value, PUBLISHER.value)
    print(report.text(found.rows), end="")
    print(report.summary(found.rows))
    if OUT.value:
        meta = {"source": source.name, "part": PART.value, "config": configuration.flat(config)}
        write_checkpoint(pathlib.Path(OUT.value), found.variables, meta, report.text(found.rows), OVERWRITE.value)
        print(f"{OUT.value}: a checkpoint, for --config.init_from.{PART.value}={OUT.value}")
    if TO_TORCH.value:
        write_torch(pathlib.Path(TO_TORCH.value), found.state_dict, OVERWRITE.value)
        print(f"{TO_TORCH.value}: for torch.load(..., weights_only=True) and a strict load_state_dict")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=command_line.parse)
