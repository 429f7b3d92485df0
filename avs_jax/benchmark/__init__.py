"""How fast the models are, and where the time goes: `python -m avs_jax.benchmark --config configs/s4.py`."""
