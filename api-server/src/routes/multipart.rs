//! Large files of an upload, which come in parts: clients that say how large a file will be get
//! URLs for its parts instead of one URL. Beyond CONTRACT; clients that say nothing see nothing.

use artifactdb_core::id::{FilePath, Project, Version};
use artifactdb_core::keys;
use artifactdb_core::parts::{Parts, UPLOAD_PARTS_MAX};
use artifactdb_core::state::Promise;
use artifactdb_core::store::StoreError;
use artifactdb_core::upload::{Mode, Plan};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::App;
use crate::error::{ApiError, ApiResult};

/// Uploads in parts that are begun at the same time.
const BEGINNINGS: usize = 16;

/// A file that comes in parts.
pub(super) struct Begun {
    pub path: FilePath,
    parts: Parts,
    upload_id: String,
}

/// Notes in the promise which of its files come in parts.
pub(super) fn promise_parts(plan: &Plan, promise: &mut Promise) -> ApiResult<()> {
    // With credentials of their own, clients cut files up as they like.
    if plan.mode != Mode::PresignedUrl {
        return Ok(());
    }
    let mut count = 0;
    for (path, size) in &plan.sizes {
        if promise.files.contains_key(path)
            && let Some(parts) = Parts::of(*size)
        {
            promise.multipart.insert(path.clone(), *size);
            count += parts.count;
        }
    }
    if count > UPLOAD_PARTS_MAX {
        return Err(ApiError::bad_request(format!(
            "the files of this upload would come in {count} parts, and one upload may have {UPLOAD_PARTS_MAX}: split it, or use the mode sts-credentials"
        )));
    }
    Ok(())
}

pub(super) async fn begin(
    app: &App,
    project: &Project,
    version: &Version,
    promise: &Promise,
) -> Result<Vec<Begun>, StoreError> {
    let mut wanted = Vec::with_capacity(promise.multipart.len());
    for (path, size) in &promise.multipart {
        wanted.extend(Parts::of(*size).map(|parts| (path.clone(), parts)));
    }
    futures::stream::iter(wanted)
        .map(|(path, parts)| async move {
            let key = keys::file_in(project, version, &path);
            let upload_id = app.versions.store.create_multipart(&key).await?;
            Ok(Begun {
                path,
                parts,
                upload_id,
            })
        })
        .buffered(BEGINNINGS)
        .try_collect()
        .await
}

impl Begun {
    /// `{filename, part_size, part_urls, completion_url, abort_url}`
    pub fn answer(
        &self,
        app: &App,
        project: &Project,
        version: &Version,
        now: Timestamp,
        seconds: u64,
    ) -> Value {
        let key = keys::file_in(project, version, &self.path);
        let store = &app.versions.store;
        let count = self.parts.count;
        let urls = store.presign_multipart(&key, &self.upload_id, count, now, seconds);
        json!({
            "filename": self.path,
            "part_size": self.parts.size,
            "part_urls": urls.parts,
            "completion_url": urls.complete,
            "abort_url": urls.abort,
        })
    }
}
