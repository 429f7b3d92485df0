"""The demo's configuration at the smallest sizes at which every module still does its work."""

from configs import demo


def get_config():
    config = demo.get_config()
    with config.unlocked():
        config.model.backbone.update(depths=(1, 1, 1, 1), widths=(4, 4, 8, 8))
        config.model.vggish.update(widths=(4, 4, 8, 8), hidden_dim=16, embedding_dim=8)
        config.model.update(embed_dim=32, num_heads=2, num_queries=4, mlp_dim=16, tail_dims=(8, 4))
        for part in (config.model.query_generator, config.model.encoder, config.model.decoder):
            part.update(num_layers=1, ffn_dim=16)
        config.model.encoder.dropout = config.model.decoder.dropout = 0.1
        config.data.update(image_size=(64, 64), workers=0, cache=False)
        config.data.synthetic.update(train=12, val=3, test=5)
        config.optimizer.update(learning_rate=1e-2, warmup_steps=0)
        config.train.update(batch_size=4, steps=4, log_every_steps=1)
        config.eval.update(batch_size=2, every_steps=2, pictures=1)
        config.checkpoint.update(every_steps=2)
    return config.lock()
