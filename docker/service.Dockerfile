# The api and the one-time tasks (secrets, migrations, bucket), without torch, Ray, pip and a compiler.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# The layer that changes rarely: the environment with all locked dependencies.
FROM ${PYTHON_IMAGE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/normlab
COPY pyproject.toml requirements.lock ./
# An editable install of empty packages: the code then goes to /opt/normlab by a COPY, without pip.
RUN python3 -m venv --without-pip /opt/venv \
 && install -d gn worker service && touch gn/__init__.py worker/__init__.py service/__init__.py README.md LICENSE \
 && python3 -m pip --python /opt/venv/bin/python install --no-compile \
      --constraint requirements.lock --editable '.[s3]' \
 && rm -r gn worker service README.md LICENSE
# Removes unused parts of large packages. The api uses the special functions of scipy, the JavaScript of plotly, and S3
# and the credentials of botocore. It uses neither the headers of greenlet and numpy nor the tests of any package.
RUN cd /opt/venv/lib/python3*/site-packages \
 && find scipy -mindepth 1 -maxdepth 1 -type d ! -name special ! -name _lib -exec rm -r {} + \
 && find plotly -type f ! -name plotly.min.js ! -path plotly/__init__.py -delete \
 && find botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -exec rm -r {} + \
 && find . -type d '(' -name tests -o -name include ')' -prune -exec rm -r {} + \
 && find . '(' -name '*.pyi' -o -type d -empty ')' -delete
# The import checks that the remaining files suffice, and compiles the bytecode of the modules that are used.
COPY docker/smoke.py ./
RUN /opt/venv/bin/python smoke.py

FROM ${PYTHON_IMAGE}
RUN useradd --uid 1000 --create-home normlab \
 && install -d -o normlab /run/normlab /run/ray /var/lib/normlab /var/lib/normlab/artifacts
COPY --from=dependencies /opt/venv /opt/venv
COPY docker/secrets.sh /usr/local/bin/normlab-secrets
COPY gn /opt/normlab/gn
COPY worker /opt/normlab/worker
COPY service /opt/normlab/service
RUN /opt/venv/bin/python -m compileall -q /opt/normlab
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/normlab
USER normlab
CMD ["python", "-m", "service.app"]
