# The dispatcher, Ray's head and its workers: torch, Ray, and a compiler for the CPU kernels of gn.
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu   omits the CUDA libraries
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
ARG TORCH_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home normlab \
 && install -d -o normlab /run/normlab /run/ray /var/cache/gn \
      /var/lib/normlab /var/lib/normlab/artifacts /var/lib/normlab/data
WORKDIR /opt/normlab
# Layers from the largest and most stable to the smallest and most volatile: torch (at the locked version; the lock itself
# changes more often), the other dependencies, the kernels, the code.
RUN python3 -m venv --without-pip /opt/venv \
 && python3 -m pip --python /opt/venv/bin/python install ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch==2.13.0
COPY pyproject.toml requirements.lock ./
# An editable install of empty packages: the code then goes to /opt/normlab by a COPY, without pip.
RUN install -d gn worker service && touch gn/__init__.py worker/__init__.py service/__init__.py README.md LICENSE \
 && python3 -m pip --python /opt/venv/bin/python install --constraint requirements.lock --editable '.[worker,s3]' \
 && rm -r gn worker service README.md LICENSE
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    GN_CACHE_DIR=/var/cache/gn TRITON_CACHE_DIR=/tmp/triton
COPY gn gn
USER normlab
# Compiled for the CPU of the build; a worker on another CPU compiles its kernels on first use, which takes seconds.
RUN python -m gn.cpu
USER root
COPY docker/ray.sh /usr/local/bin/normlab-ray
COPY worker worker
COPY service service
RUN python -m compileall -q gn worker service
WORKDIR /var/lib/normlab
USER normlab
CMD ["python", "-m", "service.dispatcher"]
