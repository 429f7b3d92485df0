"""Layers shared by the models: NHWC maps, (N, L, C) tokens, float32 parameters."""
