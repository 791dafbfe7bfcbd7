//! What the product needs of an S3 server, as a list of checks written against aws-sdk-s3.
//!
//! It runs against the embedded store, or against any other: `ARTIFACTDB_S3_UNDER_TEST` (endpoint),
//! `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.

use std::collections::BTreeSet;
use std::time::Duration;

use artifactdb_core::config::StorageConfig;
use artifactdb_core::store::{Credentials, S3Store, Store};
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete,
    MetadataDirective, ObjectIdentifier, VersioningConfiguration,
};
use futures::future::join_all;
use jiff::Timestamp;

use crate::harness::{Server, md5_base64, md5_hex};

const MIB: usize = 1024 * 1024;
/// The smallest part that S3 takes, except for the last.
const PART: usize = 5 * MIB;

struct Ctx {
    client: Client,
    http: reqwest::Client,
    bucket: String,
    versioned: String,
    store: S3Store,
}

type Check = Result<(), String>;

fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
    match error {
        SdkError::ServiceError(own) => own.err().code().unwrap_or("no code").to_owned(),
        SdkError::ConstructionFailure(_) => "construction".to_owned(),
        SdkError::TimeoutError(_) => "timeout".to_owned(),
        SdkError::DispatchFailure(_) => "dispatch".to_owned(),
        _ => "response".to_owned(),
    }
}

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

fn expect_code<T, E: ProvideErrorMetadata, R>(
    result: Result<T, SdkError<E, R>>,
    wanted: &[&str],
) -> Check {
    match result {
        Ok(_) => Err(format!("succeeded, expected {wanted:?}")),
        Err(error) => {
            let code = code(&error);
            ensure!(
                wanted.contains(&code.as_str()),
                "answered {code}, expected {wanted:?}"
            );
            Ok(())
        }
    }
}

impl Ctx {
    async fn put(&self, key: &str, bytes: &[u8]) -> Result<String, String> {
        let answer = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .body(ByteStream::from(bytes.to_vec()))
            .send()
            .await
            .map_err(|error| code(&error))?;
        Ok(answer.e_tag().unwrap_or_default().to_owned())
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, String> {
        let answer = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await
            .map_err(|error| code(&error))?;
        let bytes = answer
            .body
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        Ok(bytes.to_vec())
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>, String> {
        let listed = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .send()
            .await
            .map_err(|e| code(&e))?;
        Ok(listed
            .contents()
            .iter()
            .filter_map(|object| object.key().map(str::to_owned))
            .collect())
    }

    async fn begin_parts(&self, key: &str) -> Result<String, String> {
        let begun = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .content_type("text/x")
            .send()
            .await
            .map_err(|e| code(&e))?;
        begun
            .upload_id()
            .map(str::to_owned)
            .ok_or_else(|| "no upload id".to_owned())
    }

    async fn part(
        &self,
        key: &str,
        upload: &str,
        number: i32,
        bytes: Vec<u8>,
    ) -> Result<CompletedPart, String> {
        let sent = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(key)
            .upload_id(upload)
            .part_number(number)
            .body(bytes.into())
            .send()
            .await
            .map_err(|e| code(&e))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag().map(str::to_owned))
            .build())
    }
}

fn parts(parts: Vec<CompletedPart>) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build()
}

async fn round_trip(ctx: &Ctx, key: &str, bytes: &[u8]) -> Check {
    let etag = ctx.put(key, bytes).await?;
    ensure!(
        etag == format!("\"{}\"", md5_hex(bytes)),
        "the ETag {etag} is not the MD5"
    );
    ensure!(ctx.get(key).await? == bytes, "other bytes came back");
    let listed = ctx.keys(key).await?;
    ensure!(
        listed.iter().any(|own| own == key),
        "not listed: {listed:?}"
    );
    Ok(())
}

