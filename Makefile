# What people type. Every target installs what it needs; see `make help`.

export CARGO_TERM_COLOR ?= auto
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install the Rust toolchain and a C compiler, where they are missing
	@scripts/setup.sh

run: setup ## Build, serve the quickstart, upload the sample data, show a search, stay up
	@cargo build --release --locked --package artifactdb
	@scripts/run.sh "$(TARGET_DIR)/release/artifactdb"

test: setup ## Check format and lints, start the services, then run every test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	@set -a; services="$$(scripts/services.sh up)" && eval "$$services"; \
	INSTA_UPDATE=no cargo test --workspace --all-features --locked

test-slow: setup ## A million hostile inputs, schemathesis, and 50,000 documents indexed again under load
	ARTIFACTDB_FUZZ_INPUTS=1000000 cargo test --workspace --all-features --locked --test suite \
		-- fuzz:: --nocapture
	@cargo build --locked --workspace --all-features --bin artifactdb
	tests/schemathesis/run.sh "$(TARGET_DIR)/debug/artifactdb"
	@set -a; services="$$(scripts/services.sh up)" && eval "$$services"; \
	ARTIFACTDB_TEST_DOCUMENTS=50000 cargo test --workspace --all-features --locked --test servers \
		-- an_index_is_rebuilt_under_load --nocapture

e2e: setup ## Test the operator on a cluster: KUBECONFIG's, or a node that is built and started here
	@tests/e2e/run.sh

bench-operator: setup ## Reconcile 300 instances on that cluster: rate, writes and memory, as a table
	@tests/e2e/run.sh --bench operator

services: ## Start Elasticsearch, Redis and an S3 server for the tests; print their addresses
	@scripts/services.sh up

services-down: ## Stop them and delete their data
	@scripts/services.sh down

bench: setup ## Print speed and size as ratios against baselines of the same run
	@cargo bench --locked --package artifactdb --bench ratios
	@cargo build --release --locked --workspace --all-features --bins
	@set -a; services="$$(scripts/services.sh up)" && eval "$$services"; \
	cargo bench --locked --workspace --all-features --bench servers
	@tests/e2e/run.sh --bench dispatcher

crds: setup ## Write crds/*.yaml from the types
	@cargo run --quiet --locked --package artifactdb -- crds --out crds

clean: ## Delete what was built, and the quickstart's data
	cargo clean
	rm -rf artifactdb-data

.PHONY: help setup run test test-slow e2e bench-operator services services-down bench crds clean
