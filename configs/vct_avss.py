r"""VCT on AVSBench AVSS (71 classes), as published: Swin-B at 384 pixels.

    python -m data_pipeline.convert --dataset avss --source /data/AVSBench/AVSBench-semantic --out data/avsbench_avss
    python -m avs_jax.main --config configs/vct_avss.py --workdir runs/vct_avss \
        --config.init_from.backbone=swin_base_patch4_window12_384_22k.pth --config.init_from.vggish=vggish-10086976.pth

The authors start from a Mask2Former that was trained on COCO, and add a second backbone for pre-segmented images. It is
off here; with the images in place (data_pipeline/pre_masks.py says where) set `--config.model.pre_masks=True`, which
their checkpoints need. They train in mixed precision: here `--config.model.dtype=bfloat16`.
"""

from configs import base


def get_config(argument: str = ""):
    config = base.get_config("avss", argument, image_size=384, system="vct")
    config.optimizer.update(
        learning_rate=1e-4, schedule="poly", weight_decay=0.05, decay="weights", backbone_multiplier=0.1, clip_norm=0.01
    )
    config.data.update(scales=tuple(n / 10 for n in range(5, 21)), colour=True, flip=True)
    # Frames do not mix: only those with a loss are computed, which are 1, 5 or 10 of a clip.
    config.train.update(batch_size=8, steps=45000, supervised_frames_only=True)
    return config
