//! Session credentials: an S3 client of the caller's own for the files of one version, by
//! AssumeRole with a policy that allows exactly that. Pure but for the types; `s3` asks for them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Credentials;

/// What a session may do with the files of its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAccess {
    Read,
    ReadWrite,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct SessionRequest {
    /// `<project>/<version>/`
    pub prefix: String,
    pub access: SessionAccess,
    /// AWS gives at least 15 minutes and at most 12 hours.
    pub seconds: u64,
    /// Shown in the store's own logs; what it may not hold is replaced.
    pub name: String,
}

#[derive(Debug, Clone)]
pub struct Session {
    pub credentials: Credentials,
    pub expires: Timestamp,
    pub name: String,
}

impl SessionRequest {
    /// The inline policy. What stands beside the files (`..meta`, `..diff`, `..deleteme`) is denied even
    /// to those who may write: a state that a client wrote would decide what is published, and a
    /// correction would change what is complete.
    pub fn policy(&self, bucket: &str) -> Value {
        let below = |part: &str| format!("arn:aws:s3:::{bucket}/{}{part}*", self.prefix);
        let objects: &[&str] = match self.access {
            SessionAccess::Read => &["s3:GetObject", "s3:GetObjectVersion"],
            SessionAccess::ReadWrite => &[
                "s3:GetObject",
                "s3:PutObject",
                "s3:AbortMultipartUpload",
                "s3:ListMultipartUploadParts",
            ],
        };
        json!({
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": objects, "Resource": [below("")]},
                {
                    "Effect": "Allow",
                    "Action": ["s3:ListBucket"],
                    "Resource": [format!("arn:aws:s3:::{bucket}")],
                    "Condition": {"StringLike": {"s3:prefix": [format!("{}*", self.prefix)]}},
                },
                {"Effect": "Deny", "Action": ["s3:*"], "Resource": [below("..")]},
            ],
        })
    }

    /// Whether the names can stand in a policy as they are: wildcards and variables would widen it.
    pub fn fits_a_policy(&self) -> bool {
        !self.prefix.contains(['*', '?', '$'])
    }

    /// The name in the characters and the length that AssumeRole takes.
    pub fn role_session_name(&self) -> String {
        let mut name: String = self
            .name
            .chars()
            .map(|c| match c {
                c if c.is_ascii_alphanumeric() || "+=,.@-_".contains(c) => c,
                _ => '-',
            })
            .take(64)
            .collect();
        while name.len() < 2 {
            name.push('-');
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_for_one_version_and_not_for_its_records() {
        let request = SessionRequest {
            prefix: "P/1/".into(),
            access: SessionAccess::ReadWrite,
            seconds: 900,
            name: "ann o'hara \u{1F427}".into(),
        };
        let policy = request.policy("data");
        assert_eq!(
            policy["Statement"][0]["Resource"],
            json!(["arn:aws:s3:::data/P/1/*"])
        );
        assert_eq!(
            policy["Statement"][2]["Resource"],
            json!(["arn:aws:s3:::data/P/1/..*"])
        );
        assert_eq!(request.role_session_name(), "ann-o-hara--");
        assert!(request.fits_a_policy());
        let wide = SessionRequest {
            prefix: "P*/1/".into(),
            ..request
        };
        assert!(!wide.fits_a_policy());
    }
}
