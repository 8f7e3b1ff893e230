//! The key by which the service vouches for the entries that it writes.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The database never sees it: who can write entries there still cannot write this.
#[derive(Clone)]
pub struct WriterKey([u8; 32]);

impl fmt::Debug for WriterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriterKey")
    }
}

impl WriterKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first half of HMAC-SHA-256 over the leaf (RFC 2104, section 5: no less than half of the output).
    pub fn mac(&self, leaf: &[u8]) -> [u8; 16] {
        let mut mac = [0; 16];
        mac.copy_from_slice(&self.hmac(leaf).finalize().into_bytes()[..16]);
        mac
    }

    /// In constant time.
    pub fn made(&self, mac: &[u8], leaf: &[u8]) -> bool {
        mac.len() == 16 && self.hmac(leaf).verify_truncated_left(mac).is_ok()
    }

    /// Tells keys apart, and nothing of them.
    pub fn fingerprint(&self) -> [u8; 8] {
        let mut fingerprint = [0; 8];
        let tag = self.hmac(b"consentd/writer-key/v1\0").finalize().into_bytes();
        fingerprint.copy_from_slice(&tag[..8]);
        fingerprint
    }

    fn hmac(&self, message: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any size");
        mac.update(message);
        mac
    }
}
