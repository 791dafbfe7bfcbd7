//! The operator: custom resources of ArtifactDB reconciled into what Kubernetes and Elasticsearch
//! run (DESIGN section 4).
//!
//! One reconcile, a stage a file: `gather` looks up, `plan` decides, `render` makes objects of the
//! decision, `apply` writes what differs, `status` tells. Around it: `world` watches, `engine` is the
//! operator's side of Elasticsearch, `lease` elects a leader, `observe` answers health and metrics.
//! No S3 here and no data of Redis.

pub mod apply;
pub mod child;
pub mod children;
pub mod definitions;
pub mod engine;
pub mod gather;
pub mod instance;
pub mod lease;
pub mod names;
pub mod object;
pub mod observe;
pub mod offline;
pub mod operator;
pub mod plan;
pub mod plugin;
pub mod preview;
pub mod references;
pub mod render;
pub mod runs;
pub mod schedule;
pub mod schema;
pub mod status;
pub mod tell;
pub mod world;
