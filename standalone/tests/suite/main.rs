//! The instance seen from outside: the real binary, its API over HTTP, its store over S3.
//!
//! What is a client's business runs against the real servers too, from `tests/servers`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod administration;
mod bad_input;
mod clients;
mod commands;
mod dispatch;
mod docs;
mod events;
mod fuzz;
mod harness;
mod history;
mod interleavings;
mod kills;
mod large;
mod layout;
mod mistakes;
mod names;
mod operations;
mod paging;
mod path;
mod permissions;
mod plugins;
mod provisioning;
mod races;
mod real;
mod s3;
mod schedules;
mod storages;
mod tokens;

const BACKEND: harness::Backend = harness::Backend::Embedded;
