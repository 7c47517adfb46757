# Images of sicnn-app: `--target cpu` is the small one, `cuda` (the last, so the default) also runs
# without a GPU.
#
#   docker build --target cpu -t sicnn-app:cpu .
#   docker build -t sicnn-app .
#
# Releases pass the base by digest: --build-arg BASE_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG VERSION=0.4.0

# ---- everything but torch and the app: shared by both images --------------------------------------
FROM ${BASE_IMAGE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/sicnn-app
ENV PATH=/opt/sicnn-app/bin:$PATH
COPY constraints.txt pyproject.toml ./
# Dependencies come before the source, so that a changed line of code does not install them again.
RUN python -c "import tomllib; \
deps = tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']; \
print(*(d for d in deps if not d.startswith('torch')), sep='\n')" > requirements.txt \
 && pip install --no-compile -c constraints.txt -r requirements.txt
COPY LICENSE README.md ./
COPY sicnn_app sicnn_app
RUN pip wheel --no-deps --wheel-dir wheels .
COPY docker/finish_environment ./

# ---- what both images say of themselves and set ---------------------------------------------------
FROM ${BASE_IMAGE} AS runtime
ARG VERSION
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="sicnn-app" \
      org.opencontainers.image.description="BIDS-App: F, D and D* maps from IVIM MRI with SI-CNN" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# The app points its caches into the work directory by itself, so nothing is said of them here.
ENV PATH=/opt/sicnn-app/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1
# Never root by default; `--user "$(id -u):$(id -g)"` makes the outputs one's own.
USER 1000:1000
ENTRYPOINT ["/opt/sicnn-app/bin/sicnn-app"]
CMD ["--help"]

# ---- CPU ------------------------------------------------------------------------------------------
FROM builder AS builder-cpu
# The index of the CPU builds; an empty value leaves the choice to pip's own configuration.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN pip install --no-compile -c constraints.txt \
      ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} torch wheels/*.whl \
 && python -c "import torch; assert torch.version.cuda is None, 'not a CPU build of torch'"
RUN ./finish_environment

FROM runtime AS cpu
ARG VERSION
COPY --from=builder-cpu /opt/sicnn-app /opt/sicnn-app
ENV SICNN_APP_CONTAINER_TAG=${VERSION}-cpu
RUN MPLCONFIGDIR=/tmp python -c "import bids, dipy, jinja2, matplotlib, nibabel, nilearn, numpy, rich, scipy, torch" \
 && sicnn-app --version | grep -F "${VERSION}" \
 && sicnn-simulate --version | grep -F "${VERSION}"

# ---- CUDA -----------------------------------------------------------------------------------------
FROM builder AS builder-cuda
# The default index's torch brings the CUDA runtime as packages: the base needs none of it.
RUN pip install --no-compile -c constraints.txt torch wheels/*.whl
RUN ./finish_environment

FROM runtime AS cuda
ARG VERSION
COPY --from=builder-cuda /opt/sicnn-app /opt/sicnn-app
# The NVIDIA variables say what the container toolkit lets in; without it the app runs on the CPU.
ENV SICNN_APP_CONTAINER_TAG=${VERSION} \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN MPLCONFIGDIR=/tmp python -c "import bids, dipy, jinja2, matplotlib, nibabel, nilearn, numpy, rich, scipy, torch" \
 && sicnn-app --version | grep -F "${VERSION}" \
 && sicnn-simulate --version | grep -F "${VERSION}"
