//! Conditional requests: what `If-Match` and its like ask of an object.

use s3s::dto::{ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

use super::catalog::{Conditions, Entry};
use super::service::timestamp;

/// The conditions of a write; the catalog checks them.
pub fn on_write(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> S3Result<Conditions> {
    let absent = match if_none_match {
        None => false,
        Some(condition) if condition.is_any() => true,
        Some(_) => {
            return Err(s3_error!(
                NotImplemented,
                "If-None-Match on a write takes only *"
            ));
        }
    };
    let etag = if_match.map(|condition| match condition {
        ETagCondition::Any => "*".to_owned(),
        ETagCondition::ETag(etag) => etag.into_value(),
    });
    Ok(Conditions { absent, etag })
}

/// The conditions of a read (RFC 9110 section 13): 412, or 304 as an error that s3s answers.
pub fn on_read(
    entry: &Entry,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
    modified_since: Option<&Timestamp>,
    unmodified_since: Option<&Timestamp>,
) -> S3Result<()> {
    let is = |condition: &ETagCondition| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(own) => own.value() == entry.etag,
    };
    // HTTP dates have seconds.
    let modified = timestamp(entry.modified / 1000 * 1000);
    match if_match {
        Some(condition) if !is(condition) => return Err(s3_error!(PreconditionFailed)),
        None if unmodified_since.is_some_and(|since| modified > *since) => {
            return Err(s3_error!(PreconditionFailed));
        }
        _ => {}
    }
    let fresh = match if_none_match {
        Some(condition) => is(condition),
        None => modified_since.is_some_and(|since| modified <= *since),
    };
    if fresh {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}
