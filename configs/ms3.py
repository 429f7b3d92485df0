r"""AVSegFormer on AVSBench MS3 (several sources a clip, starting and stopping), as published.

    python -m data_pipeline.convert --dataset ms3 --source /data/AVSBench/Multi-sources --out data/avsbench_ms3
    python -m avs_jax.main --config configs/ms3.py:pvt_v2_b5,512 --workdir runs/ms3 \
        --config.init_from.backbone=pvt_v2_b5.pth --config.init_from.vggish=vggish-10086976.pth

Hardware: the authors used one GPU (batch of 2 clips). Expected on the test split, as published by the authors
(mean IoU / F, paper table 1): ResNet-50 49.53 / 62.8 and PVT v2 58.36 / 69.3 at 224 pixels, 53.81 / 65.6 and
61.33 / 73.0 at 512. The released loaders always resize to 512, so 512 is the default here.
"""

from configs import base


def get_config(argument: str = ""):
    config = base.get_config("ms3", argument, image_size=512)
    config.optimizer.freeze.backbone = 10.0
    config.train.epochs = 60.0
    config.train.log_every_steps = 20
    return config
