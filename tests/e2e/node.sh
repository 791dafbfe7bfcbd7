#!/usr/bin/env bash
# A Kubernetes node of real components on this machine, without a container engine, for the tests.
#
#   tests/e2e/node.sh build   builds what is missing: Kubernetes, CoreDNS, metrics-server, kwok
#   tests/e2e/node.sh up      starts a node with an empty cluster, prints lines of NAME=value
#   tests/e2e/node.sh image FOLDER NAME [BASE]   builds FOLDER's Dockerfile, on that base where it lets
#                               one choose, and gives the image to the node
#   tests/e2e/node.sh kill-api   kills the API server in the middle of what it does, and starts it again
#   tests/e2e/node.sh down    stops everything and deletes the cluster's data
#
# What is built stays in ARTIFACTDB_NODE_HOME. It needs Linux, root, Go and apt-get, and touches
# nothing outside its own folder, its own bridges and 10.88.0.0/16, 10.89.0.0/24, 10.96.0.0/16.
# Where a cluster exists the tests use KUBECONFIG, and none of this.
set -Eeuo pipefail

KUBERNETES=1.34.4
COREDNS=v1.13.1
METRICS_SERVER=v0.9.0
KWOK=v0.8.0
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
HOME_DIR=${ARTIFACTDB_NODE_HOME:-/var/cache/artifactdb/node}
BIN=$HOME_DIR/bin
RUN=$HOME_DIR/run
PKI=$RUN/pki
ADDRESS=10.89.0.1
PODS=10.88.0.0/16
SERVICES=10.96.0.0/16
API=https://127.0.0.1:6443
SOCKET=$RUN/containerd/containerd.sock

say() { echo "$*" >&2; }
fail() { say "error: $*"; exit 1; }
trap 'say "error: line $LINENO of node.sh failed: $BASH_COMMAND"' ERR

