r"""VCT at the demo's sizes on synthetic clips of several sources: what queries of vision and of sound are compared on.

    python -m avs_jax.compare --config configs/vct_ms3_demo.py --workdir runs/queries --seeds 3 \
        --run vision-centric --run "audio-centric --config.model.query_generator.name=audio"

One run: `python -m avs_jax.main --config configs/vct_ms3_demo.py --workdir runs/vct_ms3_demo`.
"""

from configs import vct_demo, vct_ms3


def get_config(argument: str = ""):
    config = vct_ms3.get_config(argument or "resnet50,64")
    with config.unlocked():
        vct_demo.shrink(config)
        config.data.records = "data/synthetic_ms3"
        config.data.synthetic.update(train=1000, val=50, test=150)
        config.train.update(batch_size=4, steps=600, log_every_steps=50)
        config.eval.update(batch_size=10, every_steps=600, audio="silence", pictures=1)
        config.checkpoint.update(every_steps=600, best_metric="clip/J")
    return config.lock()
