# The dispatcher, Ray's head and Ray's workers: torch, Ray, and a compiler for the CPU kernels of gn.
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu   builds without the CUDA libraries
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
ARG TORCH_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home normlab \
 && install -d -o normlab /run/normlab /run/ray /var/cache/gn \
      /var/lib/normlab /var/lib/normlab/artifacts /var/lib/normlab/data
WORKDIR /opt/normlab
# Layers that change rarely come first: torch (the version of the lock, which changes more often than torch), the other
# dependencies, the kernels, the code.
RUN python3 -m venv --without-pip /opt/venv \
 && python3 -m pip --python /opt/venv/bin/python install ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch==2.13.0
COPY pyproject.toml requirements.lock ./
# Install empty packages as editable: the code is then copied to /opt/normlab, without another run of pip.
RUN install -d gn worker service normlab && touch gn/__init__.py worker/__init__.py service/__init__.py normlab/__init__.py README.md LICENSE \
 && python3 -m pip --python /opt/venv/bin/python install --constraint requirements.lock --editable '.[worker,s3]' \
 && rm -r gn worker service normlab README.md LICENSE
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    GN_CACHE_DIR=/var/cache/gn TRITON_CACHE_DIR=/tmp/triton
COPY gn gn
USER normlab
# Compile for the CPU of the build machine. On another CPU a worker compiles at the first use, which takes some seconds.
RUN python -m gn.cpu
USER root
COPY docker/ray.sh /usr/local/bin/normlab-ray
COPY worker worker
COPY service service
RUN python -m compileall -q gn worker service
WORKDIR /var/lib/normlab
USER normlab
CMD ["python", "-m", "service.dispatcher"]
