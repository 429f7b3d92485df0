"""Audio-visual segmentation in JAX."""
