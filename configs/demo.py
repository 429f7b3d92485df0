"""AVSegFormer at small sizes on synthetic clips that it makes itself: no data, no weights, no GPU needed.

    python -m avs_jax.main --config configs/demo.py --workdir runs/demo

Every module of the full model is there, at small widths and depths, and all of it is trained from scratch, the audio
encoder too. Hardware: 2 CPU cores, about ten minutes. Expected on the 150 test clips, as measured on 2026-11-21:
J (`clip`) 0.89 with their sound, 0.12 with silence; the best that pictures alone allow is 0.31.
"""

from configs import base


def get_config(argument: str = ""):
    config = base.get_config("s4", argument or "resnet50", image_size=96)
    with config.unlocked():
        model = config.model
        model.backbone.update(depths=(1, 1, 1, 1), widths=(16, 32, 64, 128))
        model.vggish.update(widths=(16, 16, 32, 64), hidden_dim=256, frozen=False)
        model.update(embed_dim=64, num_heads=4, num_queries=16, mlp_dim=128, tail_dims=(32, 16))
        model.query_generator.update(num_layers=2, ffn_dim=128)
        model.encoder.update(num_layers=2, ffn_dim=128, dropout=0.0)
        model.decoder.update(num_layers=2, ffn_dim=128, dropout=0.0)
        config.data.records = "data/synthetic_s4"
        config.data.update(workers=0, cache=True, flip=True)
        config.data.synthetic.update(train=1600, val=50, test=150)
        config.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0)
        config.train.update(batch_size=16, steps=800, supervised_frames_only=True, log_every_steps=50)
        config.eval.update(batch_size=10, every_steps=400, audio="silence")
        config.checkpoint.update(every_steps=400, best_metric="clip/J")
    return config.lock()
