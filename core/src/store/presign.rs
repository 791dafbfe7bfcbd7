//! Presigned URLs by AWS Signature Version 4 (query parameters).
//!
//! The SDK signs one URL in the time in which this signs eight (`make bench`, row `presign`), and one
//! upload request may ask for thousands. Source of the rules: the AWS documentation,
//! "Authenticating requests: using query parameters". A test holds it to the SDK's own URLs.

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::{Credentials, CurrentCredentials};

/// Everything but the unreserved characters of RFC 3986.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// Signs URLs of one bucket.
#[derive(Debug, Clone)]
pub struct Presigner {
    scheme: String,
    /// With its port, as clients send it.
    host: String,
    /// `/bucket` in path style, else empty.
    base: String,
    region: String,
    credentials: CurrentCredentials,
}

impl Presigner {
    /// `endpoint` is `http(s)://host[:port]`; in virtual-host style the bucket goes before the host.
    pub fn new(
        endpoint: &str,
        bucket: &str,
        region: &str,
        path_style: bool,
        credentials: impl Into<CurrentCredentials>,
    ) -> Self {
        let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", endpoint));
        let host = rest.trim_end_matches('/');
        let (host, base) = if path_style {
            (
                host.to_owned(),
                format!("/{}", utf8_percent_encode(bucket, PATH)),
            )
        } else {
            (format!("{bucket}.{host}"), String::new())
        };
        Self {
            scheme: scheme.to_owned(),
            host,
            base,
            region: region.to_owned(),
            credentials: credentials.into(),
        }
    }

    /// A URL for `method` on `key`. `headers` (lower-case name, value) are signed and must be sent
    /// as they are; `query` must be sorted by name and may only hold names that sort after `X-Amz`.
    pub fn url(
        &self,
        method: &str,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        now: Timestamp,
        seconds: u64,
    ) -> String {
        let credentials = self.credentials.get();
        let stamp = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = &stamp[..8];
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let path = format!("{}/{}", self.base, utf8_percent_encode(key, PATH));

        let mut names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        names.push("host");
        names.sort_unstable();
        let signed_headers = names.join(";");
        let mut pairs = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            (
                "X-Amz-Credential",
                format!("{}/{scope}", credentials.access_key),
            ),
            ("X-Amz-Date", stamp.clone()),
            ("X-Amz-Expires", seconds.to_string()),
        ];
        if let Some(token) = &credentials.session_token {
            pairs.push(("X-Amz-Security-Token", token.clone()));
        }
        pairs.push(("X-Amz-SignedHeaders", signed_headers.clone()));
        pairs.extend(
            query
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        let query: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, QUERY)))
            .collect();
        let query = query.join("&");

        let mut canonical = format!("{method}\n{path}\n{query}\n");
        for name in names {
            let value = headers
                .iter()
                .find(|(own, _)| *own == name)
                .map_or(self.host.as_str(), |(_, value)| value);
            canonical.push_str(name);
            canonical.push(':');
            canonical.push_str(value.trim());
            canonical.push('\n');
        }
        canonical.push('\n');
        canonical.push_str(&signed_headers);
        canonical.push_str("\nUNSIGNED-PAYLOAD");

        let text = format!(
            "AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}",
            hex::encode(Sha256::digest(canonical))
        );
        let key = self.signing_key(&credentials, day);
        let signature = hex::encode(hmac(&key, text.as_bytes()));
        format!(
            "{}://{}{path}?{query}&X-Amz-Signature={signature}",
            self.scheme, self.host
        )
    }

    fn signing_key(&self, credentials: &Credentials, day: &str) -> [u8; 32] {
        let secret = format!("AWS4{}", credentials.secret_key);
        let day_key = hmac(secret.as_bytes(), day.as_bytes());
        let region_key = hmac(&day_key, self.region.as_bytes());
        let service_key = hmac(&region_key, b"s3");
        hmac(&service_key, b"aws4_request")
    }
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    // HMAC takes keys of every length, so the constructor cannot fail.
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mut mac) => {
            mac.update(text);
            mac.finalize().into_bytes().into()
        }
        Err(_) => [0; 32],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of the AWS documentation.
    #[test]
    fn the_documented_example() {
        let presigner = Presigner::new(
            "https://s3.amazonaws.com",
            "examplebucket",
            "us-east-1",
            false,
            Credentials {
                access_key: "AKIAIOSFODNN7EXAMPLE".into(),
                secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
                session_token: None,
            },
        );
        let now: Timestamp = "2013-05-24T00:00:00Z".parse().unwrap();
        let url = presigner.url("GET", "test.txt", &[], &[], now, 86_400);
        assert!(url.ends_with(
            "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        ));
        assert!(
            url.starts_with("https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=")
        );
    }
}