// Objects.
async fn put_get_small(ctx: &Ctx) -> Check {
    round_trip(ctx, "basic/small", b"hello").await
}
async fn put_get_empty(ctx: &Ctx) -> Check {
    round_trip(ctx, "basic/empty", b"").await
}
async fn put_get_large(ctx: &Ctx) -> Check {
    round_trip(ctx, "basic/large", &vec![7; 3 * MIB + 1]).await
}
async fn overwrite(ctx: &Ctx) -> Check {
    ctx.put("basic/over", b"one").await?;
    ctx.put("basic/over", &vec![1; MIB]).await?;
    ctx.put("basic/over", b"three").await?;
    ensure!(
        ctx.get("basic/over").await? == b"three",
        "an old value came back"
    );
    Ok(())
}
async fn get_missing(ctx: &Ctx) -> Check {
    expect_code(
        ctx.client
            .get_object()
            .bucket(&ctx.bucket)
            .key("none")
            .send()
            .await,
        &["NoSuchKey"],
    )
}
async fn missing_bucket(ctx: &Ctx) -> Check {
    expect_code(
        ctx.client
            .get_object()
            .bucket("no-such-bucket-here")
            .key("x")
            .send()
            .await,
        &["NoSuchBucket"],
    )
}
async fn head(ctx: &Ctx) -> Check {
    ctx.client
        .put_object()
        .bucket(&ctx.bucket)
        .key("head")
        .content_type("text/csv")
        .cache_control("no-cache")
        .metadata("colour", "blue")
        .body(b"123".to_vec().into())
        .send()
        .await
        .map_err(|e| code(&e))?;
    let head = ctx
        .client
        .head_object()
        .bucket(&ctx.bucket)
        .key("head")
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(
        head.content_length() == Some(3),
        "length {:?}",
        head.content_length()
    );
    ensure!(
        head.content_type() == Some("text/csv"),
        "type {:?}",
        head.content_type()
    );
    ensure!(
        head.metadata()
            .and_then(|m| m.get("colour"))
            .map(String::as_str)
            == Some("blue"),
        "metadata is lost"
    );
    ensure!(head.last_modified().is_some(), "no date");
    Ok(())
}
async fn head_missing(ctx: &Ctx) -> Check {
    expect_code(
        ctx.client
            .head_object()
            .bucket(&ctx.bucket)
            .key("none")
            .send()
            .await,
        &["NotFound", "NoSuchKey", "no code"],
    )
}
async fn delete(ctx: &Ctx) -> Check {
    ctx.put("gone", b"x").await?;
    ctx.client
        .delete_object()
        .bucket(&ctx.bucket)
        .key("gone")
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(
        ctx.get("gone").await == Err("NoSuchKey".into()),
        "still there"
    );
    ctx.client
        .delete_object()
        .bucket(&ctx.bucket)
        .key("gone")
        .send()
        .await
        .map_err(|e| format!("a second time: {}", code(&e)))?;
    Ok(())
}
async fn delete_many(ctx: &Ctx) -> Check {
    let keys: Vec<String> = (0..30).map(|n| format!("many/{n} ü&<")).collect();
    for key in &keys {
        ctx.put(key, b"x").await?;
    }
    let identifiers = keys
        .iter()
        .map(|key| ObjectIdentifier::builder().key(key).build().unwrap())
        .collect();
    let delete = Delete::builder()
        .set_objects(Some(identifiers))
        .build()
        .unwrap();
    let answer = ctx
        .client
        .delete_objects()
        .bucket(&ctx.bucket)
        .delete(delete)
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(
        answer.deleted().len() == 30 && answer.errors().is_empty(),
        "{} deleted",
        answer.deleted().len()
    );
    ensure!(ctx.keys("many/").await?.is_empty(), "some are left");
    Ok(())
}
async fn ranges(ctx: &Ctx) -> Check {
    for (key, size) in [("range/small", 1000), ("range/large", 2 * MIB)] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        ctx.put(key, &bytes).await?;
        for (range, expected) in [
            ("bytes=0-9", &bytes[..10]),
            ("bytes=500-", &bytes[500..]),
            ("bytes=-7", &bytes[size - 7..]),
            ("bytes=990-99999999", &bytes[990..]),
        ] {
            let part = ctx
                .client
                .get_object()
                .bucket(&ctx.bucket)
                .key(key)
                .range(range)
                .send()
                .await
                .map_err(|e| code(&e))?;
            let text = part.content_range().unwrap_or_default().to_owned();
            ensure!(text.ends_with(&format!("/{size}")), "Content-Range {text}");
            ensure!(
                part.body
                    .collect()
                    .await
                    .map_err(|e| e.to_string())?
                    .to_vec()
                    == expected,
                "{range} of {key}"
            );
        }
    }
    Ok(())
}
async fn bad_range(ctx: &Ctx) -> Check {
    ctx.put("range/tiny", b"abc").await?;
    expect_code(
        ctx.client
            .get_object()
            .bucket(&ctx.bucket)
            .key("range/tiny")
            .range("bytes=10-20")
            .send()
            .await,
        &["InvalidRange"],
    )
}
async fn copy(ctx: &Ctx) -> Check {
    for (key, bytes) in [("copy/s", vec![1; 10]), ("copy/l", vec![2; MIB])] {
        ctx.client
            .put_object()
            .bucket(&ctx.bucket)
            .key(key)
            .content_type("a/b")
            .body(bytes.clone().into())
            .send()
            .await
            .map_err(|e| code(&e))?;
        let target = format!("{key} to");
        ctx.client
            .copy_object()
            .bucket(&ctx.bucket)
            .key(&target)
            .copy_source(format!("{}/{key}", ctx.bucket))
            .send()
            .await
            .map_err(|e| code(&e))?;
        ctx.client
            .delete_object()
            .bucket(&ctx.bucket)
            .key(key)
            .send()
            .await
            .map_err(|e| code(&e))?;
        ensure!(
            ctx.get(&target).await? == bytes,
            "the copy went with its source"
        );
        let head = ctx
            .client
            .head_object()
            .bucket(&ctx.bucket)
            .key(&target)
            .send()
            .await
            .map_err(|e| code(&e))?;
        ensure!(head.content_type() == Some("a/b"), "the copy lost its type");
    }
    Ok(())
}
async fn copy_replaces_metadata(ctx: &Ctx) -> Check {
    ctx.client
        .put_object()
        .bucket(&ctx.bucket)
        .key("copy/m")
        .metadata("a", "1")
        .body(b"x".to_vec().into())
        .send()
        .await
        .map_err(|e| code(&e))?;
    ctx.client
        .copy_object()
        .bucket(&ctx.bucket)
        .key("copy/m")
        .copy_source(format!("{}/copy/m", ctx.bucket))
        .metadata_directive(MetadataDirective::Replace)
        .metadata("b", "2")
        .send()
        .await
        .map_err(|e| code(&e))?;
    let head = ctx
        .client
        .head_object()
        .bucket(&ctx.bucket)
        .key("copy/m")
        .send()
        .await
        .map_err(|e| code(&e))?;
    let metadata = head.metadata().cloned().unwrap_or_default();
    ensure!(
        metadata.len() == 1 && metadata.contains_key("b"),
        "{metadata:?}"
    );
    Ok(())
}
async fn copy_missing(ctx: &Ctx) -> Check {
    expect_code(
        ctx.client
            .copy_object()
            .bucket(&ctx.bucket)
            .key("x")
            .copy_source(format!("{}/none", ctx.bucket))
            .send()
            .await,
        &["NoSuchKey"],
    )
}

