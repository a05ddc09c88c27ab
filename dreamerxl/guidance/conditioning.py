"""Text embeddings as a UNet takes them, row by row.

hidden [N, L, D]    last (SD) or second to last (SDXL) hidden states of the text encoders
pooled [N, P]       pooled embedding of SDXL's second encoder, else None
time_ids [N, 6]     SDXL's original size, crop and target size, else None
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """N rows of text conditioning."""

    hidden: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def rows(self, index: int | slice | list[int] | Tensor) -> Conditioning:
        """The rows at an index, a slice or a list of indices; one index keeps its axis."""
        at = [index] if isinstance(index, int) else index
        return self._each(lambda part: part[at])

    def repeated(self, count: int) -> Conditioning:
        """The one row, ``count`` times, without a copy."""
        return self._each(lambda part: part.expand(count, *part.shape[1:]))

    def mix(self, weights: Tensor) -> Conditioning:
        """Weighted sums of the rows. weights [B, N] -> B rows."""
        # in float32: bf16 weights need not sum to 1, and a size of 1024 would become 1028
        return self._each(lambda part: torch.einsum("bn,n...->b...", weights.to(part.device), part.float()).to(part.dtype))

    def blanked(self, index: int) -> Conditioning:
        """The same rows, the text of one of them all zeros; its sizes stay."""
        keep = torch.ones(len(self), dtype=torch.bool, device=self.hidden.device)
        keep[index] = False
        pooled = None if self.pooled is None else self.pooled * keep[:, None]
        return Conditioning(self.hidden * keep[:, None, None], pooled, self.time_ids)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        pooled = None if self.pooled is None else change(self.pooled)
        time_ids = None if self.time_ids is None else change(self.time_ids)
        return Conditioning(change(self.hidden), pooled, time_ids)


def join(parts: list[Conditioning]) -> Conditioning:
    """The rows of several conditionings of one model, one after the other."""

    def cat(tensors: list[Tensor | None]) -> Tensor | None:
        given = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(given) if given else None

    return Conditioning(
        torch.cat([part.hidden for part in parts]),
        cat([part.pooled for part in parts]),
        cat([part.time_ids for part in parts]),
    )
