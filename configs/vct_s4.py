r"""VCT on AVSBench S4 (one source a clip), as published: Swin-B at 384 pixels.

    python -m data_pipeline.convert --dataset s4 --source /data/AVSBench/Single-source --out data/avsbench_s4
    python -m avs_jax.main --config configs/vct_s4.py --workdir runs/vct_s4 \
        --config.init_from.backbone=swin_base_patch4_window12_384_22k.pth --config.init_from.vggish=vggish-10086976.pth

The authors start from a Mask2Former that was trained on COCO, and add a second backbone for pre-segmented images. It is
off here; with the images in place (data_pipeline/pre_masks.py says where) set `--config.model.pre_masks=True`, which
their checkpoints need.
"""

from configs import base


def get_config(argument: str = ""):
    config = base.get_config("s4", argument, image_size=384, system="vct")
    config.optimizer.update(
        learning_rate=1e-4, schedule="poly", weight_decay=0.05, decay="weights", backbone_multiplier=0.1, clip_norm=0.01
    )
    config.data.update(scales=tuple(n / 10 for n in range(5, 21)), colour=True, flip=True)
    config.train.update(batch_size=2, steps=45000)
    # Frames do not mix: only the first of each clip, the annotated one, is computed.
    config.train.supervised_frames_only = True
    return config
