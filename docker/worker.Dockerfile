# The dispatcher, Ray's head and its workers: torch, Ray, and a compiler for the CPU kernels of gn.
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu   leaves the CUDA libraries out
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
ARG TORCH_INDEX=
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/normlab
RUN useradd --uid 1000 --create-home normlab \
 && install -d -o normlab /var/lib/normlab /var/lib/normlab/data /run/normlab
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch==2.13.0
# The dependencies first: they change less often than the code.
COPY pyproject.toml requirements.lock README.md LICENSE ./
RUN install -d gn worker service && touch gn/__init__.py worker/__init__.py service/__init__.py \
 && /opt/venv/bin/pip install --constraint requirements.lock '.[worker]'
ENV PATH=/opt/venv/bin:$PATH
COPY gn gn
COPY worker worker
COPY service service
RUN pip install --no-deps --force-reinstall .
COPY docker/ray.sh /usr/local/bin/normlab-ray
WORKDIR /var/lib/normlab
USER normlab
CMD ["python", "-m", "service.dispatcher"]
