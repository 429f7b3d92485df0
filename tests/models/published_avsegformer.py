"""The published configuration of AVSegFormer."""

from configs import base


def published_config(**changes):
    """config.model as published for S4, with changes: published_config(encoder__num_layers=2)."""
    config = base.get_config("s4", "resnet50").model
    with config.unlocked():
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config
