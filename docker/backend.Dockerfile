# The backend: Label Studio's side. No torch, no weights: of pixellm_model it uses the image decoder.
FROM python:3.11-slim AS build
WORKDIR /source
RUN python -m venv /venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY backend backend
COPY label_config label_config
COPY pixellm_model pixellm_model
COPY worker worker
RUN /venv/bin/pip install --no-cache-dir -c constraints.txt ".[backend,postgresql]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home pixellm && install --directory --owner pixellm /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER pixellm
WORKDIR /home/pixellm
EXPOSE 9090
CMD ["python", "-m", "backend"]
