r"""TPAVI, the baseline of AVSBench, on MS3 (several sources a clip, starting and stopping), as published.

    python -m data_pipeline.convert --dataset ms3 --source /data/AVSBench/Multi-sources --out data/avsbench_ms3
    python -m avs_jax.main --config configs/tpavi_ms3.py:pvt_v2_b5 --workdir runs/tpavi_ms3 \
        --config.init_from.backbone=pvt_v2_b5.pth --config.init_from.vggish=vggish-10086976.pth

Hardware: the authors used one GPU (batch of 4 clips). Expected on the test split, as published by the authors
(mean IoU / F): ResNet-50 47.88 / 57.8 and PVT v2 54.00 / 64.5, at 224 pixels. The authors also start from their S4
weights: `--config.init_from.model=S4.pth`.
"""

from configs import base


def get_config(argument: str = ""):
    config = base.get_config("ms3", argument, system="tpavi")
    config.optimizer.update(name="adam", learning_rate=1e-4, weight_decay=0.0)
    config.train.update(batch_size=4, epochs=30.0, log_every_steps=20)
    config.eval.update(batch_size=4, avsbench_batch_size=4)
    return config
