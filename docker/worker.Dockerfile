# The worker: the model and its queue. The torch that pip takes on Linux brings CUDA; for a smaller image on
# machines without a GPU name an index of CPU wheels: --build-arg PIP_EXTRA_INDEX_URL=...
FROM python:3.11-slim AS build
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
RUN python -m venv /venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pixellm_model pixellm_model
COPY worker worker
RUN /venv/bin/pip install --no-cache-dir -c constraints.txt ".[model,postgresql]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home pixellm && install --directory --owner pixellm /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER pixellm
WORKDIR /home/pixellm
CMD ["python", "-m", "worker"]
