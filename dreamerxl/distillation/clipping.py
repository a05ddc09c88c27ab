"""Pixel-wise clipping of the image gradient on its way from the VAE to the Gaussians (section 3.4).

    g          gradient of the loss for the image   [B, 3, H, W] colour, [B, 1, H, W] depth
    threshold  c > 0;   scale  s > 0, the scale of the Gaussians (their mean)
Every clip multiplies by a factor that is positive and finite for finite g, so a direction (of a pixel's colour, of a
depth's sign) is kept and a zero stays zero: there c/0 is infinite and the other argument of the minimum applies.
NaN stays NaN and infinity becomes NaN: what is not finite is not hidden.
"""

from __future__ import annotations

import math

from torch import Tensor

from dreamerxl.config import Rule
from dreamerxl.errors import NumericalError


def clip_color(gradient: Tensor, threshold: float) -> Tensor:
    """Pixel-wise gradient clipping (Pan et al., 2024): g min_c(min(1, threshold / |g_c|)), one factor a pixel.

    No channel exceeds the threshold afterwards, and a pixel below it is left alone.
    """
    peak = gradient.abs().amax(dim=1, keepdim=True)
    return gradient * (threshold / peak).clamp(max=1)


def clip_depth(gradient: Tensor, threshold: float, scale: float | Tensor, rule: Rule) -> Tensor:
    """Depth gradient clipping: g min(s / |g|, c) per element (Eq. 9), or the released code's one factor an image.

    Read literally, Eq. 9 bounds each element by s and multiplies every smaller one by c: the result is
    sign(g) min(s, c |g|), so with c below 1 small gradients are scaled too; only c = 1 leaves them alone, as the
    paper's text says of it. The released code multiplies the whole map by min(1, c s / max|g|). A scale that is still
    on a card is not looked at, which would wait for the card.
    """
    if not isinstance(scale, Tensor) and not 0 < scale < math.inf:
        raise NumericalError(f"The scale of the Gaussians is {scale}; depth clipping needs a finite number above 0.")
    if rule == "paper":
        return gradient * (scale / gradient.abs()).clamp(max=threshold)
    peak = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    return gradient * (threshold * scale / peak).clamp(max=1)
