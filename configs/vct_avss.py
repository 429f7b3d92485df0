r"""VCT on AVSBench AVSS (71 classes), as published: Swin-B at 384 pixels.

    python -m data_pipeline.convert --dataset avss --source /data/AVSBench/AVSBench-semantic --out data/avsbench_avss
    python -m avs_jax.main --config configs/vct_avss.py --workdir runs/vct_avss \
        --config.init_from.backbone=swin_base_patch4_window12_384_22k.pth --config.init_from.vggish=vggish-10086976.pth

The authors start from a Mask2Former that was trained on COCO, and add a second backbone for pre-segmented images,
which is off here (`model.pre_masks`): records hold no such images. Of their augmentations (scale, crop, colour, flip)
only the flip is applied.
"""

from configs import base


def get_config(argument: str = ""):
    config = base.get_config("avss", argument, image_size=384, system="vct")
    config.optimizer.update(
        learning_rate=1e-4, schedule="poly", weight_decay=0.05, decay="weights", backbone_multiplier=0.1, clip_norm=0.01
    )
    config.data.flip = True
    config.train.update(batch_size=8, steps=45000)
    return config
