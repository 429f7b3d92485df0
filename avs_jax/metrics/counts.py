"""What every protocol is computed from: integer pixel counts of each frame, taken on the device.

Counts are exact and belong to a frame alone, so no figure depends on how clips were batched or spread over processes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

IGNORE = 255  # the index of pixels that count nowhere


def _thresholds() -> np.ndarray:
    # linspace(0, 1 - 1e-10, 255) as the published evaluators get it in float32: the upper half counts down from 1.
    number = np.arange(255)
    step = np.float32(1) / np.float32(254)
    return np.where(number < 128, step * number.astype(np.float32), 1 - np.float64(step) * (254 - number)).astype("f4")


# The 255 float32 thresholds of the F curve, from 0 to 1; a pixel is predicted where its score is >= the threshold.
THRESHOLDS = _thresholds()
# J's prediction is score > 0.5, which is score >= the next float32. With this edge one histogram serves all protocols.
EDGES = np.sort(np.append(THRESHOLDS, np.nextafter(np.float32(0.5), np.float32(1))))
HALF = int(np.searchsorted(EDGES, np.float32(0.5), side="right"))
CURVE = np.delete(np.arange(EDGES.size), HALF)


@jax.jit
def binary_statistics(scores: jax.Array, masks: jax.Array) -> jax.Array:
    """Histograms of the scores of each frame's pixels, over the bins [EDGES[i], EDGES[i + 1]).

    Args:
      scores: (B,T,H,W,1) float32 probabilities. Not a number and what is below 0 count as 0, what is above 1 as 1.
      masks: (B,T,H,W) uint8: 0 background, 255 ignored, anything else the object.

    Returns:
      (B,T,2,256) int32: of the background's pixels, and of the object's.
    """
    bins = _bin(scores[..., 0])
    kind = jnp.where(masks == IGNORE, 2, (masks > 0).astype(jnp.int32))
    return _histogram(kind * EDGES.size + bins, 2 * EDGES.size).reshape(*masks.shape[:2], 2, EDGES.size)


@jax.jit
def class_statistics(scores: jax.Array, masks: jax.Array) -> jax.Array:
    """Pixels of each frame and class: of the intersection, the prediction, the truth, and of ignored predictions.

    Args:
      scores: (B,T,H,W,C) float32; the prediction is the class of the highest score, the first of equal ones.
      masks: (B,T,H,W) uint8 class indices; where it is 255, or any index from C on, the prediction is ignored too:
        it is counted apart, since one published protocol looks at it.

    Returns:
      (B,T,4,C) int32.
    """
    classes = scores.shape[-1]
    predicted = jnp.argmax(scores, -1).astype(jnp.int32)
    pairs = jnp.minimum(masks.astype(jnp.int32), classes) * classes + predicted  # the last row is of ignored pixels
    table = _histogram(pairs, (classes + 1) * classes).reshape(*masks.shape[:2], classes + 1, classes)
    confusion, ignored = table[..., :-1, :], table[..., -1, :]
    parts = (jnp.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-2), confusion.sum(-1), ignored)
    return jnp.stack(parts, axis=-2)


@jax.jit
def statistics(scores: jax.Array, masks: jax.Array) -> jax.Array:
    """`binary_statistics` of a single class, `class_statistics` of several."""
    return binary_statistics(scores, masks) if scores.shape[-1] == 1 else class_statistics(scores, masks)


def _bin(scores: jax.Array) -> jax.Array:
    """The index of the last of EDGES that a score reaches, int32."""
    scores = jnp.where(scores >= 0, jnp.minimum(scores, 1.0), 0.0)
    # The thresholds are evenly spaced to within rounding, so a guess is off by one at most: no search.
    table = jnp.asarray(np.append(THRESHOLDS, np.float32(np.inf)))
    guess = jnp.clip((scores * (THRESHOLDS.size - 1)).astype(jnp.int32), 0, THRESHOLDS.size - 1)
    index = guess + (scores >= table[guess + 1]) - (scores < table[guess])
    return index + (scores > 0.5)


def _histogram(bins: jax.Array, length: int) -> jax.Array:
    """How often each of 0 .. length - 1 occurs in bins (B,T,H,W): (B,T,length) int32. Other values are left out."""
    # A scatter of ones: on CPU 1 ns a pixel, some 50 times less than comparing with every bin or one-hot products.
    count = jax.vmap(lambda frame: jnp.zeros(length, jnp.int32).at[frame].add(1, mode="drop"))
    return count(bins.reshape(bins.shape[0] * bins.shape[1], -1)).reshape(*bins.shape[:2], length)
