//! What the operator promises, on a real cluster with real servers. Each test has a namespace of its
//! own; times are part of what is promised.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod burst;
mod kills;
mod narrow;
mod plugins;
mod refusals;
mod render;
mod scaling;
mod schemas;
mod standalone;
mod typical;