install_packages() {
    local missing=()
    while read -r command package; do
        command -v "$command" >/dev/null || [ -e "$command" ] || missing+=("$package")
    done <<'LIST'
containerd containerd
runc runc
crun crun
buildah buildah
/usr/lib/cni/bridge containernetworking-plugins
etcd etcd-server
ip iproute2
iptables iptables
conntrack conntrack
jq jq
openssl openssl
curl curl
cc build-essential
LIST
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || fail "these packages are missing: ${missing[*]}"
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Kubernetes as an ordinary module: its staging modules are published under 0.x of the same number.
build_kubernetes() {
    local names="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl"
    local wanted=() name
    for name in $names; do [ -x "$BIN/$name-$KUBERNETES" ] || wanted+=("$name"); done
    [ ${#wanted[@]} = 0 ] && return
    local work=$HOME_DIR/module
    mkdir -p "$work" "$BIN"
    cd "$work"
    local staging
    go mod download "k8s.io/kubernetes@v$KUBERNETES"
    staging=$(sed -n 's|.*\(k8s.io/[a-z-]*\) => ./staging/.*|\1|p' "$(go env GOMODCACHE)/k8s.io/kubernetes@v$KUBERNETES/go.mod" | sort -u)
    {
        echo "module node"
        echo "go 1.24.0"
        echo "godebug default=go1.24"
        echo "require k8s.io/kubernetes v$KUBERNETES"
        for name in $staging; do echo "replace $name => $name v0.${KUBERNETES#1.}"; done
        echo "tool ("
        for name in $names; do echo "k8s.io/kubernetes/cmd/$name"; done
        echo ")"
    } >go.mod
    go mod tidy >&2
    for name in "${wanted[@]}"; do
        say "building $name $KUBERNETES"
        GOBIN=$work/bin CGO_ENABLED=0 go install -trimpath -ldflags "-s -w \
            -X k8s.io/component-base/version.gitVersion=v$KUBERNETES \
            -X k8s.io/component-base/version.gitMajor=1 \
            -X k8s.io/component-base/version.gitMinor=${KUBERNETES:2:2}" "k8s.io/kubernetes/cmd/$name" >&2
        mv "$work/bin/$name" "$BIN/$name-$KUBERNETES"
        ln -sf "$name-$KUBERNETES" "$BIN/$name"
    done
}

# install NAME MODULE@VERSION
build_tool() {
    local name=$1 package=$2 version=$3
    [ -x "$BIN/$name-$version" ] && return
    say "building $name $version"
    mkdir -p "$BIN"
    GOBIN=$HOME_DIR/gobin CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "$package@$version" >&2
    mv "$HOME_DIR/gobin/$name" "$BIN/$name-$version"
    ln -sf "$name-$version" "$BIN/$name"
}

build_pause() {
    [ -f "$HOME_DIR/pause/pause" ] && return
    mkdir -p "$HOME_DIR/pause"
    cat >"$HOME_DIR/pause/pause.c" <<'C'
#include <signal.h>
#include <unistd.h>
#include <sys/wait.h>
static void stop(int number) { _exit(0); }
static void reap(int number) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
    signal(SIGTERM, stop); signal(SIGINT, stop); signal(SIGCHLD, reap);
    for (;;) pause();
}
C
    cc -static -Os -o "$HOME_DIR/pause/pause" "$HOME_DIR/pause/pause.c"
    printf 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n' >"$HOME_DIR/pause/Dockerfile"
}

build() {
    [ "$(id -u)" = 0 ] || fail "a node needs root; set KUBECONFIG to use a cluster that you have"
    install_packages
    command -v go >/dev/null || fail "Go is missing; see https://go.dev/dl, or set KUBECONFIG to use a cluster that you have"
    build_kubernetes
    build_tool coredns github.com/coredns/coredns "$COREDNS"
    build_tool metrics-server sigs.k8s.io/metrics-server/cmd/metrics-server "$METRICS_SERVER"
    build_tool kwok sigs.k8s.io/kwok/cmd/kwok "$KWOK"
    build_pause
}

# certificate NAME SUBJECT [SANS]
certificate() {
    local name=$1 subject=$2 sans=${3:-}
    openssl req -newkey rsa:2048 -nodes -keyout "$PKI/$name.key" -out "$PKI/$name.csr" -subj "$subject" 2>/dev/null
    openssl x509 -req -in "$PKI/$name.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -set_serial "0x$(openssl rand -hex 8)" \
        -days 365 -out "$PKI/$name.crt" -extfile <(
            echo "extendedKeyUsage=serverAuth,clientAuth"
            [ -z "$sans" ] || echo "subjectAltName=$sans"
        ) 2>/dev/null
}

# kubeconfig NAME: a file by which that certificate's holder reaches the API
kubeconfig() {
    local name=$1
    cat >"$RUN/$name.kubeconfig" <<CONFIG
apiVersion: v1
kind: Config
current-context: node
clusters: [{name: node, cluster: {server: "$API", certificate-authority-data: "$(base64 -w0 <"$PKI/ca.crt")"}}]
contexts: [{name: node, context: {cluster: node, user: "$name"}}]
users: [{name: "$name", user: {client-certificate-data: "$(base64 -w0 <"$PKI/$name.crt")", client-key-data: "$(base64 -w0 <"$PKI/$name.key")"}}]
CONFIG
}

make_certificates() {
    mkdir -p "$PKI"
    openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=node-ca -keyout "$PKI/ca.key" -out "$PKI/ca.crt" 2>/dev/null
    local names=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
    certificate apiserver /CN=kube-apiserver "$names,IP:127.0.0.1,IP:10.96.0.1,IP:$ADDRESS" &
    certificate admin /O=system:masters/CN=admin &
    certificate kubelet /O=system:nodes/CN=system:node:node1 "IP:$ADDRESS,DNS:node1" &
    certificate controller-manager /CN=system:kube-controller-manager &
    certificate scheduler /CN=system:kube-scheduler &
    certificate proxy /CN=system:kube-proxy &
    certificate aggregator /CN=aggregator &
    certificate metrics-server /CN=metrics-server "DNS:metrics-server.kube-system.svc" &
    wait
    openssl genrsa -out "$PKI/accounts.key" 2048 2>/dev/null
    openssl rsa -in "$PKI/accounts.key" -pubout -out "$PKI/accounts.pub" 2>/dev/null
    local name
    for name in admin kubelet controller-manager scheduler proxy; do kubeconfig "$name"; done
}

# start NAME COMMAND…: runs it in the background, its output in a log
start() {
    local name=$1
    shift
    setsid "$@" >"$RUN/log/$name" 2>&1 </dev/null &
    echo $! >"$RUN/pid/$name"
}

await() {
    local name=$1
    shift
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        kill -0 "$(cat "$RUN/pid/$name")" 2>/dev/null || break
        sleep 0.2
    done
    tail -n 30 "$RUN/log/$name" >&2
    fail "$name does not come up; its log is $RUN/log/$name"
}

kubectl() { "$BIN/kubectl" --kubeconfig "$RUN/admin.kubeconfig" "$@"; }

start_control_plane() {
    start etcd etcd --name node --data-dir "$RUN/etcd" --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
        --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 \
        --initial-cluster node=http://127.0.0.1:12380
    await etcd curl -sf http://127.0.0.1:12379/health
    # Every write of the operator but those of its lease, and of Jobs by any account: what they say of
    # themselves is not proof.
    cat >"$RUN/audit.yaml" <<CONFIG
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, resources: [{group: coordination.k8s.io}]}
- {level: Metadata, users: ["system:serviceaccount:artifactdb-system:artifactdb-operator"], verbs: [create, update, patch, delete, deletecollection]}
- {level: Metadata, userGroups: ["system:serviceaccounts"], resources: [{group: batch, resources: [jobs]}], verbs: [create, update, patch, delete, deletecollection]}
- {level: None}
CONFIG
    start kube-apiserver "$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:12379 \
        --secure-port 6443 --bind-address 0.0.0.0 --advertise-address "$ADDRESS" \
        --service-cluster-ip-range "$SERVICES" --authorization-mode Node,RBAC --allow-privileged=true \
        --client-ca-file "$PKI/ca.crt" --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" \
        --kubelet-client-certificate "$PKI/admin.crt" --kubelet-client-key "$PKI/admin.key" \
        --kubelet-preferred-address-types InternalIP \
        --service-account-key-file "$PKI/accounts.pub" --service-account-signing-key-file "$PKI/accounts.key" \
        --service-account-issuer https://kubernetes.default.svc \
        --requestheader-client-ca-file "$PKI/ca.crt" --requestheader-allowed-names aggregator \
        --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
        --requestheader-extra-headers-prefix X-Remote-Extra- \
        --proxy-client-cert-file "$PKI/aggregator.crt" --proxy-client-key-file "$PKI/aggregator.key" \
        --enable-aggregator-routing=true \
        --audit-policy-file "$RUN/audit.yaml" --audit-log-path "$RUN/log/audit" --max-requests-inflight 1000 --max-mutating-requests-inflight 500
    await kube-apiserver kubectl get --raw /readyz
    start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig "$RUN/controller-manager.kubeconfig" \
        --use-service-account-credentials --root-ca-file "$PKI/ca.crt" \
        --service-account-private-key-file "$PKI/accounts.key" --leader-elect=false \
        --horizontal-pod-autoscaler-sync-period 5s --horizontal-pod-autoscaler-downscale-stabilization 15s \
        --bind-address 127.0.0.1
    start kube-scheduler "$BIN/kube-scheduler" --kubeconfig "$RUN/scheduler.kubeconfig" --leader-elect=false \
        --bind-address 127.0.0.1
}

