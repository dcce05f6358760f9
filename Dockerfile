# One image for every process: `docker run taximeter:local api`, `sidecar`, `settler`, `migrate`, `check`. docker-compose.yml
# uses it. Settings come as variables; secrets as files in a folder that CREDENTIALS_DIRECTORY names (docs/production.md).
#
# The base is named by its digest. Another one: `docker build --build-arg PYTHON_IMAGE=...`; `make pin-images` prints the
# newest as a line for .env.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# Server, tracing and exports, every package at the version that the tests ran with, checked against its hashes; pip and sources stay behind in this stage.
FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
RUN python -m venv /opt/taximeter
COPY .ci/constraints-server.txt constraints.txt
RUN /opt/taximeter/bin/python -m pip install --no-cache-dir --require-hashes --no-deps --requirement constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY lua lua
COPY meter meter
COPY migrations migrations
COPY settler settler
COPY taximeter taximeter
# The commit that this is: `docker build --build-arg BUILD=$(git rev-parse --short=12 HEAD)`; `make release` has it written.
ARG BUILD=
RUN [ -z "$BUILD" ] || printf '%s\n' "$BUILD" >meter/wire/build.txt
RUN /opt/taximeter/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/taximeter /opt/taximeter
# What the API keeps when Redis cannot take a charge: on a volume, so that it outlives the container.
RUN install --directory --owner=nobody --group=nogroup --mode=0700 /var/lib/taximeter
ENV PATH=/opt/taximeter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TAXIMETER_DATA_DIR=/var/lib/taximeter
WORKDIR /var/lib/taximeter
USER 65534:65534
EXPOSE 8084
# Of the API; compose names the process of every other service.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["taximeter", "ready", "api"]
ENTRYPOINT ["taximeter"]
CMD ["api"]
