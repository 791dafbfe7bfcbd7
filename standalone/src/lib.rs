//! ArtifactDB for people: a whole instance in one process (`serve`), and its client.
//!
//! The embedded back ends live here, behind core's doors: `objectstore` (S3), `engine` (search),
//! `lease` and `queue`; `schedules` runs built-in tasks by the clock, `plugin` a plugin's command for
//! its author. The API, the worker and the protocol are the same as in a cluster.

pub mod client;
pub mod engine;
pub mod lease;
pub mod objectstore;
pub mod plugin;
pub mod queue;
pub mod render;
pub mod sample;
pub mod schedules;
pub mod secrets;
pub mod serve;
