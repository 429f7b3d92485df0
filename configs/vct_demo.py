"""VCT at small sizes on synthetic clips that it makes itself: no data, no weights, no GPU needed.

    python -m avs_jax.main --config configs/vct_demo.py --workdir runs/vct_demo

It is `configs/vct_s4.py:resnet50,96` with every module at a small width and depth, trained from scratch, the audio
encoder too; the same keys set on the command line of that configuration give the same run. Hardware: 2 CPU cores, about
15 minutes (22 minutes of CPU time with the clips; 17 by the clock where other jobs shared the cores). On the 150 test
clips, as measured on 2026-11-21: J (`clip`) 0.76 with their sound, 0.19 with silence; pictures alone allow at best
0.31.
"""

from ml_collections import ConfigDict

from configs import vct_s4


def get_config(argument: str = ""):
    config = vct_s4.get_config(argument or "resnet50,96")
    with config.unlocked():
        shrink(config)
        config.data.records = "data/synthetic_s4"
        config.data.synthetic.update(train=1600, val=50, test=150)
        config.train.update(batch_size=16, steps=1200, log_every_steps=50)
        config.eval.update(batch_size=10, every_steps=400, audio="silence")
        config.checkpoint.update(every_steps=400, best_metric="clip/J")
    return config.lock()


def shrink(config: ConfigDict) -> None:
    """Gives every module a small width and depth, and what training from scratch on easy clips asks for."""
    model = config.model
    model.backbone.update(depths=(1, 1, 1, 1), widths=(16, 32, 64, 128))
    model.vggish.update(widths=(16, 16, 32, 64), frozen=False)
    model.update(embed_dim=64, num_heads=4, num_queries=16, audio_mlp_dim=128, frozen_batch_norm=False)
    model.pixel_decoder.update(num_layers=2, ffn_dim=128)
    model.query_generator.update(hidden_dim=64)
    model.decoder.update(num_layers=5, ffn_dim=128)
    config.loss.num_points = 512
    config.data.update(workers=0, cache=True, flip=True, scales=(), colour=False)
    config.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=100, backbone_multiplier=1.0)
