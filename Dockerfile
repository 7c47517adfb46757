# Images of sicnn-app: `--target cpu` is the small one, `cuda` (the last, so the default) also runs
# without a GPU.
#
#   docker build --target cpu -t sicnn-app:cpu .
#   docker build -t sicnn-app .
#
# Releases pass the base by digest, --build-arg BASE_IMAGE=python:3.11-slim-bookworm@sha256:..., and the
# version of their tag. Every package is installed by the hash of its file, see requirements/README.md.
# /opt/sicnn-app/sbom.cdx.json lists what is installed.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG VERSION=0.13.0

# ---- an empty environment, which both images fill -------------------------------------------------
FROM ${BASE_IMAGE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/sicnn-app
ENV PATH=/opt/sicnn-app/bin:$PATH

# ---- the app as a wheel ---------------------------------------------------------------------------
FROM builder AS wheel
COPY requirements/build.txt ./
RUN pip install --no-deps --require-hashes --only-binary=:all: -r build.txt
COPY LICENSE README.md pyproject.toml ./
COPY sicnn_app sicnn_app
RUN pip wheel --no-deps --no-build-isolation --wheel-dir wheels .

# ---- the tool that lists an image's packages: in no image -----------------------------------------
FROM ${BASE_IMAGE} AS sbom
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/sbom.txt ./
RUN python -m venv /opt/sbom \
 && /opt/sbom/bin/pip install --no-deps --require-hashes --only-binary=:all: -r sbom.txt

# ---- what both images say of themselves and set ---------------------------------------------------
FROM ${BASE_IMAGE} AS runtime
ARG BASE_IMAGE
ARG VERSION
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="sicnn-app" \
      org.opencontainers.image.description="BIDS-App: F, D and D* maps from IVIM MRI with SI-CNN" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.authors="The sicnn-app developers" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
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
COPY docker/install_packages requirements/torch-cpu.txt requirements/app.txt ./
RUN ./install_packages torch-cpu.txt ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"}
# The app comes last of all, so that a changed line of code leaves the layers before it as they are.
COPY docker/trim_environment ./
RUN ./trim_environment
COPY --from=sbom /opt/sbom /opt/sbom
COPY --from=wheel /build/wheels wheels
COPY docker/finish_environment ./
RUN ./finish_environment /opt/sicnn-app/sbom.cdx.json

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
COPY docker/install_packages requirements/torch-cuda.txt requirements/app.txt ./
RUN ./install_packages torch-cuda.txt
COPY docker/trim_environment ./
RUN ./trim_environment
COPY --from=sbom /opt/sbom /opt/sbom
COPY --from=wheel /build/wheels wheels
COPY docker/finish_environment ./
RUN ./finish_environment /opt/sicnn-app/sbom.cdx.json

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
