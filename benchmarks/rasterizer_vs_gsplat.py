"""The CPU rasterizer against gsplat's CUDA kernels: the same scenes through rasterize() on both devices.

    python benchmarks/rasterizer_vs_gsplat.py          (needs a CUDA card; gsplat may compile for a minute first)

Both are float32, so here and there rounding decides whether a Gaussian's alpha reaches 1/255 and is drawn: a step of
up to 0.004. Such pixels are counted ("apart": colour or alpha differ by more than 1e-4) and left out of the loss whose
gradients are compared. Errors of gradients are |cpu - cuda| / |cuda| over the whole tensor.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import splatting_reference as reference  # noqa: E402

from dreamerxl.gaussians.rasterize import Render, rasterize  # noqa: E402
from dreamerxl.gaussians.scene import Splats  # noqa: E402

NAMES = ("means", "quats", "scales", "opacities", "colors", "background")
CAMERAS = 2


def draw(device: str, scene: list[Tensor], cameras: tuple[Tensor, Tensor], size: tuple[int, int]) -> tuple[list[Tensor], Render]:
    leaves = [t.to(device, torch.float32).clone().requires_grad_(True) for t in scene]
    viewmats, Ks = (t.to(device, torch.float32) for t in cameras)
    render = rasterize(Splats(*leaves[:5]), viewmats, Ks, *size, leaves[5])
    render.info["means2d"].retain_grad()
    return leaves, render


def pull(render: Render, pulls: list[Tensor]) -> None:
    pictures = [render.rgb, render.depth, render.alpha]
    torch.autograd.backward(pictures, [p.to(render.rgb.device, torch.float32) for p in pulls])


def gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad.cpu()


def milliseconds(device: str, scene: list[Tensor], cameras: tuple[Tensor, Tensor], size: tuple[int, int]) -> float:
    times = []
    for _ in range(12):
        start = time.perf_counter()
        _, render = draw(device, scene, cameras, size)
        (render.rgb.sum() + render.depth.sum() + render.alpha.sum()).backward()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def compare(count: int, width: int, height: int) -> None:
    scene = reference.random_scene(count, 0)
    scene[2] = scene[2] * (1_000 / count) ** (1 / 3)
    generator = torch.Generator().manual_seed(1)
    scene.append(torch.rand(CAMERAS, 3, generator=generator, dtype=torch.float64))
    cameras = reference.orbit(CAMERAS, width, height)
    (ours, cpu), (theirs, cuda) = (draw(device, scene, cameras, (width, height)) for device in ("cpu", "cuda"))
    with torch.no_grad():
        rgb = (cpu.rgb - cuda.rgb.cpu()).abs().amax(-1)
        alpha = (cpu.alpha - cuda.alpha.cpu()).abs()
        depth = (cpu.depth - cuda.depth.cpu()).abs() / cuda.depth.cpu().clamp(min=1)
        same = (rgb < 1e-4) & (alpha < 1e-4)
    weights = [torch.randn(p.shape, generator=generator) for p in (cpu.rgb, cpu.depth, cpu.alpha)]
    pulls = [weights[0] * same[..., None], weights[1] * same, weights[2] * same]
    pull(cpu, pulls)
    pull(cuda, pulls)
    visible = [(r.info["radii"].cpu() > 0).all(-1) for r in (cpu, cuda)]
    both = visible[0] & visible[1]
    radii = cpu.info["radii"] - cuda.info["radii"].cpu()
    pixels = (cpu.info["means2d"] - cuda.info["means2d"].cpu())[both].abs().max()

    print(f"\n{count:,} Gaussians, {CAMERAS} x {width}x{height}; {(~same).sum().item()} of {same.numel():,} pixels apart")
    print(f"  rgb    max {rgb[same].max():.1e} (apart included {rgb.max():.1e})")
    print(f"  alpha  max {alpha[same].max():.1e} (apart included {alpha.max():.1e})")
    print(f"  depth  max {depth[same].max():.1e} relative (apart included {depth.max():.1e})")
    print(
        f"  means2d max {pixels:.1e} pixels; radii differ for {(radii[both] != 0).any(-1).sum().item()} of {both.sum().item():,}"
    )
    print(f"  visible to one alone: {(visible[0] != visible[1]).sum().item()}")
    pairs = [(name, gradient(a), gradient(b)) for name, a, b in zip(NAMES, ours, theirs, strict=True)]
    pairs.append(("means2d", *(gradient(r.info["means2d"]) * both[..., None] for r in (cpu, cuda))))
    for name, a, b in pairs:
        print(f"  gradient of {name:<10} {((a - b).norm() / b.norm()).item():.1e}")
    times = [milliseconds(device, scene, cameras, (width, height)) for device in ("cpu", "cuda")]
    print(f"  forward + backward: cpu {times[0]:.1f} ms ({torch.get_num_threads()} threads), cuda {times[1]:.1f} ms")


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("This comparison needs a CUDA card.")
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for count in (1_000, 5_000, 20_000):
        for size in ((128, 128), (250, 190)):
            compare(count, *size)


if __name__ == "__main__":
    main()
