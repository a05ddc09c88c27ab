"""Softmax of rows of attention scores and its gradient as Triton kernels; see attention.py for names and shapes.

A program holds one row, so that scores are read once and shares written once, in the type that the products want.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 16


def softmax(scores: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Shares [B, rows, T] in the type asked for."""
    shares, count = torch.empty_like(scores, dtype=dtype), scores.shape[2]
    _softmax[scores.shape[0] * scores.shape[1],](scores, shares, scale, count, triton.next_power_of_2(count), num_warps=WARPS)
    return shares


def softmax_backward(scores: Tensor, d_shares: Tensor, along: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The shares again, and the gradient for q k^T."""
    shares, d_scores, count = torch.empty_like(d_shares), torch.empty_like(d_shares), scores.shape[2]
    _softmax_backward[scores.shape[0] * scores.shape[1],](
        scores, d_shares, along.contiguous(), shares, d_scores, scale, count, triton.next_power_of_2(count), num_warps=WARPS
    )
    return shares, d_scores


@triton.jit
def _softmax(scores_ptr, shares_ptr, scale, count, BLOCK: tl.constexpr):
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask = lane < count
    s = tl.load(scores_ptr + row * count + lane, mask=mask, other=-float("inf")) * scale
    p = tl.exp(s - tl.max(s, 0))
    tl.store(shares_ptr + row * count + lane, (p / tl.sum(p, 0)).to(shares_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _softmax_backward(
    scores_ptr, d_shares_ptr, along_ptr, shares_ptr, d_scores_ptr, scale, count, BLOCK: tl.constexpr
):  # fmt: skip
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask = lane < count
    s = tl.load(scores_ptr + row * count + lane, mask=mask, other=-float("inf")) * scale
    p = tl.exp(s - tl.max(s, 0))
    p = p / tl.sum(p, 0)
    tl.store(shares_ptr + row * count + lane, p.to(shares_ptr.dtype.element_ty), mask=mask)
    d = tl.load(d_shares_ptr + row * count + lane, mask=mask, other=0.0).to(tl.float32)
    d = p * (d - tl.load(along_ptr + row)) * scale
    tl.store(d_scores_ptr + row * count + lane, d.to(d_scores_ptr.dtype.element_ty), mask=mask)
