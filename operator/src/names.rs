//! What things are called in a cluster: labels, annotations, and the names of children.

use sha2::{Digest, Sha256};

/// Who writes: the field manager of every apply, and the value of the managed-by label.
pub const MANAGER: &str = "artifactdb-operator";

pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const NAME: &str = "app.kubernetes.io/name";
pub const INSTANCE: &str = "app.kubernetes.io/instance";
pub const COMPONENT: &str = "app.kubernetes.io/component";

/// Hash of what was last applied, on every child.
pub const APPLIED: &str = "artifactdb.io/applied";
/// Hash of the schemas that pods work by, on the API's Deployment.
pub const SCHEMAS: &str = "artifactdb.io/schemas";
/// Hash of the mapping that a Job is about.
pub const MAPPING: &str = "artifactdb.io/mapping";
/// The plugin whose run a Job is.
pub const PLUGIN: &str = "artifactdb.io/plugin";
/// The event that started a Job.
pub const EVENT: &str = "artifactdb.io/event";
/// On a Job that an event started: it was let begin.
pub const BEGUN: &str = "artifactdb.io/begun";
/// On CronJobs: the plugin or schedule that they are made from, `plugin/<name>`.
pub const SOURCE: &str = "artifactdb.io/source";
/// On pod templates: changes with the Secrets that they mount.
pub const SECRETS: &str = "artifactdb.io/secrets";
/// On an instance that is deleted with its index: how long an engine that is away is waited for.
pub const CLEANUP_TIMEOUT: &str = "artifactdb.io/cleanup-timeout";
/// Keeps an instance until its index is deleted.
pub const FINALIZER: &str = "artifactdb.io/index";

/// Longest name of a CronJob: its Jobs are named after it.
const CRON_JOB_NAME_MAX: usize = 52;
/// Longest beginning of the name of a Job that an event starts: a dash and 16 digits follow.
const JOB_PREFIX_MAX: usize = 46;

/// The first `digits` hexadecimal digits of a text's SHA-256.
pub fn short_hash(text: &str, digits: usize) -> String {
    let mut hash = hex::encode(Sha256::digest(text.as_bytes()));
    hash.truncate(digits);
    hash
}

/// The name of a CronJob for something of an instance: whole where there is room, and cut with a
/// hash of the whole at its end where there is not.
pub fn cron_job(instance: &str, kind: &str, name: &str) -> String {
    fitting(&format!("{instance}-{kind}-{name}"), CRON_JOB_NAME_MAX)
}

/// What the names of the Jobs begin with that events start.
pub fn job_prefix(instance: &str, plugin: &str) -> String {
    fitting(&format!("{instance}-plugin-{plugin}"), JOB_PREFIX_MAX)
}

fn fitting(name: &str, max: usize) -> String {
    let whole = name.replace('.', "-");
    if whole.len() <= max {
        return whole;
    }
    let hash = short_hash(&whole, 8);
    let cut: String = whole.chars().take(max - 9).collect();
    format!("{}-{hash}", cut.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cron_jobs_fit() {
        assert_eq!(cron_job("a", "plugin", "b"), "a-plugin-b");
        let long = cron_job(&"i".repeat(40), "plugin", &"p".repeat(60));
        assert!(long.len() <= CRON_JOB_NAME_MAX, "{long}");
        let other = cron_job(&"i".repeat(40), "plugin", &"p".repeat(61));
        assert_ne!(long, other);
    }
}
