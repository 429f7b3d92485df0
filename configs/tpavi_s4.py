r"""TPAVI, the baseline of AVSBench, on S4 (one sounding source a clip), as published.

    python -m data_pipeline.convert --dataset s4 --source /data/AVSBench/Single-source --out data/avsbench_s4
    python -m avs_jax.main --config configs/tpavi_s4.py:pvt_v2_b5 --workdir runs/tpavi_s4 \
        --config.init_from.backbone=pvt_v2_b5.pth --config.init_from.vggish=vggish-10086976.pth

Hardware: the authors used one GPU (batch of 4 clips). Expected on the test split, as published by the authors
(mean IoU / F): ResNet-50 72.79 / 84.8 and PVT v2 78.74 / 87.9, at 224 pixels. The audio-visual matching loss is off, as
in their script; `--config.loss.avm.weight=0.5` turns it on.
"""

from configs import base


def get_config(argument: str = ""):
    config = base.get_config("s4", argument, system="tpavi")
    config.optimizer.update(name="adam", learning_rate=1e-4, weight_decay=0.0)
    config.train.update(batch_size=4, epochs=15.0)
    config.eval.update(batch_size=4, avsbench_batch_size=4)
    return config