// Keys.
async fn key_beside_its_folder(ctx: &Ctx) -> Check {
    ctx.put("d", b"file").await?;
    ctx.put("d/e", b"below").await?;
    ctx.put("d/e/f", b"deeper").await?;
    ensure!(
        ctx.get("d").await? == b"file" && ctx.get("d/e").await? == b"below",
        "one replaced the other"
    );
    Ok(())
}
async fn key_dotted(ctx: &Ctx) -> Check {
    round_trip(ctx, "P/1/..meta/state.json", b"{}").await
}
async fn key_dotted_at_the_root(ctx: &Ctx) -> Check {
    round_trip(ctx, "..meta/permissions.json", b"{}").await
}
async fn key_unicode(ctx: &Ctx) -> Check {
    round_trip(ctx, "ключ/鍵/🔑/é", b"x").await
}
async fn key_plus_percent(ctx: &Ctx) -> Check {
    round_trip(ctx, "a+b/c%20d/e f/%/g%2Fh", b"x").await
}
async fn key_of_signs(ctx: &Ctx) -> Check {
    round_trip(ctx, "signs/!$&'()*,;=:@~?#[]|^`{}\"<>\\", b"x").await
}
async fn key_of_900_bytes(ctx: &Ctx) -> Check {
    round_trip(ctx, &"k".repeat(900), b"x").await
}
async fn key_too_long(ctx: &Ctx) -> Check {
    expect_code(
        ctx.client
            .put_object()
            .bucket(&ctx.bucket)
            .key("k".repeat(1025))
            .body(b"x".to_vec().into())
            .send()
            .await,
        &["KeyTooLongError"],
    )
}
async fn keys_differ_in_case(ctx: &Ctx) -> Check {
    ctx.put("case/a", b"lower").await?;
    ctx.put("case/A", b"upper").await?;
    ensure!(ctx.get("case/a").await? == b"lower", "case is ignored");
    Ok(())
}

