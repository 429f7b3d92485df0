"""Pre-segmented images, one a frame: what the second encoder of VCT (and of COMBO, which introduced it) looks at.

Semantic-SAM's segments of a frame, smallest on top, in the colours of ADE20K; COMBO's authors publish them ready made
for AVSBench. They lie beside the data set's own files, under the frames' names:

S4    s4_data/pre_SAM_mask/<split>/<category>/<video>/<video>_{1..5}_mask_color.png
MS3   ms3_data/pre_SAM_mask/<video>/<video>.mp4_{1..5}_mask_color.png
AVSS  pre_SAM_mask/AVSBench_semantic/<label>/<uid>/frames/{0..}_mask_color.png
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FOLDER = "pre_SAM_mask"


def find(folder: Path, frames: Iterable[str]) -> tuple[Path, ...]:
    """The images in a clip's folder, of frames of these names without ending; none where there is no such folder."""
    return tuple(folder / f"{name}_mask_color.png" for name in frames) if folder.is_dir() else ()
