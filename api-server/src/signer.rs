//! Values that this server hands out and believes when they come back: credentials in URLs,
//! cursors and job ids. HMAC-SHA256 over a purpose and a payload; nothing is stored.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::{Serialize, de::DeserializeOwned};
use sha2::Sha256;

/// Bytes of the signature that are kept: 128 bits.
const MAC_BYTES: usize = 16;

/// What a value is for: one made for a purpose is worth nothing for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Credential,
    Cursor,
    Job,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Purpose::Credential => b"credential\0",
            Purpose::Cursor => b"cursor\0",
            Purpose::Job => b"job\0",
        }
    }
}

#[derive(Clone)]
pub struct Signer {
    key: Vec<u8>,
}

impl Signer {
    /// `key` is secret and the same in every replica.
    pub fn new(key: &[u8]) -> Self {
        Self { key: key.to_vec() }
    }

    /// One whose values are worth nothing here, and the other way round.
    pub fn derived(&self, name: &str) -> Self {
        let key = self.hmac(&[b"derived\0", name.as_bytes()]);
        Self { key: key.to_vec() }
    }

    /// URL-safe text that `open` turns back into `value`.
    pub fn seal<T: Serialize>(&self, purpose: Purpose, value: &T) -> String {
        let payload = serde_json::to_vec(value).unwrap_or_default();
        let mut sealed = self.mac(purpose, &payload).to_vec();
        sealed.extend_from_slice(&payload);
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// The sealed value; `None` for everything that `seal` did not make for this purpose.
    pub fn open<T: DeserializeOwned>(&self, purpose: Purpose, text: &str) -> Option<T> {
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (given, payload) = sealed.split_at_checked(MAC_BYTES)?;
        if !equal(&self.mac(purpose, payload), given) {
            return None;
        }
        serde_json::from_slice(payload).ok()
    }

    /// Whether two secrets are the same, in a time that tells nothing of where they differ.
    pub fn same(&self, one: &[u8], other: &[u8]) -> bool {
        let label: &[u8] = b"secret\0";
        let (one, other) = (self.hmac(&[label, one]), self.hmac(&[label, other]));
        equal(&one, &other)
    }

    fn mac(&self, purpose: Purpose, payload: &[u8]) -> [u8; MAC_BYTES] {
        let mut out = [0; MAC_BYTES];
        out.copy_from_slice(&self.hmac(&[purpose.label(), payload])[..MAC_BYTES]);
        out
    }

    fn hmac(&self, parts: &[&[u8]]) -> [u8; 32] {
        // HMAC takes keys of every length, so the constructor cannot fail.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            return [0; 32];
        };
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// Compares all of two texts of one length, whatever the first difference.
fn equal(one: &[u8], other: &[u8]) -> bool {
    let pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_for_the_purpose_opens() {
        let signer = Signer::new(b"key");
        let sealed = signer.seal(Purpose::Job, &("a", 1));
        let open =
            |signer: &Signer, purpose, text: &str| signer.open::<(String, i32)>(purpose, text);
        assert_eq!(open(&signer, Purpose::Job, &sealed), Some(("a".into(), 1)));
        assert_eq!(open(&signer, Purpose::Cursor, &sealed), None);
        assert_eq!(open(&Signer::new(b"other"), Purpose::Job, &sealed), None);
        assert_eq!(open(&signer.derived("other"), Purpose::Job, &sealed), None);
        for text in ["", "x", "!!", &sealed[1..], &format!("{sealed}A")] {
            assert_eq!(open(&signer, Purpose::Job, text), None);
        }
    }
}