// Listing.
async fn list_pages(ctx: &Ctx) -> Check {
    let wanted: Vec<String> = (0..25).map(|n| format!("page/{n:02}")).collect();
    for key in &wanted {
        ctx.put(key, b"x").await?;
    }
    let (mut found, mut token, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = ctx
            .client
            .list_objects_v2()
            .bucket(&ctx.bucket)
            .prefix("page/")
            .max_keys(10)
            .set_continuation_token(token)
            .send()
            .await
            .map_err(|e| code(&e))?;
        found.extend(
            page.contents()
                .iter()
                .map(|object| object.key().unwrap().to_owned()),
        );
        pages += 1;
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            ensure!(
                page.is_truncated() == Some(false),
                "the last page says that more follow"
            );
            break;
        }
    }
    ensure!(found == wanted && pages == 3, "{pages} pages: {found:?}");
    Ok(())
}
async fn list_delimiter(ctx: &Ctx) -> Check {
    for key in ["del/a", "del/b/1", "del/b/2", "del/c/d/e", "del/z"] {
        ctx.put(key, b"x").await?;
    }
    let (mut keys, mut folders, mut token) = (Vec::new(), Vec::new(), None);
    loop {
        let page = ctx
            .client
            .list_objects_v2()
            .bucket(&ctx.bucket)
            .prefix("del/")
            .delimiter("/")
            .max_keys(1)
            .set_continuation_token(token)
            .send()
            .await
            .map_err(|e| code(&e))?;
        keys.extend(
            page.contents()
                .iter()
                .map(|object| object.key().unwrap().to_owned()),
        );
        folders.extend(
            page.common_prefixes()
                .iter()
                .map(|folder| folder.prefix().unwrap().to_owned()),
        );
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    ensure!(
        keys == ["del/a", "del/z"] && folders == ["del/b/", "del/c/"],
        "{keys:?} {folders:?}"
    );
    Ok(())
}
async fn list_order_is_of_bytes(ctx: &Ctx) -> Check {
    let mut wanted = vec!["ord/B", "ord/a", "ord/a-b", "ord/a/b", "ord/é", "ord/Z"];
    for key in &wanted {
        ctx.put(key, b"x").await?;
    }
    wanted.sort_unstable();
    let found = ctx.keys("ord/").await?;
    ensure!(found == wanted, "{found:?}");
    Ok(())
}
async fn list_start_after(ctx: &Ctx) -> Check {
    for key in ["after/1", "after/2", "after/3"] {
        ctx.put(key, b"x").await?;
    }
    let page = ctx
        .client
        .list_objects_v2()
        .bucket(&ctx.bucket)
        .prefix("after/")
        .start_after("after/1")
        .send()
        .await
        .map_err(|e| code(&e))?;
    let keys: Vec<&str> = page
        .contents()
        .iter()
        .filter_map(|object| object.key())
        .collect();
    ensure!(keys == ["after/2", "after/3"], "{keys:?}");
    Ok(())
}
async fn list_sees_a_write_at_once(ctx: &Ctx) -> Check {
    for n in 0..20 {
        let key = format!("fresh/{n}");
        ctx.put(&key, b"x").await?;
        ensure!(
            ctx.keys("fresh/").await?.len() == n + 1,
            "write {n} is not listed"
        );
    }
    Ok(())
}

// Conditions.
async fn if_none_match(ctx: &Ctx) -> Check {
    let put = || {
        ctx.client
            .put_object()
            .bucket(&ctx.bucket)
            .key("cond/new")
            .if_none_match("*")
            .body(b"1".to_vec().into())
            .send()
    };
    put().await.map_err(|e| code(&e))?;
    expect_code(put().await, &["PreconditionFailed"])
}
async fn if_match(ctx: &Ctx) -> Check {
    let etag = ctx.put("cond/swap", b"1").await?;
    let put = |etag: &str, body: &[u8]| {
        ctx.client
            .put_object()
            .bucket(&ctx.bucket)
            .key("cond/swap")
            .if_match(etag)
            .body(body.to_vec().into())
            .send()
    };
    put(&etag, b"2").await.map_err(|e| code(&e))?;
    expect_code(put(&etag, b"3").await, &["PreconditionFailed"])?;
    ensure!(ctx.get("cond/swap").await? == b"2", "the lost write shows");
    Ok(())
}
async fn if_match_missing(ctx: &Ctx) -> Check {
    expect_code(
        ctx.client
            .put_object()
            .bucket(&ctx.bucket)
            .key("cond/none")
            .if_match("\"0123\"")
            .body(b"1".to_vec().into())
            .send()
            .await,
        &["NoSuchKey", "PreconditionFailed"],
    )
}
async fn fifty_creates_have_one_winner(ctx: &Ctx) -> Check {
    for round in 0..3 {
        let key = format!("cond/race{round}");
        let puts = (0..50).map(|n| {
            ctx.client
                .put_object()
                .bucket(&ctx.bucket)
                .key(&key)
                .if_none_match("*")
                .body(vec![n; 100].into())
                .send()
        });
        let outcomes = join_all(puts).await;
        let won: Vec<usize> = outcomes
            .iter()
            .enumerate()
            .filter(|(_, o)| o.is_ok())
            .map(|(n, _)| n)
            .collect();
        ensure!(won.len() == 1, "{} winners", won.len());
        for outcome in outcomes {
            if let Err(error) = outcome {
                let code = code(&error);
                ensure!(
                    matches!(
                        code.as_str(),
                        "PreconditionFailed" | "ConditionalRequestConflict"
                    ),
                    "a loser got {code}"
                );
            }
        }
        ensure!(
            ctx.get(&key).await? == vec![won[0] as u8; 100],
            "the winner's bytes are not there"
        );
    }
    Ok(())
}
async fn large_creates_have_one_winner(ctx: &Ctx) -> Check {
    let puts = (0..8).map(|n| {
        ctx.client
            .put_object()
            .bucket(&ctx.bucket)
            .key("cond/large")
            .if_none_match("*")
            .body(vec![n; MIB].into())
            .send()
    });
    let won: Vec<usize> = join_all(puts)
        .await
        .iter()
        .enumerate()
        .filter(|(_, o)| o.is_ok())
        .map(|(n, _)| n)
        .collect();
    ensure!(won.len() == 1, "{} winners", won.len());
    ensure!(
        ctx.get("cond/large").await? == vec![won[0] as u8; MIB],
        "mixed bytes"
    );
    Ok(())
}
async fn counting_by_compare_and_swap(ctx: &Ctx) -> Check {
    const WORKERS: usize = 16;
    const STEPS: usize = 15;
    ctx.put("cond/counter", b"0").await?;
    let workers = (0..WORKERS).map(|_| async {
        let mut done = 0;
        while done < STEPS {
            let read = ctx
                .client
                .get_object()
                .bucket(&ctx.bucket)
                .key("cond/counter")
                .send()
                .await
                .map_err(|e| code(&e))?;
            let etag = read.e_tag().unwrap_or_default().to_owned();
            let bytes = read
                .body
                .collect()
                .await
                .map_err(|e| e.to_string())?
                .to_vec();
            let value: usize = String::from_utf8_lossy(&bytes)
                .parse()
                .map_err(|_| "not a number")?;
            let next = (value + 1).to_string().into_bytes();
            match ctx
                .client
                .put_object()
                .bucket(&ctx.bucket)
                .key("cond/counter")
                .if_match(etag)
                .body(next.into())
                .send()
                .await
            {
                Ok(_) => done += 1,
                Err(error)
                    if matches!(
                        code(&error).as_str(),
                        "PreconditionFailed" | "ConditionalRequestConflict"
                    ) => {}
                Err(error) => return Err(code(&error)),
            }
        }
        Ok::<_, String>(())
    });
    for outcome in join_all(workers).await {
        outcome?;
    }
    let end = ctx.get("cond/counter").await?;
    ensure!(
        end == (WORKERS * STEPS).to_string().into_bytes(),
        "counted to {}",
        String::from_utf8_lossy(&end)
    );
    Ok(())
}
async fn conditional_get(ctx: &Ctx) -> Check {
    let etag = ctx.put("cond/get", b"1").await?;
    ctx.client
        .get_object()
        .bucket(&ctx.bucket)
        .key("cond/get")
        .if_match(&etag)
        .send()
        .await
        .map_err(|e| code(&e))?;
    expect_code(
        ctx.client
            .get_object()
            .bucket(&ctx.bucket)
            .key("cond/get")
            .if_match("\"0\"")
            .send()
            .await,
        &["PreconditionFailed"],
    )?;
    let fresh = ctx
        .client
        .get_object()
        .bucket(&ctx.bucket)
        .key("cond/get")
        .if_none_match(&etag)
        .send()
        .await;
    let status = fresh
        .err()
        .and_then(|error| error.raw_response().map(|raw| raw.status().as_u16()));
    ensure!(status == Some(304), "If-None-Match answered {status:?}");
    Ok(())
}
async fn conditional_delete(ctx: &Ctx) -> Check {
    let etag = ctx.put("cond/del", b"1").await?;
    expect_code(
        ctx.client
            .delete_object()
            .bucket(&ctx.bucket)
            .key("cond/del")
            .if_match("\"0\"")
            .send()
            .await,
        &["PreconditionFailed"],
    )?;
    ensure!(ctx.get("cond/del").await? == b"1", "deleted all the same");
    ctx.client
        .delete_object()
        .bucket(&ctx.bucket)
        .key("cond/del")
        .if_match(etag)
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(ctx.get("cond/del").await.is_err(), "still there");
    Ok(())
}

// Digests.
async fn content_md5(ctx: &Ctx) -> Check {
    ctx.client
        .put_object()
        .bucket(&ctx.bucket)
        .key("md5/good")
        .content_md5(md5_base64(b"x"))
        .body(b"x".to_vec().into())
        .send()
        .await
        .map_err(|e| code(&e))?;
    for (key, bytes) in [("md5/bad", vec![1; 10]), ("md5/bad large", vec![1; MIB])] {
        expect_code(
            ctx.client
                .put_object()
                .bucket(&ctx.bucket)
                .key(key)
                .content_md5(md5_base64(b"other"))
                .body(bytes.into())
                .send()
                .await,
            &["BadDigest"],
        )?;
        ensure!(
            ctx.get(key).await == Err("NoSuchKey".into()),
            "a bad body became visible"
        );
    }
    Ok(())
}
async fn a_bad_digest_leaves_the_old_object(ctx: &Ctx) -> Check {
    ctx.put("md5/kept", b"old").await?;
    expect_code(
        ctx.client
            .put_object()
            .bucket(&ctx.bucket)
            .key("md5/kept")
            .content_md5(md5_base64(b"other"))
            .body(b"new".to_vec().into())
            .send()
            .await,
        &["BadDigest"],
    )?;
    ensure!(
        ctx.get("md5/kept").await? == b"old",
        "the old object is gone"
    );
    Ok(())
}
async fn checksum(ctx: &Ctx, algorithm: ChecksumAlgorithm) -> Check {
    let key = format!("sum/{algorithm:?}");
    ctx.client
        .put_object()
        .bucket(&ctx.bucket)
        .key(&key)
        .checksum_algorithm(algorithm)
        .body(vec![3; 200_000].into())
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(ctx.get(&key).await? == vec![3; 200_000], "other bytes");
    Ok(())
}
async fn checksum_crc32(ctx: &Ctx) -> Check {
    checksum(ctx, ChecksumAlgorithm::Crc32).await
}
async fn checksum_crc32c(ctx: &Ctx) -> Check {
    checksum(ctx, ChecksumAlgorithm::Crc32C).await
}
async fn checksum_sha256(ctx: &Ctx) -> Check {
    checksum(ctx, ChecksumAlgorithm::Sha256).await
}
async fn bad_checksum(ctx: &Ctx) -> Check {
    expect_code(
        ctx.client
            .put_object()
            .bucket(&ctx.bucket)
            .key("sum/bad")
            .checksum_sha256("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
            .body(b"not empty".to_vec().into())
            .send()
            .await,
        &["BadDigest", "XAmzContentChecksumMismatch", "InvalidRequest"],
    )?;
    ensure!(
        ctx.get("sum/bad").await == Err("NoSuchKey".into()),
        "a bad body became visible"
    );
    Ok(())
}

// Presigned URLs.
async fn presigned_by_the_sdk(ctx: &Ctx) -> Check {
    let config =
        PresigningConfig::expires_in(Duration::from_secs(60)).map_err(|e| e.to_string())?;
    let put = ctx
        .client
        .put_object()
        .bucket(&ctx.bucket)
        .key("pre/sdk +%é")
        .presigned(config.clone())
        .await
        .map_err(|e| code(&e))?;
    let status = ctx
        .http
        .put(put.uri())
        .body("x")
        .send()
        .await
        .map_err(|e| e.to_string())?
        .status();
    ensure!(status == 200, "PUT answered {status}");
    let get = ctx
        .client
        .get_object()
        .bucket(&ctx.bucket)
        .key("pre/sdk +%é")
        .presigned(config)
        .await
        .map_err(|e| code(&e))?;
    let body = ctx
        .http
        .get(get.uri())
        .send()
        .await
        .map_err(|e| e.to_string())?
        .bytes()
        .await
        .map_err(|e| e.to_string())?;
    ensure!(&body[..] == b"x", "other bytes");
    Ok(())
}
async fn presigned_by_ours(ctx: &Ctx) -> Check {
    let key = "pre/ours +%é?&=/x";
    let put = ctx.store.presign_put(key, None, Timestamp::now(), 60);
    let status = ctx
        .http
        .put(put)
        .body("y")
        .send()
        .await
        .map_err(|e| e.to_string())?
        .status();
    ensure!(status == 200, "PUT answered {status}");
    let get = ctx.store.presign_get(key, None, Timestamp::now(), 60);
    let body = ctx
        .http
        .get(get)
        .send()
        .await
        .map_err(|e| e.to_string())?
        .bytes()
        .await
        .map_err(|e| e.to_string())?;
    ensure!(&body[..] == b"y", "other bytes");
    Ok(())
}
async fn presigned_like_the_sdk(ctx: &Ctx) -> Check {
    let now = std::time::SystemTime::now();
    let config = PresigningConfig::builder()
        .start_time(now)
        .expires_in(Duration::from_secs(77))
        .build()
        .map_err(|e| e.to_string())?;
    let theirs = ctx
        .client
        .get_object()
        .bucket(&ctx.bucket)
        .key("pre/same é")
        .presigned(config)
        .await
        .map_err(|e| code(&e))?;
    let ours = ctx.store.presign_get(
        "pre/same é",
        None,
        Timestamp::try_from(now).map_err(|e| e.to_string())?,
        77,
    );
    // The SDK says which operation it signed, which is signed with the rest.
    let pairs = |url: &str| -> BTreeSet<String> {
        url.split_once('?')
            .unwrap_or_default()
            .1
            .split('&')
            .filter(|pair| !pair.starts_with("x-id=") && !pair.starts_with("X-Amz-Signature="))
            .map(str::to_owned)
            .collect()
    };
    ensure!(
        pairs(theirs.uri()) == pairs(&ours),
        "\n{}\n{ours}",
        theirs.uri()
    );
    Ok(())
}
async fn presigned_with_md5(ctx: &Ctx) -> Check {
    let url = ctx
        .store
        .presign_put("pre/md5", Some(&md5_base64(b"good")), Timestamp::now(), 60);
    let put = |md5: Option<String>, body: &'static str| {
        let request = ctx.http.put(&url).body(body);
        match md5 {
            Some(md5) => request.header("content-md5", md5),
            None => request,
        }
        .send()
    };
    let none = put(None, "good").await.map_err(|e| e.to_string())?.status();
    ensure!(none == 403, "without the signed header: {none}");
    let swapped = put(Some(md5_base64(b"good")), "evil")
        .await
        .map_err(|e| e.to_string())?;
    ensure!(swapped.status() == 400, "other bytes: {}", swapped.status());
    let text = swapped.text().await.map_err(|e| e.to_string())?;
    ensure!(
        text.contains("MD5"),
        "existing clients look for MD5 in {text}"
    );
    let good = put(Some(md5_base64(b"good")), "good")
        .await
        .map_err(|e| e.to_string())?
        .status();
    ensure!(good == 200, "the right bytes: {good}");
    Ok(())
}
async fn presigned_expires(ctx: &Ctx) -> Check {
    ctx.put("pre/old", b"x").await?;
    let url = ctx.store.presign_get(
        "pre/old",
        None,
        Timestamp::now() - jiff::SignedDuration::from_secs(120),
        60,
    );
    let status = ctx
        .http
        .get(url)
        .send()
        .await
        .map_err(|e| e.to_string())?
        .status();
    ensure!(status == 403, "an expired URL answered {status}");
    Ok(())
}
async fn presigned_cannot_be_changed(ctx: &Ctx) -> Check {
    ctx.put("pre/mine", b"x").await?;
    ctx.put("pre/other", b"x").await?;
    let url = ctx
        .store
        .presign_get("pre/mine", None, Timestamp::now(), 60);
    for wrong in [
        url.replace("pre/mine", "pre/other"),
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"),
    ] {
        let status = ctx
            .http
            .get(&wrong)
            .send()
            .await
            .map_err(|e| e.to_string())?
            .status();
        ensure!(status == 403, "{wrong} answered {status}");
    }
    let status = ctx
        .http
        .put(&url)
        .body("y")
        .send()
        .await
        .map_err(|e| e.to_string())?
        .status();
    ensure!(status == 403, "a GET URL was good for PUT: {status}");
    Ok(())
}
async fn anonymous_is_refused(ctx: &Ctx) -> Check {
    ctx.put("pre/anon", b"x").await?;
    let url = ctx
        .store
        .presign_get("pre/anon", None, Timestamp::now(), 60);
    let bare = url.split('?').next().unwrap_or_default();
    for request in [
        ctx.http.get(bare),
        ctx.http.put(bare).body("x"),
        ctx.http.delete(bare),
    ] {
        let status = request.send().await.map_err(|e| e.to_string())?.status();
        ensure!(status == 403, "answered {status}");
    }
    Ok(())
}

// Multipart.
async fn multipart(ctx: &Ctx) -> Check {
    let upload = ctx.begin_parts("multi/a").await?;
    let (first, second) = (vec![1; PART], vec![2; 100]);
    let b = ctx.part("multi/a", &upload, 7, second.clone()).await?;
    let a = ctx.part("multi/a", &upload, 2, first.clone()).await?;
    ensure!(
        ctx.get("multi/a").await == Err("NoSuchKey".into()),
        "visible before it is complete"
    );
    let done = ctx
        .client
        .complete_multipart_upload()
        .bucket(&ctx.bucket)
        .key("multi/a")
        .upload_id(&upload)
        .multipart_upload(parts(vec![a, b]))
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(
        done.e_tag().unwrap_or_default().ends_with("-2\""),
        "ETag {:?}",
        done.e_tag()
    );
    ensure!(
        ctx.get("multi/a").await? == [first, second].concat(),
        "other bytes"
    );
    let head = ctx
        .client
        .head_object()
        .bucket(&ctx.bucket)
        .key("multi/a")
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(head.content_type() == Some("text/x"), "the type is lost");
    let range = ctx
        .client
        .get_object()
        .bucket(&ctx.bucket)
        .key("multi/a")
        .range(format!("bytes={}-{}", PART - 2, PART + 1))
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(
        range
            .body
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_vec()
            == [1, 1, 2, 2],
        "a range over two parts"
    );
    Ok(())
}
async fn multipart_part_again(ctx: &Ctx) -> Check {
    let upload = ctx.begin_parts("multi/again").await?;
    ctx.part("multi/again", &upload, 1, vec![1; 10]).await?;
    let part = ctx.part("multi/again", &upload, 1, vec![2; 10]).await?;
    ctx.client
        .complete_multipart_upload()
        .bucket(&ctx.bucket)
        .key("multi/again")
        .upload_id(&upload)
        .multipart_upload(parts(vec![part]))
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(
        ctx.get("multi/again").await? == vec![2; 10],
        "the first try won"
    );
    Ok(())
}
async fn multipart_abort(ctx: &Ctx) -> Check {
    let upload = ctx.begin_parts("multi/abort").await?;
    ctx.part("multi/abort", &upload, 1, vec![1; 10]).await?;
    ctx.client
        .abort_multipart_upload()
        .bucket(&ctx.bucket)
        .key("multi/abort")
        .upload_id(&upload)
        .send()
        .await
        .map_err(|e| code(&e))?;
    let part = ctx.part("multi/abort", &upload, 2, vec![1; 10]).await;
    ensure!(part == Err("NoSuchUpload".into()), "{part:?}");
    Ok(())
}
async fn multipart_wrong_parts(ctx: &Ctx) -> Check {
    let upload = ctx.begin_parts("multi/wrong").await?;
    let small = ctx.part("multi/wrong", &upload, 1, vec![1; 10]).await?;
    let last = ctx.part("multi/wrong", &upload, 2, vec![1; 10]).await?;
    let complete = |chosen: Vec<CompletedPart>| {
        ctx.client
            .complete_multipart_upload()
            .bucket(&ctx.bucket)
            .key("multi/wrong")
            .upload_id(&upload)
            .multipart_upload(parts(chosen))
            .send()
    };
    expect_code(
        complete(vec![small.clone(), last.clone()]).await,
        &["EntityTooSmall"],
    )?;
    expect_code(
        complete(vec![last.clone(), small.clone()]).await,
        &["InvalidPartOrder"],
    )?;
    let missing = CompletedPart::builder()
        .part_number(9)
        .e_tag("\"0\"")
        .build();
    expect_code(
        complete(vec![small.clone(), missing]).await,
        &["InvalidPart"],
    )?;
    let other = CompletedPart::builder()
        .part_number(1)
        .e_tag("\"00000000000000000000000000000000\"")
        .build();
    expect_code(complete(vec![other]).await, &["InvalidPart"])?;
    complete(vec![small])
        .await
        .map_err(|e| format!("still open: {}", code(&e)))?;
    Ok(())
}
async fn multipart_condition(ctx: &Ctx) -> Check {
    ctx.put("multi/cond", b"first").await?;
    let upload = ctx.begin_parts("multi/cond").await?;
    let part = ctx.part("multi/cond", &upload, 1, vec![1; 10]).await?;
    expect_code(
        ctx.client
            .complete_multipart_upload()
            .bucket(&ctx.bucket)
            .key("multi/cond")
            .upload_id(&upload)
            .if_none_match("*")
            .multipart_upload(parts(vec![part]))
            .send()
            .await,
        &["PreconditionFailed"],
    )?;
    ensure!(
        ctx.get("multi/cond").await? == b"first",
        "replaced all the same"
    );
    Ok(())
}
async fn multipart_lists(ctx: &Ctx) -> Check {
    let upload = ctx.begin_parts("multi/list").await?;
    for number in 1..=3 {
        ctx.part("multi/list", &upload, number, vec![1; 10]).await?;
    }
    let listed = ctx
        .client
        .list_parts()
        .bucket(&ctx.bucket)
        .key("multi/list")
        .upload_id(&upload)
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(listed.parts().len() == 3, "{} parts", listed.parts().len());
    let uploads = ctx
        .client
        .list_multipart_uploads()
        .bucket(&ctx.bucket)
        .prefix("multi/list")
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(
        uploads
            .uploads()
            .iter()
            .any(|own| own.upload_id() == Some(&upload)),
        "the upload is not listed"
    );
    ctx.client
        .abort_multipart_upload()
        .bucket(&ctx.bucket)
        .key("multi/list")
        .upload_id(&upload)
        .send()
        .await
        .map_err(|e| code(&e))?;
    Ok(())
}

// Versions.
async fn versions_are_kept(ctx: &Ctx) -> Check {
    let put = |body: &'static [u8]| {
        ctx.client
            .put_object()
            .bucket(&ctx.versioned)
            .key("v/a")
            .body(ByteStream::from_static(body))
            .send()
    };
    let first = put(b"one")
        .await
        .map_err(|e| code(&e))?
        .version_id()
        .unwrap_or_default()
        .to_owned();
    let second = put(b"two")
        .await
        .map_err(|e| code(&e))?
        .version_id()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        !first.is_empty() && first != second,
        "version ids {first} {second}"
    );
    let read = async |id: &str| {
        let got = ctx
            .client
            .get_object()
            .bucket(&ctx.versioned)
            .key("v/a")
            .version_id(id)
            .send()
            .await
            .map_err(|e| code(&e))?;
        Ok::<_, String>(
            got.body
                .collect()
                .await
                .map_err(|e| e.to_string())?
                .to_vec(),
        )
    };
    ensure!(
        read(&first).await? == b"one" && read(&second).await? == b"two",
        "other bytes"
    );
    let listed = ctx
        .client
        .list_object_versions()
        .bucket(&ctx.versioned)
        .prefix("v/a")
        .send()
        .await
        .map_err(|e| code(&e))?;
    let seen: Vec<(&str, bool)> = listed
        .versions()
        .iter()
        .map(|own| {
            (
                own.version_id().unwrap_or_default(),
                own.is_latest().unwrap_or(false),
            )
        })
        .collect();
    ensure!(
        seen == [(second.as_str(), true), (first.as_str(), false)],
        "{seen:?}"
    );
    Ok(())
}
async fn a_marker_hides_and_its_deletion_shows(ctx: &Ctx) -> Check {
    ctx.client
        .put_object()
        .bucket(&ctx.versioned)
        .key("v/m")
        .body(b"x".to_vec().into())
        .send()
        .await
        .map_err(|e| code(&e))?;
    let deleted = ctx
        .client
        .delete_object()
        .bucket(&ctx.versioned)
        .key("v/m")
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(deleted.delete_marker() == Some(true), "no marker");
    expect_code(
        ctx.client
            .get_object()
            .bucket(&ctx.versioned)
            .key("v/m")
            .send()
            .await,
        &["NoSuchKey"],
    )?;
    ctx.client
        .delete_object()
        .bucket(&ctx.versioned)
        .key("v/m")
        .set_version_id(deleted.version_id().map(str::to_owned))
        .send()
        .await
        .map_err(|e| code(&e))?;
    ctx.client
        .get_object()
        .bucket(&ctx.versioned)
        .key("v/m")
        .send()
        .await
        .map_err(|e| format!("not shown again: {}", code(&e)))?;
    Ok(())
}
async fn deleting_a_version_is_for_good(ctx: &Ctx) -> Check {
    let first = ctx
        .client
        .put_object()
        .bucket(&ctx.versioned)
        .key("v/g")
        .body(b"1".to_vec().into())
        .send()
        .await
        .map_err(|e| code(&e))?;
    ctx.client
        .put_object()
        .bucket(&ctx.versioned)
        .key("v/g")
        .body(b"2".to_vec().into())
        .send()
        .await
        .map_err(|e| code(&e))?;
    let id = first.version_id().unwrap_or_default();
    ctx.client
        .delete_object()
        .bucket(&ctx.versioned)
        .key("v/g")
        .version_id(id)
        .send()
        .await
        .map_err(|e| code(&e))?;
    expect_code(
        ctx.client
            .get_object()
            .bucket(&ctx.versioned)
            .key("v/g")
            .version_id(id)
            .send()
            .await,
        &["NoSuchVersion"],
    )?;
    let now = ctx
        .client
        .get_object()
        .bucket(&ctx.versioned)
        .key("v/g")
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(
        now.body
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_vec()
            == b"2",
        "the other version went, too"
    );
    Ok(())
}
async fn versions_in_pages(ctx: &Ctx) -> Check {
    for key in ["vp/a", "vp/b", "vp/c"] {
        for _ in 0..3 {
            ctx.client
                .put_object()
                .bucket(&ctx.versioned)
                .key(key)
                .body(b"x".to_vec().into())
                .send()
                .await
                .map_err(|e| code(&e))?;
        }
    }
    let (mut seen, mut key, mut id) = (Vec::new(), None, None);
    loop {
        let page = ctx
            .client
            .list_object_versions()
            .bucket(&ctx.versioned)
            .prefix("vp/")
            .max_keys(2)
            .set_key_marker(key)
            .set_version_id_marker(id)
            .send()
            .await
            .map_err(|e| code(&e))?;
        seen.extend(page.versions().iter().map(|own| {
            (
                own.key().unwrap_or_default().to_owned(),
                own.is_latest() == Some(true),
            )
        }));
        key = page.next_key_marker().map(str::to_owned);
        id = page.next_version_id_marker().map(str::to_owned);
        if page.is_truncated() != Some(true) {
            break;
        }
    }
    let latest: Vec<&str> = seen
        .iter()
        .filter(|(_, latest)| *latest)
        .map(|(key, _)| key.as_str())
        .collect();
    ensure!(
        seen.len() == 9 && latest == ["vp/a", "vp/b", "vp/c"],
        "{seen:?}"
    );
    Ok(())
}

