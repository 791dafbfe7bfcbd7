# The images: one small static binary each, from scratch, for a user without rights.
#
#   docker build --target artifactdb-api      -t artifactdb/artifactdb-api:0.1.0 .
#   docker build --target artifactdb-indexer  -t artifactdb/artifactdb-indexer:0.1.0 .
#   docker build --target artifactdb-operator -t artifactdb/artifactdb-operator:0.1.0 .
#   docker build --target artifactdb          -t artifactdb/artifactdb:0.1.0 .
#
# `spec.image` of an instance names one image for its API and its indexer: the target `instance` has
# both binaries.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev gcc g++ make cmake perl linux-headers
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/src/target --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --release --locked --workspace --all-features --bins \
    && mkdir /out \
    && for name in artifactdb artifactdb-api artifactdb-indexer artifactdb-operator; do \
         cp target/release/$name /out/; done

FROM scratch AS base
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532

FROM base AS artifactdb-api
COPY --from=build /out/artifactdb-api /artifactdb-api
ENTRYPOINT ["/artifactdb-api"]

FROM base AS artifactdb-indexer
COPY --from=build /out/artifactdb-indexer /artifactdb-indexer
ENTRYPOINT ["/artifactdb-indexer"]

FROM base AS instance
COPY --from=build /out/artifactdb-api /artifactdb-api
COPY --from=build /out/artifactdb-indexer /artifactdb-indexer

FROM base AS artifactdb-operator
COPY --from=build /out/artifactdb-operator /artifactdb-operator
ENTRYPOINT ["/artifactdb-operator"]

FROM base AS artifactdb
COPY --from=build /out/artifactdb /artifactdb
ENTRYPOINT ["/artifactdb"]
