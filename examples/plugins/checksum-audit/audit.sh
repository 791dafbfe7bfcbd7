#!/bin/sh
# Downloads every file of the version that was indexed, compares it with the MD5 sum in its metadata, and
# uploads what it found as a version of its own of the reports project, named after the event. It needs
# curl, jq and md5sum. Exit codes: 0 all is well or nothing to do, 1 it could not look, 3 a file differs.
set -eu

: "${ARTIFACTDB_URL:?}" "${ARTIFACTDB_EVENT:?}" "${ARTIFACTDB_TOKEN_FILE:?}"
REPORTS=${REPORTS:-checksum-reports}
# A report names what it is about: whoever may read it knows that there is such a version.
ACCESS=${REPORT_ACCESS:-owners}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

say() { echo "$*" >&2; }
event() { printf '%s' "$ARTIFACTDB_EVENT" | jq -r "$1 // empty"; }
# api FILE …: the answer into a file, as a pipe would get those of attempts that failed, too. The token is
# read each time: in a cluster it is made anew while a long run goes on.
api() {
    INTO=$1
    shift
    curl -sS --fail-with-body --retry 8 --retry-connrefused -o "$INTO" \
        -H "Authorization: Bearer $(cat "$ARTIFACTDB_TOKEN_FILE")" "$@"
}

# A person who starts it by hand says which version.
PROJECT=$(event '.project_id // .message.params.project')
VERSION=$(event '.version // .message.params.version')
ID=$(event '.id')
[ -n "$ID" ] || ID=$(date +%s)
if [ -z "$PROJECT" ] || [ -z "$VERSION" ]; then
    say "the event names no version: give the parameters project and version"
    exit 1
fi
# A report about each report would never end.
[ "$PROJECT" != "$REPORTS" ] || exit 0

# Every page of the version's metadata; what is only a link has been audited where its bytes are.
NEXT="/projects/$PROJECT/version/$VERSION/metadata"
while [ -n "$NEXT" ]; do
    api "$WORK/page" "$ARTIFACTDB_URL$NEXT"
    jq -r '.results[] | select(.md5sum and (._extra.link | not)) | [._extra.id, .md5sum] | @tsv' "$WORK/page" >>"$WORK/list"
    NEXT=$(jq -r '.next // empty' "$WORK/page")
done

CHECKED=0
: >"$WORK/differ"
TAB=$(printf '\t')
while IFS="$TAB" read -r FILE WANTED; do
    PLACE=$(printf '%s' "$FILE" | jq -sRr '@uri')
    api "$WORK/file" -L "$ARTIFACTDB_URL/files/$PLACE"
    FOUND=$(md5sum <"$WORK/file" | cut -d' ' -f1)
    CHECKED=$((CHECKED + 1))
    [ "$FOUND" = "$WANTED" ] || echo "$FILE" >>"$WORK/differ"
done <"$WORK/list"
say "$PROJECT/$VERSION: $CHECKED files checked, $(wc -l <"$WORK/differ" | tr -d ' ') differ"

# The report is a file and its metadata, by which it is found.
{ echo "$PROJECT/$VERSION: $CHECKED files checked"; sed 's/^/differs: /' "$WORK/differ"; } >"$WORK/report.txt"
jq -Rn '[inputs]' "$WORK/differ" >"$WORK/names"
jq -n --arg md5 "$(md5sum <"$WORK/report.txt" | cut -d' ' -f1)" --arg project "$PROJECT" --arg version "$VERSION" \
    --argjson checked "$CHECKED" --slurpfile differ "$WORK/names" \
    '{"$schema": "checksum_report/v1.json", path: "report.txt", md5sum: $md5, audited_project: $project,
      audited_version: $version, files_checked: $checked, files_that_differ: $differ[0]}' >"$WORK/report.txt.json"
begin() {
    STATUS=$(api "$WORK/begun" -w '%{http_code}' "$ARTIFACTDB_URL/projects/$REPORTS/version/$ID/upload" \
        -d '{"filenames": ["report.txt", "report.txt.json"], "completed_by": "in 2 minutes"}') || true
}
begin
# An attempt that was killed holds the version until its time is over.
while [ "$STATUS" = 423 ]; do sleep 10; begin; done
if [ "$STATUS" = 400 ] && grep -q 'already exists' "$WORK/begun"; then
    say "it was reported before"
    exit 0
fi
[ "$STATUS" = 200 ] || { cat "$WORK/begun" >&2; exit 1; }
undo() { api /dev/null -X PUT "$ARTIFACTDB_URL$(jq -r .abort_url "$WORK/begun")" || true; }
for NAME in report.txt report.txt.json; do
    URL=$(jq -r --arg name "$NAME" '.presigned_urls[$name]' "$WORK/begun")
    curl -sS --fail-with-body --retry 8 --retry-connrefused -T "$WORK/$NAME" "$URL" >&2 || { undo; exit 1; }
done
api "$WORK/job" -X PUT "$ARTIFACTDB_URL$(jq -r .completion_url "$WORK/begun")" -d "{\"read_access\": \"$ACCESS\"}"
until [ "${DONE:-}" = SUCCESS ]; do
    sleep 0.3
    api "$WORK/state" "$ARTIFACTDB_URL$(jq -r .path "$WORK/job")"
    DONE=$(jq -r .status "$WORK/state")
    [ "$DONE" != FAILURE ] || { say "the report cannot be indexed"; exit 1; }
done
say "reported as $REPORTS/$ID"
[ ! -s "$WORK/differ" ] || { say "these differ:"; cat "$WORK/differ" >&2; exit 3; }
