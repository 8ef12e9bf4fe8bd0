# syntax=docker/dockerfile:1
# weir in a container: one static binary and nothing else, under a user without rights. docs/deploy.md tells how to run it.
#
#   docker build -t weir --build-arg VERSION="$(git describe --tags --always)" --build-arg COMMIT="$(git rev-parse HEAD)" .

FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
ARG COMMIT=unknown
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT" -o /out/weir ./cmd/weir
RUN mkdir -p /out/data

# Without certificates: weir speaks TLS to nobody but its own nodes, whose authority is its config's.
FROM scratch
ARG VERSION=dev
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="weir" \
      org.opencontainers.image.description="A cluster of forward proxies that enforces limits across all its nodes" \
      org.opencontainers.image.licenses="MPL-2.0" \
      org.opencontainers.image.source="https://github.com/weirproxy/weir" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
COPY --from=build /out/weir /usr/local/bin/weir
COPY --from=build --chown=65532:65532 --chmod=0700 /out/data /var/lib/weir
ENV PATH=/usr/local/bin
USER 65532:65532
WORKDIR /var/lib/weir
VOLUME /var/lib/weir
# Workers, the API, and, between nodes, rpc and gossip.
EXPOSE 8080 8081 8082 8083 8083/udp
STOPSIGNAL SIGTERM
# WEIR_ADDR says where the API listens, if not at http://127.0.0.1:8081; the question needs no token.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["weir", "status", "--ready"]
ENTRYPOINT ["weir"]
CMD ["agent", "--config", "/etc/weir"]
