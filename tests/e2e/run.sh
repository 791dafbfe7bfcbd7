#!/usr/bin/env bash
# Runs the end-to-end tests: on the cluster of KUBECONFIG, or on a node that is built and started
# here, with Elasticsearch, Redis and S3 as processes of this machine. Everything that was started is
# stopped afterwards, also after a failure.
#
#   tests/e2e/run.sh              every test
#   tests/e2e/run.sh schemas …    arguments go to the tests
#   tests/e2e/run.sh --bench operator|dispatcher   a bench
#
# It installs config/install into the cluster. With KUBECONFIG the images that this names must be
# there (of examples/plugins, too), ARTIFACTDB_E2E_ADDRESS is this machine's address as pods reach it, and this machine must reach
# the addresses of Services. ARTIFACTDB_E2E_KEEP=1 leaves everything running.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
NODE=tests/e2e/node.sh
MUSL=x86_64-unknown-linux-musl
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

say() { echo "$*" >&2; }
trap 'say "error: line $LINENO of run.sh failed: $BASH_COMMAND"' ERR

# build WHAT…: static binaries in the images' profile
build() {
    rustup target list --installed | grep -q "$MUSL" || rustup target add "$MUSL"
    if ! command -v musl-gcc >/dev/null; then
        [ "$(id -u)" = 0 ] || { say "error: musl-gcc is missing; install musl-tools"; exit 1; }
        apt-get update -qq && apt-get install -y -qq musl-tools >/dev/null
    fi
    AWS_LC_SYS_CMAKE_BUILDER=0 cargo build --profile image --target "$MUSL" --locked \
        --workspace --all-features "$@"
}

load_images() {
    local name folder
    for name in artifactdb-operator artifactdb-api artifactdb-indexer artifactdb; do
        folder=$(mktemp -d)
        cp "$CARGO_TARGET_DIR/$MUSL/image/$name" "$folder/"
        cp /etc/ssl/certs/ca-certificates.crt "$folder/"
        printf 'FROM scratch\nCOPY ca-certificates.crt /etc/ssl/certs/\nCOPY %s /%s\nUSER 65532:65532\nENTRYPOINT ["/%s"]\n' "$name" "$name" "$name" >"$folder/Dockerfile"
        "$NODE" image "$folder" "docker.io/artifactdb/$name:$VERSION"
        rm -rf "$folder"
    done
}

# A base for images of scripts, from this machine's own programs: no registry is asked.
tools() {
    local folder=$1 name path
    for name in sh curl jq md5sum cat cut date env grep mktemp printf rm sed sleep tr wc python3; do
        path=$(command -v "/usr/bin/$name" || command -v "/bin/$name") || { say "error: $name is missing"; exit 1; }
        copy "$folder" "$path"
    done
    # python3 with its standard library alone.
    path=$(/usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_paths()["stdlib"])')
    mkdir -p "$folder$path"
    tar -C "$path" --exclude=test --exclude=__pycache__ --exclude=site-packages --exclude=dist-packages --exclude='config-*' -c . | tar -C "$folder$path" -x
    mkdir -p "$folder/bin"
    cp -L /bin/sh "$folder/bin/sh"
    for name in "$path"/lib-dynload/*.so; do copy "$folder" "$name"; done
    mkdir -p "$folder/tmp" "$folder/etc"
    chmod 1777 "$folder/tmp"
    echo 'hosts: files dns' >"$folder/etc/nsswitch.conf"
    for name in libnss_dns.so.2 libnss_files.so.2; do
        path=$(find /lib /usr/lib -name "$name" -print -quit)
        [ -z "$path" ] || copy "$folder" "$path"
    done
    find "$folder" -mindepth 1 -maxdepth 1 ! -name Dockerfile -printf 'COPY %f /%f\n' >"$folder/copies"
    { echo 'FROM scratch'; grep -v ' copies ' "$folder/copies"; echo 'ENV PATH=/usr/bin:/bin'; } >"$folder/Dockerfile"
    rm "$folder/copies"
}

# copy FOLDER PATH: a file and the libraries that it needs, at their places
copy() {
    local folder=$1 file
    while read -r file; do
        [ -e "$folder$file" ] && continue
        mkdir -p "$folder$(dirname "$file")"
        cp -L "$file" "$folder$file"
    done < <(echo "$2"; ldd "$2" 2>/dev/null | grep -o '/[^ ]*' || true)
}

load_plugins() {
    local folder name
    folder=$(mktemp -d)
    tools "$folder"
    "$NODE" image "$folder" localhost/tools:1
    rm -rf "$folder"
    for name in checksum-audit catalogue; do
        "$NODE" image "examples/plugins/$name" "docker.io/artifactdb/$name:$VERSION" localhost/tools:1
    done
}

stop() {
    [ -z "${ARTIFACTDB_E2E_KEEP:-}" ] || return 0
    scripts/services.sh down || true
    [ -z "${started:-}" ] || "$NODE" down || true
}
trap stop EXIT

export ARTIFACTDB_SERVICES_RUN=run-e2e ARTIFACTDB_SERVICES_ES_PORT=29200 \
    ARTIFACTDB_SERVICES_REDIS_PORT=26379 ARTIFACTDB_SERVICES_S3_PORT=28333
build --bins
export ARTIFACTDB_E2E_CLI=$CARGO_TARGET_DIR/$MUSL/image/artifactdb
if [ -z "${KUBECONFIG:-}" ]; then
    started=1
    node=$("$NODE" up)
    set -a && eval "$node" && set +a
    say "loading images"
    load_images
    load_plugins
fi
: "${ARTIFACTDB_E2E_ADDRESS:?set it to the address of this machine as pods reach it}"
export ARTIFACTDB_SERVICES_HOST=$ARTIFACTDB_E2E_ADDRESS
services=$(scripts/services.sh up)
set -a && eval "$services" && set +a
export ARTIFACTDB_E2E_KUBECTL=${ARTIFACTDB_E2E_KUBECTL:-kubectl}
say "installing the operator"
"$ARTIFACTDB_E2E_KUBECTL" apply -k config/install >/dev/null
"$ARTIFACTDB_E2E_KUBECTL" wait --for=condition=Established --timeout=30s crd/artifactdbs.artifactdb.io \
    crd/artifactschemas.artifactdb.io crd/artifactplugins.artifactdb.io crd/artifactschedules.artifactdb.io >/dev/null
"$ARTIFACTDB_E2E_KUBECTL" -n artifactdb-system rollout status deployment/artifactdb-operator --timeout=60s >&2
if [ "${1:-}" = --bench ]; then
    "$CARGO_TARGET_DIR/$MUSL/image/bench-${2:?name a bench}"
else
    # Of the whole workspace, as `make test` builds it: nothing is compiled a second time.
    cargo test --locked --workspace --all-features --test e2e -- --test-threads 1 --nocapture "$@"
fi
