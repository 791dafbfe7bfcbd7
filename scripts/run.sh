#!/usr/bin/env bash
# The quickstart: serves the sample instance, fills it with the sample data by the product's own
# client, shows a search and a download, and stays until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
artifactdb=$1
data=${ARTIFACTDB_DATA:-./artifactdb-data}
listen=${ARTIFACTDB_LISTEN:-127.0.0.1:8000}

work=$(mktemp -d)
server=
finish() {
    trap - EXIT INT TERM
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
# The server hears Ctrl-C, too, and stops by itself; this script waits for it.
trap 'echo; exit 0' INT TERM

"$artifactdb" serve config/samples/quickstart.yaml \
    --data "$data" --listen "$listen" --ready-file "$work/ready.json" >"$work/serve.out" &
server=$!
until [ -e "$work/ready.json" ]; do
    kill -0 "$server" 2>/dev/null || { wait "$server" || exit $?; exit 1; }
    sleep 0.05
done
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$work/ready.json"; }
ARTIFACTDB_URL=$(field url)
ARTIFACTDB_TOKEN=$(field token)
export ARTIFACTDB_URL ARTIFACTDB_TOKEN

show() {
    echo
    echo "\$ artifactdb${*@Q}" | sed "s/'\([a-zA-Z0-9/:.@_-]*\)'/ \1/g; s/artifactdb */artifactdb /; s/  */ /g"
    "$artifactdb" "$@"
}

host=$(rustc -vV | sed -n 's/^host: //p')
cargo metadata --format-version 1 --locked --filter-platform "$host" >"$work/metadata.json"
"$artifactdb" sample "$work/sample" --cargo-metadata "$work/metadata.json"
for project in penguins packages; do
    for version in 1 2; do
        if "$artifactdb" versions "$project" 2>/dev/null | grep -q "^$version\b"; then
            echo "$project@$version is here from an earlier run"
        else
            show upload "$work/sample/$project/$version" --project "$project" --version "$version"
        fi
    done
done
show search 'species:Adelie AND rows:>50' --latest
show search 'description:parser AND license:*MIT*' --latest --limit 5
show get penguins:adelie/dream.csv@latest --output "$work/dream.csv"
head -3 "$work/dream.csv"

cat <<END

The instance is up.

  API            $ARTIFACTDB_URL
  documentation  $ARTIFACTDB_URL/__swagger__/
  data           $data

In another terminal:

  export ARTIFACTDB_URL=$ARTIFACTDB_URL
  export ARTIFACTDB_TOKEN=\$($artifactdb token --data $data --user \$(id -un) --role uploader)
  $artifactdb search 'island:Dream' --latest
  $artifactdb get penguins:adelie/dream.csv@latest
  $artifactdb upload DIR --project my-project --version 1

Ctrl-C stops it.
END
wait "$server"
