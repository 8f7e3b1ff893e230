//! Cursors: where the next page begins, sealed so that one that was tampered with or belongs to another query is refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::input::Broken;

const SEAL: usize = 16;

/// Makes and opens the cursors of one service, whichever replica gave them.
#[derive(Clone)]
pub struct Cursors {
    secret: Vec<u8>,
}

impl std::fmt::Debug for Cursors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cursors")
    }
}

impl Cursors {
    pub fn new(secret: Vec<u8>) -> Self {
        Self { secret }
    }

    /// `query` is what the position belongs to: the list and its filters.
    pub fn seal(&self, query: &str, position: &str) -> String {
        let mut bytes = self.mac(query, position).finalize().into_bytes()[..SEAL].to_vec();
        bytes.extend(position.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub fn open<T: std::str::FromStr>(&self, query: &str, cursor: &str) -> Result<T, Broken> {
        let refused = || {
            (
                "invalid_cursor",
                "it is not a cursor of this list with these filters: begin without one".to_owned(),
            )
        };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
        let (seal, position) = bytes.split_at_checked(SEAL).ok_or_else(refused)?;
        let position = std::str::from_utf8(position).map_err(|_| refused())?;
        self.mac(query, position).verify_truncated_left(seal).map_err(|_| refused())?;
        position.parse().map_err(|_| refused())
    }

    fn mac(&self, query: &str, position: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes a key of any size");
        mac.update(query.as_bytes());
        mac.update(b"\0");
        mac.update(position.as_bytes());
        mac
    }
}
