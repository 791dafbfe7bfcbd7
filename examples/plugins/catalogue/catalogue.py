#!/usr/bin/env python3
"""Writes a catalogue of all public projects as a new version of a catalogue project.

Only the standard library is needed. What is public is what an anonymous caller sees, so the projects are
read without the token, and the catalogue is written with it. A catalogue that would say the same as the
last one is not written.
"""

import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.request

URL = os.environ["ARTIFACTDB_URL"].rstrip("/")
EVENT = json.loads(os.environ["ARTIFACTDB_EVENT"])
PARAMS = (EVENT.get("message") or {}).get("params") or {}
PROJECT = PARAMS.get("project", "catalogue")
FILE = "catalogue.jsonl"


def token():
    # Read each time: in a cluster it is made anew while a long run goes on.
    with open(os.environ["ARTIFACTDB_TOKEN_FILE"], encoding="ascii") as file:
        return file.read().strip()


def ask(method, path, body=None, authenticated=False, attempts=8):
    """A JSON answer; what is away for a moment is asked again."""
    url = path if path.startswith("http") else URL + path
    data = None if body is None else json.dumps(body).encode()
    for attempt in range(attempts):
        request = urllib.request.Request(url, data, method=method)
        if authenticated:
            request.add_header("Authorization", "Bearer " + token())
        if data is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code in (429, 502, 503, 504) and attempt + 1 < attempts:
                time.sleep(min(2**attempt, 20))
                continue
            raise SystemExit(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}")
        except urllib.error.URLError as error:
            if attempt + 1 == attempts:
                raise SystemExit(f"{method} {path}: {error.reason}")
            time.sleep(min(2**attempt, 20))


def pages(path):
    while path:
        page = ask("GET", path)
        yield from page["results"]
        path = page.get("next")


def catalogue():
    """Every public project with its versions and what the latest one holds."""
    projects = []
    for entry in pages("/projects?size=500"):
        name = entry["project_id"]
        if name == PROJECT:
            continue
        files = 0
        titles = []
        for document in pages(f"/projects/{name}/version/latest/metadata"):
            files += 1
            if document.get("title") and len(titles) < 5:
                titles.append(document["title"])
        versions = [own["_extra.version"] for own in entry["aggs"]]
        projects.append({"project": name, "versions": versions, "files": files, "titles": titles})
    return sorted(projects, key=lambda own: own["project"])


def main():
    projects = catalogue()
    content = "".join(json.dumps(own, sort_keys=True) + "\n" for own in projects).encode()
    md5 = hashlib.md5(content).hexdigest()
    # What is written of an earlier catalogue names its sum.
    known = ask("GET", f"/search?q=_extra.project_id:{PROJECT}&latest=true&fields=md5sum", authenticated=True)
    if any(own.get("md5sum") == md5 for own in known["results"]):
        print(f"nothing changed: {len(projects)} public projects")
        return
    metadata = {
        "$schema": "catalogue/v1.json",
        "path": FILE,
        "md5sum": md5,
        "projects_listed": len(projects),
        "files_listed": sum(own["files"] for own in projects),
    }
    version = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    begun = ask(
        "POST",
        f"/projects/{PROJECT}/version/{version}/upload",
        {"filenames": [FILE, FILE + ".json"], "completed_by": "in 5 minutes"},
        authenticated=True,
    )
    for name, data in [(FILE, content), (FILE + ".json", json.dumps(metadata).encode())]:
        request = urllib.request.Request(begun["presigned_urls"][name], data, method="PUT")
        urllib.request.urlopen(request, timeout=60).close()
    job = ask("PUT", begun["completion_url"], {"read_access": "public"})
    for _ in range(600):
        status = ask("GET", job["path"])["status"]
        if status == "SUCCESS":
            print(f"{PROJECT}/{version}: {len(projects)} public projects")
            return
        if status == "FAILURE":
            break
        time.sleep(0.5)
    sys.exit(f"{PROJECT}/{version} is not indexed: {job['path']}")


if __name__ == "__main__":
    main()
