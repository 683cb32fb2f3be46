# syntax=docker/dockerfile:1
# The image of Sluice, for linux/amd64 and linux/arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 --tag sluice .
# Two images come from this file: `sluice` (the last stage, the default), which runs without any privilege, and
# `redirect` (--target redirect), which sets up iptables in an init container and so runs as root.

ARG NODE=26.10.0

# --- What needs a compiler: the shim and the dependencies -----------------------------------------------------------
FROM node:${NODE}-bookworm-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/sluice
COPY package.json package-lock.json .npmrc ./
# Optional dependencies are copies of Node for checkouts; the image has its own.
RUN npm ci --omit=dev --omit=optional
COPY bin bin
COPY scripts scripts
COPY src src
COPY policy policy
COPY LICENSE ./
RUN bash scripts/build-native.sh
# Everything is compiled once, here: at run time the cache is only read, and nothing is built at start.
ENV NODE_COMPILE_CACHE=/opt/sluice/.compile-cache
RUN bash scripts/warm-cache.sh

# --- The redirect, for an init container ----------------------------------------------------------------------------
FROM node:${NODE}-bookworm-slim AS redirect
RUN apt-get update \
 && apt-get install --yes --no-install-recommends iptables iproute2 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/sluice /opt/sluice
ENTRYPOINT ["node", "/opt/sluice/src/main.ts"]
CMD ["redirect", "print"]

# --- The proxy and the connector ------------------------------------------------------------------------------------
FROM node:${NODE}-bookworm-slim AS sluice
LABEL org.opencontainers.image.title="sluice" \
      org.opencontainers.image.description="A transparent proxy and a connector that says what it does and why" \
      org.opencontainers.image.licenses="Apache-2.0"
# npm and yarn are for building; an image that runs has no use for them.
RUN rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /opt/yarn* /usr/local/bin/yarn*
COPY --from=build /opt/sluice /opt/sluice
# What is mounted or copied here takes its place.
COPY policy/default.yaml /etc/connector/policy.yaml
# A port here is how `sluice serve` knows that it is a connector too. Set it to nothing in a sidecar.
ENV NODE_ENV=production \
    NODE_COMPILE_CACHE=/opt/sluice/.compile-cache \
    HASURA_CONFIGURATION_DIRECTORY=/etc/connector \
    HASURA_CONNECTOR_PORT=8080
# The connector, the redirected listeners.
EXPOSE 8080 4140 4143
# A number, so that Kubernetes can see it is not root; the redirect leaves traffic of this user alone.
USER 2102:2102
WORKDIR /etc/connector
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["node", "/opt/sluice/scripts/health.ts"]
ENTRYPOINT ["node", "/opt/sluice/src/main.ts"]
CMD ["serve"]
