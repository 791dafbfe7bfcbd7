#!/usr/bin/env bash
# Installs what is needed and missing: a C compiler, curl, and the toolchain of rust-toolchain.toml.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cc >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "installing a C compiler"
        apt-get update -qq && apt-get install -y -qq build-essential >/dev/null
    else
        echo "error: no C compiler ('cc') is here; install one, such as the package build-essential" >&2
        exit 1
    fi
fi

# The README's tour, which is a test, is told with curl.
if ! command -v curl >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq && apt-get install -y -qq curl >/dev/null
    else
        echo "error: curl is missing; the tests need it" >&2
        exit 1
    fi
fi

if ! command -v rustup >/dev/null; then
    echo "error: no Rust toolchain manager is here; see https://rustup.rs" >&2
    exit 1
fi
channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
installed=$(rustup component list --toolchain "$channel" --installed 2>/dev/null || true)
if ! grep -q '^clippy' <<<"$installed" || ! grep -q '^rustfmt' <<<"$installed"; then
    echo "installing Rust $channel"
    rustup toolchain install "$channel" --profile minimal --component clippy --component rustfmt
fi
