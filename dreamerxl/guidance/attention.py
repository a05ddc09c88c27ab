"""Attention of one wide head by matrix products, and its gradient with the scores recomputed.

    q, k, v    [B, T, D], one head; D is 512 and T 16,384 in the VAE of SDXL at 1024 px
    out        softmax(q k^T / sqrt(D)) v
The fast attention kernels stop at heads of width 256, and the one that remains is slow, above all backwards. Matrix
products over a block of rows run at the card's full speed instead. Scores are float32 and exist for one block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dreamerxl.guidance.group_norm import HAS_TRITON

SCORES = 2**27  # in a block: 512 MiB of float32


def wide_attention(q: Tensor, k: Tensor, v: Tensor, scores: int = SCORES) -> Tensor:
    """out [B, T, D]. Nothing is kept for the backward beyond what the caller holds."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for rows in _blocks(q, k, scores):
        out[:, rows] = torch.bmm(_softmax(_scores(q[:, rows], k), q.shape[2] ** -0.5, q.dtype), v)
    return out


def wide_attention_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, scores: int = SCORES
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients for q, k and v of <d_out, out>."""
    d_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    d_k, d_v = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
    along = (d_out.float() * out.float()).sum(2)  # [B, T], what each row's shares have in common
    for rows in _blocks(q, k, scores):
        d_shares = torch.bmm(d_out[:, rows], v.mT)
        shares, d_scores = _softmax_backward(_scores(q[:, rows], k), d_shares, along[:, rows], q.shape[2] ** -0.5)
        d_q[:, rows] = torch.bmm(d_scores, k)
        d_k += torch.bmm(d_scores.mT, q[:, rows])
        d_v += torch.bmm(shares.mT, d_out[:, rows])
    return d_q, d_k.to(k.dtype), d_v.to(v.dtype)


def _blocks(q: Tensor, k: Tensor, scores: int) -> Iterator[slice]:
    step = max(scores // (len(k) * k.shape[1]), 1)
    return (slice(start, start + step) for start in range(0, q.shape[1], step))


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """q k^T, float32 and not yet scaled: [B, rows, T]."""
    if q.is_cuda and q.dtype != torch.float32:
        return torch.bmm(q, k.mT, out_dtype=torch.float32)
    return torch.bmm(q, k.mT).float()


def _softmax(scores: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    if _on_card(scores):
        from dreamerxl.guidance import attention_triton as fast

        return fast.softmax(scores, scale, dtype)
    return (scores * scale).softmax(2).to(dtype)


def _softmax_backward(scores: Tensor, d_shares: Tensor, along: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The shares again, and the gradient for q k^T, both [B, rows, T] in the type of d_shares. along [B, rows]."""
    if _on_card(scores):
        from dreamerxl.guidance import attention_triton as fast

        return fast.softmax_backward(scores, d_shares, along, scale)
    shares = (scores * scale).softmax(2)
    d_scores = shares * (d_shares.float() - along[..., None]) * scale
    return shares.to(d_shares.dtype), d_scores.to(d_shares.dtype)


def _on_card(x: Tensor) -> bool:
    return x.is_cuda and HAS_TRITON
