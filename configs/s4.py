r"""AVSegFormer on AVSBench S4 (one sounding source a clip), as published.

    python -m data_pipeline.convert --dataset s4 --source /data/AVSBench/Single-source --out data/avsbench_s4
    python -m avs_jax.main --config configs/s4.py:pvt_v2_b5,512 --workdir runs/s4 \
        --config.init_from.backbone=pvt_v2_b5.pth --config.init_from.vggish=vggish-10086976.pth

Hardware: the authors used one GPU (batch of 2 clips). Expected on the test split, as published by the authors
(mean IoU / F, paper table 1): ResNet-50 76.45 / 85.9 and PVT v2 82.06 / 89.9 at 224 pixels, 76.38 / 86.7 and
83.06 / 90.5 at 512. The released loaders always resize to 512, so 512 is the default here.
"""

from configs import base


def get_config(argument: str = ""):
    config = base.get_config("s4", argument, image_size=512)
    config.optimizer.freeze.backbone = 5.0
    # Only a clip's first frame has a loss, and frames mix nowhere but in a ResNet's batch norm, as it trains.
    config.train.supervised_frames_only = not config.model.backbone.name.startswith("resnet")
    return config