// Buckets.
async fn buckets(ctx: &Ctx) -> Check {
    let name = format!("{}-b", ctx.bucket);
    ctx.client
        .create_bucket()
        .bucket(&name)
        .send()
        .await
        .map_err(|e| code(&e))?;
    ctx.client
        .head_bucket()
        .bucket(&name)
        .send()
        .await
        .map_err(|e| code(&e))?;
    let listed = ctx
        .client
        .list_buckets()
        .send()
        .await
        .map_err(|e| code(&e))?;
    ensure!(
        listed.buckets().iter().any(|own| own.name() == Some(&name)),
        "not listed"
    );
    ctx.client
        .put_object()
        .bucket(&name)
        .key("x")
        .body(b"x".to_vec().into())
        .send()
        .await
        .map_err(|e| code(&e))?;
    expect_code(
        ctx.client.delete_bucket().bucket(&name).send().await,
        &["BucketNotEmpty"],
    )?;
    ctx.client
        .delete_object()
        .bucket(&name)
        .key("x")
        .send()
        .await
        .map_err(|e| code(&e))?;
    ctx.client
        .delete_bucket()
        .bucket(&name)
        .send()
        .await
        .map_err(|e| code(&e))?;
    Ok(())
}
async fn the_probe_accepts_it(ctx: &Ctx) -> Check {
    ctx.store.probe().await.map_err(|e| e.to_string())
}
async fn writes_are_whole(ctx: &Ctx) -> Check {
    // Readers of a key that is overwritten all the time see one value or another, never a mixture.
    let writer = async {
        for n in 0..30_u8 {
            ctx.put("whole", &vec![n; 100_000]).await?;
        }
        Ok::<_, String>(())
    };
    let reader = async {
        for _ in 0..60 {
            if let Ok(bytes) = ctx.get("whole").await {
                ensure!(
                    bytes.len() == 100_000 && bytes.iter().all(|b| *b == bytes[0]),
                    "a mixture"
                );
            }
        }
        Ok(())
    };
    let (written, read) = tokio::join!(writer, reader);
    written.and(read)
}

