"""The figures of single frames by their definitions, from bool arrays of what is predicted and what is true."""

import numpy as np


def iou(p, g):
    union = np.logical_or(p, g).sum()
    return np.logical_and(p, g).sum() / union if union else 1.0


def f_measure(p, g):
    hits = np.logical_and(p, g).sum()
    if not hits:
        return 0.0
    precision, recall = hits / p.sum(), hits / g.sum()
    return 1.3 * precision * recall / (0.3 * precision + recall)


def fair_f(p, g):
    return f_measure(p, g) if p.any() or g.any() else 1.0


def pixels(score, mask):
    """Scores and truth of the pixels of a frame that are not ignored."""
    keep = mask != 255
    return score[keep], mask[keep]
