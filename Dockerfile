# The image: Python, the trainer with CUDA 12.1 in its wheels, sd-scripts, tenner, and base models
# where a tag has them. Layers are ordered by how seldom they change: a new tenner version pulls
# megabytes. Build every tag with `docker buildx bake`, or the one without base models with
# `docker build -t tenner .`

# CUDA comes with torch's wheels, so a plain Python base will do: an old driver then meets tenner's
# own message instead of a container that never starts.
# `--build-arg BASE_IMAGE=…` takes another one.
ARG BASE_IMAGE=python
# The CUDA line, as docker/locks/trainer-*.txt has it: cu121, or cu128 for RTX 50.
ARG CUDA=cu121
# Which base models are baked: slim (none), sd15, sdxl, full (both).
ARG MODELS=slim
# `drop` leaves out 169 MB of cuDNN that no training here is thought to load; shown on no card yet.
ARG CUDNN_ADV=keep
# A day of Debian's archive (20260101T000000Z), so that two builds install the same packages; the
# newest ones where it is empty.
ARG APT_SNAPSHOT=
ARG SD_SCRIPTS_COMMIT=48d368fa557731ad0488c07304dfeba8c07910eb


FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS python


# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ARG APT_SNAPSHOT
RUN if [ -n "${APT_SNAPSHOT}" ]; then \
      sed -i -E "s#^URIs: .*/(debian[a-z-]*)/?\$#URIs: http://snapshot.debian.org/archive/\1/${APT_SNAPSHOT}\nCheck-Valid-Until: no#" \
        /etc/apt/sources.list.d/debian.sources; \
    fi


FROM base AS build
# The system's certificates, so that a build behind a company's proxy works; copies, as the cache is
# another file system; compiled code that is valid by its hash, so that equal builds are equal bytes.
ENV UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy UV_NO_CONFIG=1 UV_COMPILE_BYTECODE=1 \
    PYC_INVALIDATION_MODE=UNCHECKED_HASH
COPY docker/locks/build.txt /build/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r /build/build.txt
ENV UV=/opt/build/bin/uv


FROM build AS trainer
# binutils: Triton's library is 470 MB with its debugging symbols and 150 MB without
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils \
 && rm -rf /var/lib/apt/lists/*
ARG CUDA
COPY docker/locks/trainer-${CUDA}.txt /build/trainer.txt
RUN --mount=type=cache,target=/root/.cache/uv \
    python3 -m venv --without-pip /opt/trainer \
 && ${UV} pip install --python /opt/trainer/bin/python --require-hashes -r /build/trainer.txt \
 && rm -f /opt/trainer/.lock
COPY docker/slim.sh docker/check_trainer.py /build/
ARG CUDNN_ADV
RUN /build/slim.sh /opt/trainer "${CUDA}" "${CUDNN_ADV}" \
 && /opt/trainer/bin/python /build/check_trainer.py /build/trainer.txt "${CUDA}"


FROM base AS sd-scripts
# git: fetches sd-scripts
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/*
ARG SD_SCRIPTS_REPO=https://github.com/kohya-ss/sd-scripts.git
ARG SD_SCRIPTS_COMMIT
COPY docker/sd-scripts.patterns /build/
WORKDIR /opt/sd-scripts
# One commit by its full SHA, which git checks, and of its files only those that are wanted. Of .git
# only the commit's name stays, which tenner reads.
RUN git init -q \
 && git remote add origin "${SD_SCRIPTS_REPO}" \
 && git config core.sparseCheckout true \
 && cp /build/sd-scripts.patterns .git/info/sparse-checkout \
 && git fetch -q --depth 1 --filter=blob:none origin "${SD_SCRIPTS_COMMIT}" \
 && git -c advice.detachedHead=false checkout -q FETCH_HEAD \
 && test "$(git rev-parse HEAD)" = "${SD_SCRIPTS_COMMIT}" \
 && rm -rf .git \
 && mkdir .git \
 && echo "${SD_SCRIPTS_COMMIT}" > .git/HEAD


FROM trainer AS sd-scripts-compiled
WORKDIR /opt/sd-scripts
COPY --from=sd-scripts /opt/sd-scripts ./
# Compiled here, as nobody may write there later; imported, so that a missing package is told now.
RUN /opt/trainer/bin/python -m compileall -q --invalidation-mode unchecked-hash . \
 && HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 \
    /opt/trainer/bin/python -c "import train_network, sdxl_train_network"


FROM build AS tenner-environment
ARG CUDA
COPY docker/slim_tenner.sh docker/locks/tenner.txt /build/
COPY docker/locks/trainer-${CUDA}.txt /build/trainer.txt
# tenner itself lies in a folder of its own, named in a .pth file: the trainer is given that folder,
# and none of tenner's own packages. numpy is the trainer's: the same version for the same Python.
RUN --mount=type=cache,target=/root/.cache/uv \
    python3 -m venv --without-pip /opt/tenner \
 && ${UV} pip install --python /opt/tenner/bin/python --require-hashes -r /build/tenner.txt \
 && for site in /opt/tenner/lib/python3*/site-packages; do \
      echo /opt/tenner-app > "${site}/tenner-app.pth"; done \
 && rm -f /opt/tenner/.lock \
 && /build/slim_tenner.sh /build/tenner.txt /build/trainer.txt