macro_rules! checks {
    ($ctx:expr, $($check:ident),+ $(,)?) => {{
        let mut failures: Vec<String> = Vec::new();
        let mut count = 0;
        $(
            count += 1;
            match $check($ctx).await {
                Ok(()) => println!("ok      {}", stringify!($check)),
                Err(why) => {
                    println!("FAILED  {}: {why}", stringify!($check));
                    failures.push(format!("{}: {why}", stringify!($check)));
                }
            }
        )+
        (count, failures)
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let external = std::env::var("ARTIFACTDB_S3_UNDER_TEST")
        .ok()
        .filter(|endpoint| !endpoint.is_empty());
    let server = match &external {
        Some(_) => None,
        None => Some(Server::start().await),
    };
    let (endpoint, access_key, secret_key) = match (&external, &server) {
        (Some(endpoint), _) => (
            endpoint.clone(),
            std::env::var("AWS_ACCESS_KEY_ID").unwrap(),
            std::env::var("AWS_SECRET_ACCESS_KEY").unwrap(),
        ),
        (None, Some(server)) => {
            let bytes = std::fs::read(server.data.join("secrets.json")).unwrap();
            let secrets: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let text = |name: &str| secrets[name].as_str().unwrap().to_owned();
            (
                server.s3_endpoint.clone(),
                text("accessKey"),
                text("secretKey"),
            )
        }
        (None, None) => unreachable!(),
    };
    let bucket = format!("conformance-{:08x}", rand::random::<u32>());
    let storage = StorageConfig {
        alias: "test".into(),
        bucket: bucket.clone(),
        endpoint: Some(endpoint),
        public_endpoint: None,
        region: "us-east-1".into(),
        path_style: true,
        version_pinning: None,
        sts: None,
    };
    let store = S3Store::new(
        &storage,
        Credentials {
            access_key,
            secret_key,
            session_token: None,
        },
    );
    let ctx = Ctx {
        client: store.client().clone(),
        http: reqwest::Client::new(),
        versioned: format!("{bucket}-v"),
        bucket,
        store,
    };
    ctx.client
        .create_bucket()
        .bucket(&ctx.bucket)
        .send()
        .await
        .unwrap();
    ctx.client
        .create_bucket()
        .bucket(&ctx.versioned)
        .send()
        .await
        .unwrap();
    let enabled = VersioningConfiguration::builder()
        .status(BucketVersioningStatus::Enabled)
        .build();
    ctx.client
        .put_bucket_versioning()
        .bucket(&ctx.versioned)
        .versioning_configuration(enabled)
        .send()
        .await
        .unwrap();
    let (count, failures) = checks!(
        &ctx,
        put_get_small,
        put_get_empty,
        put_get_large,
        overwrite,
        get_missing,
        missing_bucket,
        head,
        head_missing,
        delete,
        delete_many,
        ranges,
        bad_range,
        copy,
        copy_replaces_metadata,
        copy_missing,
        key_beside_its_folder,
        key_dotted,
        key_dotted_at_the_root,
        key_unicode,
        key_plus_percent,
        key_of_signs,
        key_of_900_bytes,
        key_too_long,
        keys_differ_in_case,
        list_pages,
        list_delimiter,
        list_order_is_of_bytes,
        list_start_after,
        list_sees_a_write_at_once,
        if_none_match,
        if_match,
        if_match_missing,
        fifty_creates_have_one_winner,
        large_creates_have_one_winner,
        counting_by_compare_and_swap,
        conditional_get,
        conditional_delete,
        content_md5,
        a_bad_digest_leaves_the_old_object,
        checksum_crc32,
        checksum_crc32c,
        checksum_sha256,
        bad_checksum,
        presigned_by_the_sdk,
        presigned_by_ours,
        presigned_like_the_sdk,
        presigned_with_md5,
        presigned_expires,
        presigned_cannot_be_changed,
        anonymous_is_refused,
        multipart,
        multipart_part_again,
        multipart_abort,
        multipart_wrong_parts,
        multipart_condition,
        multipart_lists,
        versions_are_kept,
        a_marker_hides_and_its_deletion_shows,
        deleting_a_version_is_for_good,
        versions_in_pages,
        buckets,
        the_probe_accepts_it,
        writes_are_whole,
    );
    println!("{count} checks, {} failed", failures.len());
    assert!(failures.is_empty(), "{failures:#?}");
}