start_containerd() {
    mkdir -p "$RUN/containerd" "$RUN/cni"
    cat >"$RUN/containerd/config.toml" <<CONFIG
version = 2
root = "$RUN/containerd/root"
state = "$RUN/containerd/state"
[grpc]
address = "$SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$RUN/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
CONFIG
    cat >"$RUN/cni/10-bridge.conflist" <<CONFIG
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "e2e-pods", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$RUN/ipam", "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
CONFIG
    start containerd containerd --config "$RUN/containerd/config.toml"
    await containerd ctr -a "$SOCKET" version
}

start_kubelet() {
    cat >"$RUN/kubelet.yaml" <<CONFIG
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$PKI/ca.crt"}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
failSwapOn: false
failCgroupV1: false
clusterDNS: ["$ADDRESS"]
clusterDomain: cluster.local
containerRuntimeEndpoint: "unix://$SOCKET"
tlsCertFile: "$PKI/kubelet.crt"
tlsPrivateKeyFile: "$PKI/kubelet.key"
maxPods: 250
evictionHard: {memory.available: 200Mi, nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
CONFIG
    start kubelet "$BIN/kubelet" --config "$RUN/kubelet.yaml" --kubeconfig "$RUN/kubelet.kubeconfig" \
        --hostname-override node1 --node-ip "$ADDRESS" --root-dir "$RUN/kubelet" --cert-dir "$RUN/kubelet-certs"
    # What kube-proxy does not know yet is refused: it would leave this machine otherwise, and be
    # answered by whoever is out there.
    local chain
    for chain in OUTPUT FORWARD; do
        iptables -A "$chain" -d "$SERVICES" -m comment --comment KUBE-UNKNOWN-SERVICE -j REJECT
    done
    start kube-proxy "$BIN/kube-proxy" --kubeconfig "$RUN/proxy.kubeconfig" --proxy-mode iptables \
        --cluster-cidr "$PODS" --conntrack-max-per-core 0 --hostname-override node1
    cat >"$RUN/Corefile" <<CONFIG
.:53 {
    bind $ADDRESS
    errors
    kubernetes cluster.local in-addr.arpa {
        kubeconfig $RUN/admin.kubeconfig
        pods insecure
    }
    cache 5
}
CONFIG
    start coredns "$BIN/coredns" -conf "$RUN/Corefile"
    await kubelet kubectl wait --for=condition=Ready node/node1 --timeout=1s
}

start_metrics() {
    start metrics-server "$BIN/metrics-server" --kubeconfig "$RUN/admin.kubeconfig" \
        --authentication-kubeconfig "$RUN/admin.kubeconfig" --authorization-kubeconfig "$RUN/admin.kubeconfig" \
        --secure-port 10250 --bind-address "$ADDRESS" --secure-port 14443 --metric-resolution 15s \
        --tls-cert-file "$PKI/metrics-server.crt" --tls-private-key-file "$PKI/metrics-server.key" \
        --requestheader-client-ca-file "$PKI/ca.crt" --kubelet-preferred-address-types InternalIP \
        --kubelet-certificate-authority "$PKI/ca.crt" --node-selector 'type!=kwok'
    kubectl apply -f - >/dev/null <<CONFIG
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec: {ports: [{port: 443, targetPort: 14443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: metrics-server, namespace: kube-system, labels: {kubernetes.io/service-name: metrics-server}}
addressType: IPv4
ports: [{port: 14443, protocol: TCP}]
endpoints: [{addresses: ["$ADDRESS"], conditions: {ready: true}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  service: {name: metrics-server, namespace: kube-system}
  caBundle: "$(base64 -w0 <"$PKI/ca.crt")"
CONFIG
}

load_image() {
    local folder=$1 name=$2 base=${3:-} archive
    archive=$(mktemp -d)
    buildah --root "$HOME_DIR/buildah" --runroot "$archive/run" --storage-driver vfs bud --isolation chroot -q ${base:+--build-arg "BASE=$base"} -t "$name" "$folder" >/dev/null
    buildah --root "$HOME_DIR/buildah" --runroot "$archive/run" --storage-driver vfs push -q "$name" "oci-archive:$archive/image.tar:$name" >/dev/null
    ctr -a "$SOCKET" -n k8s.io images import "$archive/image.tar" >/dev/null
    rm -rf "$archive"
}

up() {
    build
    down
    mkdir -p "$RUN/log" "$RUN/pid"
    say "starting a node"
    ip link show e2e-node >/dev/null 2>&1 || ip link add e2e-node type bridge
    ip addr replace "$ADDRESS/24" dev e2e-node
    ip link set e2e-node up
    sysctl -qw net.ipv4.ip_forward=1 2>/dev/null || true
    make_certificates
    start_containerd
    start_control_plane
    load_image "$HOME_DIR/pause" localhost/pause:1
    start_kubelet
    start_metrics
    echo "KUBECONFIG=$RUN/admin.kubeconfig"
    echo "ARTIFACTDB_E2E_ADDRESS=$ADDRESS"
    echo "ARTIFACTDB_E2E_AUDIT=$RUN/log/audit"
    echo "ARTIFACTDB_E2E_KUBECTL=$BIN/kubectl"
    # Pods are processes of this machine.
    echo "ARTIFACTDB_E2E_LOCAL=1"
}

kill_api() {
    local pid command=()
    pid=$(cat "$RUN/pid/kube-apiserver")
    mapfile -d '' -t command <"/proc/$pid/cmdline"
    kill -9 "$pid"
    # What is killed has its port until the last of it is gone.
    while (exec 3<>/dev/tcp/127.0.0.1/6443) 2>/dev/null; do sleep 0.05; done
    start kube-apiserver "${command[@]}"
    await kube-apiserver kubectl get --raw /readyz
}

# halt NAME…: kills what `start` started. After a restart of the machine its number is another's.
halt() {
    local name pid
    for name in "$@"; do
        pid=$(cat "$RUN/pid/$name" 2>/dev/null) || continue
        if cat "/proc/$pid/cmdline" 2>/dev/null | tr '\0' ' ' | grep -q -- "$name"; then
            kill -9 "$pid" 2>/dev/null || true
        fi
    done
}

down() {
    [ -d "$RUN" ] || return 0
    local pid
    halt metrics-server coredns kube-proxy kubelet kube-scheduler kube-controller-manager
    # The socket outlives a containerd that was not ended in order.
    { timeout 20 ctr -a "$SOCKET" -n k8s.io tasks ls -q 2>/dev/null || true; } | while read -r pid; do
        timeout 5 ctr -a "$SOCKET" -n k8s.io tasks kill -s KILL "$pid" 2>/dev/null || true
    done
    pkill -9 -f "containerd-shim.*$SOCKET" 2>/dev/null || true
    halt containerd kube-apiserver etcd
    sleep 0.5
    # What is mounted below the folder goes before the folder does.
    { grep -o " $RUN/[^ ]*" /proc/mounts || true; } | sort -r | while read -r pid; do
        umount -l "$pid" 2>/dev/null || true
    done
    ip netns list 2>/dev/null | awk '/^cni-/ {print $1}' | xargs -r -n1 ip netns delete 2>/dev/null || true
    ip link delete e2e-pods 2>/dev/null || true
    ip link delete e2e-node 2>/dev/null || true
    iptables-save 2>/dev/null | grep -vE 'KUBE-|CNI-' | iptables-restore 2>/dev/null || true
    rm -rf "$RUN"
}

case ${1:-} in
build) build ;;
up) up ;;
kill-api) kill_api ;;
down) down ;;
image) load_image "$2" "$3" "${4:-}" ;;
*)
    sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
