r"""AVSegFormer on AVSBench-semantic (71 classes), as published.

    python -m data_pipeline.convert --dataset avss --source /data/AVSBench-semantic --out data/avsbench_avss
    python -m avs_jax.main --config configs/avss.py:pvt_v2_b5,224 --workdir runs/avss \
        --config.init_from.backbone=pvt_v2_b5.pth --config.init_from.vggish=vggish-10086976.pth

Hardware: the authors used one GPU (batch of 4 clips). Expected on the test split, as published by the authors
(mean IoU / F, paper table 1): ResNet-50 24.93 / 29.3 and PVT v2 36.66 / 42.0 at 224 pixels, 26.58 / 31.5 and
37.31 / 42.8 at 512.
"""

from configs import base


def get_config(argument: str = ""):
    config = base.get_config("avss", argument)
    config.train.batch_size = config.eval.batch_size = 4
    config.train.log_every_steps = 20
    # Clips have 1, 5 or 10 frames with a loss, and frames mix nowhere but in a ResNet's batch norm, as it trains.
    config.train.supervised_frames_only = not config.model.backbone.name.startswith("resnet")
    config.eval.every_epochs = config.checkpoint.every_epochs = 2.0
    return config
