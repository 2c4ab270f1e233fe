# The API and the one-off services (secrets, migrations, the bucket): without torch, Ray, pip and a compiler.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# The virtual environment with the locked dependencies changes rarely, so this stage is usually cached.
FROM ${PYTHON_IMAGE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/normlab
COPY pyproject.toml requirements.lock ./
# Install empty packages as editable: the final stage then only copies the code to /opt/normlab, and needs no pip.
RUN python3 -m venv --without-pip /opt/venv \
 && install -d gn worker service normlab && touch gn/__init__.py worker/__init__.py service/__init__.py normlab/__init__.py README.md LICENSE \
 && python3 -m pip --python /opt/venv/bin/python install --no-compile \
      --constraint requirements.lock --editable '.[s3]' \
 && rm -r gn worker service normlab README.md LICENSE
# Remove parts of large packages that the API does not use. It needs scipy's special functions, plotly's JavaScript, and
# botocore's S3 and credential providers; it needs neither headers nor tests of any package.
RUN cd /opt/venv/lib/python3*/site-packages \
 && find scipy -mindepth 1 -maxdepth 1 -type d ! -name special ! -name _lib -exec rm -r {} + \
 && find plotly -type f ! -name plotly.min.js ! -path plotly/__init__.py -delete \
 && find botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -exec rm -r {} + \
 && find . -type d '(' -name tests -o -name include ')' -prune -exec rm -r {} + \
 && find . '(' -name '*.pyi' -o -type d -empty ')' -delete
# The smoke test proves that the rest suffices, and leaves bytecode of the imported modules only.
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
COPY normlab /opt/normlab/normlab
RUN /opt/venv/bin/python -m compileall -q /opt/normlab
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/normlab
USER normlab
CMD ["python", "-m", "service.app"]
