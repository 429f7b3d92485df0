r"""TPAVI, the baseline of AVSBench, on AVSBench-semantic (71 classes), as published.

    python -m data_pipeline.convert --dataset avss --source /data/AVSBench-semantic --out data/avsbench_avss
    python -m avs_jax.main --config configs/tpavi_avss.py:pvt_v2_b5 --workdir runs/tpavi_avss \
        --config.init_from.backbone=pvt_v2_b5.pth --config.init_from.vggish=vggish-10086976.pth

Hardware: the authors used one GPU (batch of 4 clips). Expected on the test split, as published by the authors
(mean IoU / F): ResNet-50 20.18 / 25.2 and PVT v2 29.77 / 35.2, at 224 pixels. As in their code, a clip's ten frames
interact in two groups of five; `--config.model.variant=paper` lets all ten.
"""

from configs import base


def get_config(argument: str = ""):
    config = base.get_config("avss", argument, system="tpavi")
    config.optimizer.update(name="adam", learning_rate=1e-4, weight_decay=0.0)
    config.train.update(batch_size=4, epochs=60.0, log_every_steps=20)
    config.eval.update(batch_size=4, every_epochs=2.0)
    config.checkpoint.every_epochs = 2.0
    return config
