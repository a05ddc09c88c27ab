# The page on a CPU. On a GPU machine give a CUDA image that has Python and a compiler as BASE, and run with --gpus all.
ARG BASE=python:3.12-slim
FROM ${BASE}

RUN useradd --create-home --uid 1000 dreamer && mkdir /data && chown dreamer /data
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY app.py ./
COPY dreamerxl dreamerxl
COPY presets presets

USER dreamer
ENV HF_HOME=/data/huggingface NUMBA_CACHE_DIR=/data/numba GRADIO_ANALYTICS_ENABLED=False
EXPOSE 7860
HEALTHCHECK CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health')"
CMD ["python", "app.py", "--host", "0.0.0.0", "--port", "7860", "--runs-dir", "/data/runs"]
