//! The domain of ArtifactDB and the doors to its back ends.
//!
//! Two halves. The pure one (`id`, `gprn`, `permissions`, `query`, `mapping`, `document`, `keys`,
//! `jsondiff`, `config`, `upload`, `parts`, `sequence`, `state`, `head`, `event`, `plugin`, `causes`) computes and never performs IO. The other
//! one holds the doors (`store`, `lease`, `queue`, `counter`, `search`, `cache`, `clock`: traits, and behind the features
//! `store`, `redis` and `search` the clients of real servers, which `connect` makes from a
//! configuration) and the protocol that writes a version through them (`versions`). The pure half
//! never imports the other. No HTTP server and no Kubernetes here.

pub mod causes;
pub mod config;
pub mod document;
pub mod event;
pub mod gprn;
pub mod head;
pub mod id;
pub mod jsondiff;
pub mod keys;
pub mod mapping;
pub mod parts;
pub mod permissions;
pub mod plugin;
pub mod query;
pub mod sequence;
pub mod state;
pub mod timestamp;
pub mod upload;

pub mod cache;
pub mod clock;
#[cfg(all(feature = "store", feature = "redis", feature = "search"))]
pub mod connect;
pub mod counter;
pub mod lease;
pub mod queue;
#[cfg(feature = "redis")]
pub mod redis;
pub mod search;
pub mod store;
pub mod versions;
