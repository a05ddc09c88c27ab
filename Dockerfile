# On a CPU:   docker build -t dreamerxl .
# On a card:  docker build -t dreamerxl-cuda --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#               --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .        and run it with --gpus all
# BASE is any Debian or Ubuntu; one with nvcc gets gsplat's kernels compiled here, so that none is needed where it runs.
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG CUDA_ARCHS="8.0 8.6 8.9 9.0"

RUN command -v python3 >/dev/null && python3 -c "import ensurepip, venv" \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv python3-dev ca-certificates; } \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 dreamer || useradd --create-home --uid 1000 --non-unique dreamer
RUN mkdir -p /data /opt/numba && chown 1000 /data /opt/numba

ENV PATH=/opt/venv/bin:$PATH TORCH_EXTENSIONS_DIR=/opt/extensions NUMBA_CACHE_DIR=/opt/numba \
    HF_HOME=/data/huggingface DREAMERXL_RUNS_DIR=/data/runs GRADIO_ANALYTICS_ENABLED=False PYTHONUNBUFFERED=1
WORKDIR /app
COPY requirements.txt .
RUN python3 -m venv /opt/venv \
    && torch=$(grep '^torch==' requirements.txt) \
    && if [ -n "${TORCH_INDEX}" ]; then pip install --no-cache-dir --index-url "${TORCH_INDEX}" "$torch"; fi \
    && pip install --no-cache-dir -r requirements.txt
RUN if command -v nvcc >/dev/null; then TORCH_CUDA_ARCH_LIST="${CUDA_ARCHS}" python -c "from gsplat.cuda import _backend; assert _backend._C"; fi
COPY app.py LICENSE THIRD_PARTY.md ./
COPY dreamerxl dreamerxl
COPY presets presets
COPY --chown=1000 replay replay

USER dreamer
RUN python -c "from dreamerxl.gaussians.rasterize_cpu import warm_up; warm_up()"
EXPOSE 7860
VOLUME /data
HEALTHCHECK --start-period=60s CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"
CMD ["python", "app.py", "--host", "0.0.0.0", "--port", "7860"]
