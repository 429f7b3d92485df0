"""Predictions for looking at."""
