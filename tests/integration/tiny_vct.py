"""VCT's demo configuration at the smallest sizes at which every module still does its work."""

from configs import vct_demo
from tests.integration import tiny


def get_config():
    config, small = vct_demo.get_config("resnet50,64"), tiny.get_config()
    with config.unlocked():
        for part in ("backbone", "vggish"):
            config.model[part].update(small.model[part])
        config.model.update(embed_dim=32, num_heads=2, num_queries=4, audio_mlp_dim=16)
        config.model.pixel_decoder.update(num_layers=1, ffn_dim=16)
        config.model.query_generator.update(num_heads=2, hidden_dim=8)
        config.model.decoder.update(num_layers=2, ffn_dim=16)
        config.loss.num_points = 32
        for section in ("data", "train", "eval", "checkpoint"):
            kept = {"data": ("scales", "colour"), "eval": ("protocols",), "checkpoint": ("best_metric",)}
            config[section].update({k: v for k, v in small[section].items() if k not in kept.get(section, ())})
        config.optimizer.warmup_steps = 0
    return config.lock()
