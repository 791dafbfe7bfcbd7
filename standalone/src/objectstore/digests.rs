//! Digests of request bodies: what a client says of its bytes, and whether it is true.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum as _;
use s3s::dto::Checksum;
use s3s::{S3Result, TrailingHeaders, s3_error};

/// Digests that a request gives for its body: `Content-MD5` and one of the `x-amz-checksum` family.
#[derive(Default)]
pub struct Digests {
    pub content_md5: Option<String>,
    pub expected: Checksum,
    /// Read once the body has ended.
    pub trailers: Option<TrailingHeaders>,
    /// The name of the checksum that comes as a trailer.
    pub trailing: Option<String>,
}

impl Digests {
    /// Computes only what was asked for.
    pub fn hasher(&self) -> ChecksumHasher {
        let named = |name: &str| {
            self.trailing
                .as_deref()
                .is_some_and(|trailing| trailing.eq_ignore_ascii_case(name))
        };
        let expected = &self.expected;
        let mut hasher = ChecksumHasher::default();
        if expected.checksum_crc32.is_some() || named("x-amz-checksum-crc32") {
            hasher.crc32 = Some(s3s::crypto::Crc32::new());
        }
        if expected.checksum_crc32c.is_some() || named("x-amz-checksum-crc32c") {
            hasher.crc32c = Some(s3s::crypto::Crc32c::new());
        }
        if expected.checksum_crc64nvme.is_some() || named("x-amz-checksum-crc64nvme") {
            hasher.crc64nvme = Some(s3s::crypto::Crc64Nvme::new());
        }
        if expected.checksum_sha1.is_some() || named("x-amz-checksum-sha1") {
            hasher.sha1 = Some(s3s::crypto::Sha1::new());
        }
        if expected.checksum_sha256.is_some() || named("x-amz-checksum-sha256") {
            hasher.sha256 = Some(s3s::crypto::Sha256::new());
        }
        hasher
    }

    /// Refuses a body whose digests are not the ones given: nothing of it becomes visible.
    pub fn check(&mut self, md5: [u8; 16], computed: &Checksum) -> S3Result<()> {
        if let Some(given) = &self.content_md5 {
            let Ok(given) = STANDARD.decode(given) else {
                return Err(s3_error!(InvalidDigest, "the Content-MD5 is not base64"));
            };
            if given != md5 {
                return Err(s3_error!(
                    BadDigest,
                    "the Content-MD5 that was given is not that of the body"
                ));
            }
        }
        if let Some(trailers) = self.trailers.take()
            && let Some(headers) = trailers.take()
        {
            let read = |name: &str| {
                let value = headers.get(name)?.to_str().ok()?;
                Some(value.trim().to_owned())
            };
            let expected = &mut self.expected;
            let own = &mut [
                (&mut expected.checksum_crc32, "x-amz-checksum-crc32"),
                (&mut expected.checksum_crc32c, "x-amz-checksum-crc32c"),
                (&mut expected.checksum_crc64nvme, "x-amz-checksum-crc64nvme"),
                (&mut expected.checksum_sha1, "x-amz-checksum-sha1"),
                (&mut expected.checksum_sha256, "x-amz-checksum-sha256"),
            ];
            for (slot, name) in own {
                if let Some(value) = read(name) {
                    **slot = Some(value);
                }
            }
        }
        let pairs = [
            (&self.expected.checksum_crc32, &computed.checksum_crc32),
            (&self.expected.checksum_crc32c, &computed.checksum_crc32c),
            (
                &self.expected.checksum_crc64nvme,
                &computed.checksum_crc64nvme,
            ),
            (&self.expected.checksum_sha1, &computed.checksum_sha1),
            (&self.expected.checksum_sha256, &computed.checksum_sha256),
        ];
        for (given, own) in pairs {
            if given.is_some() && given != own {
                return Err(s3_error!(
                    BadDigest,
                    "the checksum that was given is not that of the body"
                ));
            }
        }
        Ok(())
    }
}