FROM tenner-environment AS tenner-app
COPY pyproject.toml README.md LICENSE /src/
COPY entrypoint /src/entrypoint
# uv's note of when it installed a wheel goes, so that equal builds are equal bytes.
RUN /opt/build/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation -w /wheels /src \
 && ${UV} pip install --python /opt/tenner/bin/python --no-deps --no-index \
      --target /opt/tenner-app /wheels/tenner-*.whl \
 && sed -i '/uv_cache.json/d' /opt/tenner-app/tenner-*.dist-info/RECORD \
 && rm -f /opt/tenner-app/tenner-*.dist-info/uv_cache.json \
 && rm -f /opt/tenner-app/.lock \
 && /opt/tenner/bin/python -m tenner --help > /dev/null


FROM build AS fetch
COPY docker/locks/fetch.txt /build/
ENV HF_HUB_DISABLE_TELEMETRY=1
RUN --mount=type=cache,target=/root/.cache/uv \
    python3 -m venv --without-pip /opt/fetch \
 && ${UV} pip install --python /opt/fetch/bin/python --require-hashes -r /build/fetch.txt


FROM fetch AS fetch-sd15
COPY docker/fetch_model.py docker/models.toml /build/
ARG MODELS_HOST=https://huggingface.co
RUN /opt/fetch/bin/python /build/fetch_model.py sd15 /build/models.toml /opt/models "${MODELS_HOST}"


FROM fetch AS fetch-sdxl
COPY docker/fetch_model.py docker/models.toml /build/
ARG MODELS_HOST=https://huggingface.co
RUN /opt/fetch/bin/python /build/fetch_model.py sdxl /build/models.toml /opt/models "${MODELS_HOST}"


FROM base AS runtime
# tini: process 1, reaps what trainers leave; openssh-server: RunPod and Vast users get in where they
# ask for it; gcc and libc6-dev: Triton compiles its launcher with them (torch_compile). No program
# here needs to become another user by a bit of its file.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev openssh-server tini \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* /var/log/apt /var/log/dpkg.log \
      /usr/bin/*-lto-dump-* /usr/lib/gcc/*/*/lto1 \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
 && useradd --uid 1000 --user-group --home-dir /workspace --no-create-home --shell /bin/bash tenner \
 && install -d -o tenner -g tenner /workspace /workspace/output /workspace/training_data
COPY --from=trainer /opt/trainer /opt/trainer
COPY --from=sd-scripts-compiled /opt/sd-scripts /opt/sd-scripts


FROM runtime AS models-slim


FROM runtime AS models-sd15
COPY --from=fetch-sd15 /opt/models /opt/models


FROM runtime AS models-sdxl
COPY --from=fetch-sdxl /opt/models /opt/models


FROM models-sd15 AS models-full
COPY --from=fetch-sdxl /opt/models /opt/models


# hadolint ignore=DL3006
FROM models-${MODELS} AS image
COPY --from=tenner-environment /opt/tenner /opt/tenner
COPY --from=tenner-app /opt/tenner-app /opt/tenner-app
COPY docker/start.sh /usr/local/bin/tenner-start
RUN ln -s /opt/tenner-app/bin/tenner /usr/local/bin/tenner
# The trainer's programs come first, so that `python` and `accelerate` are the ones guides mean.
ENV PATH=/opt/trainer/bin:${PATH} \
    SD_SCRIPTS_DIR=/opt/sd-scripts \
    TENNER_TRAINER_PYTHON=/opt/trainer/bin/python \
    HF_HUB_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG CUDA
ARG MODELS
ARG SD_SCRIPTS_COMMIT
ARG VERSION=dev
ARG REVISION=
ARG SOURCE=
ARG CREATED=
ARG BASE_NAME=
ARG BASE_DIGEST=
ARG MINIMUM_DRIVER=525.60.13
LABEL org.opencontainers.image.title="tenner" \
      org.opencontainers.image.description="Train a Stable Diffusion LoRA on a rented GPU for under ten dollars" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_NAME}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}" \
      tenner.cuda="${CUDA}" \
      tenner.models="${MODELS}" \
      tenner.minimum-driver="${MINIMUM_DRIVER}" \
      tenner.sd-scripts="${SD_SCRIPTS_COMMIT}"
WORKDIR /workspace
# A command of tenner is root only until the owner of its output folder is known; any other program
# starts as the container does. With `--user` it starts as that one and stays it.
ENTRYPOINT ["tini", "--", "tenner-start"]
CMD ["train"]
