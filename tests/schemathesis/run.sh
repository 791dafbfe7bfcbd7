#!/usr/bin/env bash
# Serves the quickstart and lets schemathesis (PyPI) ask whatever its OpenAPI description allows, and
# what it does not: examples, boundaries, random requests, and chains of them.
#
#   tests/schemathesis/run.sh BINARY
set -euo pipefail
BINARY=$(realpath "${1:?name the binary artifactdb}")
VERSION=4.32.5
cd "$(dirname "${BASH_SOURCE[0]}")"
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/artifactdb/schemathesis-$VERSION
TOOL=$CACHE/bin/schemathesis

if [ ! -x "$TOOL" ]; then
    if ! python3 -m venv --help >/dev/null 2>&1 || ! python3 -c 'import ensurepip' 2>/dev/null; then
        [ "$(id -u)" = 0 ] || { echo "error: python3-venv is missing" >&2; exit 1; }
        apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
    fi
    rm -rf "$CACHE"
    python3 -m venv "$CACHE"
    "$CACHE/bin/pip" install --quiet "schemathesis==$VERSION"
fi

WORK=$(mktemp -d)
trap 'kill $SERVER 2>/dev/null || true; rm -rf "$WORK"' EXIT
"$BINARY" serve ../../config/samples/quickstart.yaml --data "$WORK/data" --listen 127.0.0.1:0 \
    --s3-listen localhost:0 --ready-file "$WORK/ready.json" >"$WORK/log" 2>&1 &
SERVER=$!
until [ -e "$WORK/ready.json" ]; do
    kill -0 $SERVER || { cat "$WORK/log" >&2; exit 1; }
    sleep 0.1
done
text() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$WORK/ready.json"; }
failed=0
# As an administrator, whom everything answers, and as nobody.
for TOKEN in "$(text token)" ""; do
    AS=()
    [ -z "$TOKEN" ] || AS=(-H "Authorization: Bearer $TOKEN")
    "$TOOL" --config-file schemathesis.toml run "$(text url)/openapi.json" "${AS[@]}" --seed 1 \
        --max-examples "${ARTIFACTDB_SCHEMATHESIS_EXAMPLES:-30}" --no-color \
        --exclude-path /events/follow || failed=1
done
! grep -q panicked "$WORK/log" || { grep panicked "$WORK/log" >&2; failed=1; }
exit $failed
