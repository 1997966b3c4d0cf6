# longview's server in a container:
#
#   docker build -f containers/serve.Dockerfile -t longview-serve .
#   docker run --rm --read-only --cap-drop ALL -p 127.0.0.1:8000:8000 -v "$PWD/model:/model:ro" longview-serve \
#       --checkpoint /model/best.ckpt --token-file /model/token
#
# Nothing is written, so the file system may be read-only. CPU by default, with PyTorch's CPU wheels (--build-arg
# INDEX=...); for GPUs give --build-arg BASE=nvcr.io/nvidia/pytorch:26.09-py3, whose torch is kept. An .onnx file needs
# --build-arg EXTRAS=serve,onnx. compose.yaml starts it behind one command.
ARG BASE=docker.io/library/python:3.12-slim
# hadolint ignore=DL3006  # the tag is in BASE
FROM ${BASE}

ARG UV_VERSION=0.13.8
ARG EXTRAS=serve
ARG INDEX=https://download.pytorch.org/whl/cpu
ARG USER_ID=1000

WORKDIR /opt/longview

COPY containers/install.sh containers/
COPY pyproject.toml ./
RUN UV_EXTRA_INDEX_URL="${INDEX}" UV_INDEX_STRATEGY=unsafe-best-match UV_VERSION="${UV_VERSION}" \
    bash containers/install.sh libraries . "${EXTRAS}"
COPY LICENSE README.md main.py ./
COPY configs configs
COPY src src
RUN bash containers/install.sh longview . \
    && rm -rf src containers

RUN id -u "${USER_ID}" >/dev/null 2>&1 || useradd --uid "${USER_ID}" --no-create-home --home-dir /tmp longview
USER ${USER_ID}
ENV HOME=/tmp MPLCONFIGDIR=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
# SIGTERM lets requests finish
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["python3", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["python3", "/opt/longview/main.py", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]
