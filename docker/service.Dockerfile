# The api, and what runs once beside it (migrations, secrets): no torch, no Ray.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/normlab
RUN useradd --uid 1000 --create-home normlab \
 && install -d -o normlab /var/lib/normlab /run/normlab
# The dependencies first: they change less often than the code.
COPY pyproject.toml requirements.lock README.md LICENSE ./
RUN install -d gn worker service && touch gn/__init__.py worker/__init__.py service/__init__.py \
 && python3 -m venv /opt/venv && /opt/venv/bin/pip install --constraint requirements.lock .
ENV PATH=/opt/venv/bin:$PATH
COPY gn gn
COPY worker worker
COPY service service
RUN pip install --no-deps --force-reinstall .
COPY docker/secrets.sh /usr/local/bin/normlab-secrets
WORKDIR /var/lib/normlab
USER normlab
CMD ["python", "-m", "service.app"]
