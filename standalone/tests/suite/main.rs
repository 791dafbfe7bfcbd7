//! The instance seen from outside: the real binary, its API over HTTP, its store over S3.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod commands;
mod harness;
mod interleavings;
mod kills;
mod layout;
mod paging;
mod path;
mod permissions;
mod races;
mod s3;
mod tokens;
