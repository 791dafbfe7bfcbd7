//! The instance on real servers: the API, two workers and a sweeper, with Elasticsearch, Redis and
//! an S3 server behind them.
//!
//! The client's view is the same suite that the one-process instance passes (`tests/suite`); where
//! the two may differ is said in `differences`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../suite/access.rs"]
mod access;
#[path = "../suite/administration.rs"]
mod administration;
#[path = "../suite/bad_input.rs"]
mod bad_input;
#[path = "../suite/clients.rs"]
mod clients;
#[path = "../suite/events.rs"]
mod events;
#[path = "../suite/harness.rs"]
mod harness;
#[path = "../suite/history.rs"]
mod history;
#[path = "../suite/large.rs"]
mod large;
#[path = "../suite/names.rs"]
mod names;
#[path = "../suite/operations.rs"]
mod operations;
#[path = "../suite/paging.rs"]
mod paging;
#[path = "../suite/path.rs"]
mod path;
#[path = "../suite/permissions.rs"]
mod permissions;
#[path = "../suite/provisioning.rs"]
mod provisioning;
#[path = "../suite/races.rs"]
mod races;
#[path = "../suite/real.rs"]
mod real;
#[path = "../suite/storages.rs"]
mod storages;
#[path = "../suite/tokens.rs"]
mod tokens;

mod cluster;
mod dispatch;
mod doors;
mod faults;
mod proxy;
mod queries;
mod rebuild;
mod sessions;
mod stale;

const BACKEND: harness::Backend = harness::Backend::Real;
