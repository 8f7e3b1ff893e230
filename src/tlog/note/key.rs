//! Keys that sign notes, and keys that check them: Ed25519 (RFC 8032), plain or as a witness's cosignature.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, KeypairBytes,
};
use sha2::{Digest as _, Sha256};

use super::{Signature, Verified};

/// What a key signs, and how: the type byte of signed-note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Over the note's text.
    Ed25519 = 0x01,
    /// Over the time and the note's text: [tlog-cosignature](https://c2sp.org/tlog-cosignature).
    Cosignature = 0x04,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error("a key's name holds no spaces, no \"+\" and no control characters, and is not empty")]
    Name,
    #[error("a verifier key is a name, \"+\", its id in hexadecimal, \"+\" and base64")]
    Form,
    #[error("the verifier key's id is not the one that follows from its name and its public key")]
    Id,
    #[error("only keys of type 1 (Ed25519) and 4 (Ed25519 cosignatures) are understood")]
    Algorithm,
    #[error("the public key is not one of Ed25519")]
    PublicKey,
    #[error("private key {0} is not one as `openssl genpkey -algorithm ed25519` makes: PKCS#8 in PEM")]
    Pem(usize),
    #[error("there is no private key")]
    NoKey,
}

/// A log's private key. `Debug` does not show it, and its memory is cleared when it is dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// Reads one key or several, each in PKCS#8 PEM (RFC 8410), one after the other.
    pub fn from_pem(text: &str) -> Result<Vec<Self>, KeyFault> {
        const END: &str = "-----END PRIVATE KEY-----";
        let mut keys = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let fault = KeyFault::Pem(keys.len() + 1);
            let (block, after) = rest.split_at(rest.find(END).ok_or(fault)? + END.len());
            keys.push(Self(ed25519_dalek::SigningKey::from_pkcs8_pem(block).map_err(|_| fault)?));
            rest = after.trim_start();
        }
        if keys.is_empty() { Err(KeyFault::NoKey) } else { Ok(keys) }
    }

    /// Without the public key, which not every OpenSSL can read: version 1 of PKCS#8, as its own.
    pub fn to_pem(&self) -> String {
        let key = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        key.to_pkcs8_pem(LineEnding::LF).expect("32 bytes can be written as PKCS#8").to_string()
    }

    pub fn verifier_key(&self, name: &str) -> Result<VerifierKey, KeyFault> {
        VerifierKey::new(name, Algorithm::Ed25519, self.0.verifying_key().to_bytes())
    }

    /// `name` may be any that [`SigningKey::verifier_key`] takes; `text` ends with a newline, as a note's does.
    pub fn sign_note(&self, name: &str, text: &str) -> Signature {
        let public_key = self.0.verifying_key().to_bytes();
        Signature {
            name: name.to_owned(),
            key_id: key_id(name, Algorithm::Ed25519, &public_key),
            bytes: self.0.sign(text.as_bytes()).to_bytes().to_vec(),
        }
    }
}

/// The public half of a key that signs no longer: what it has signed stays good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredKey(ed25519_dalek::VerifyingKey);

impl From<&SigningKey> for RetiredKey {
    fn from(key: &SigningKey) -> Self {
        Self(key.0.verifying_key())
    }
}

impl RetiredKey {
    /// Takes the public keys out of a PEM file, as `openssl pkey -pubout` writes them, and answers what is left of it too.
    pub fn take_from_pem(text: &str) -> Result<(Vec<Self>, String), KeyFault> {
        const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
        const END: &str = "-----END PUBLIC KEY-----";
        let (mut keys, mut left, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, block)) = rest.split_once(BEGIN) {
            let (body, after) = block.split_once(END).ok_or(KeyFault::PublicKey)?;
            let key = ed25519_dalek::VerifyingKey::from_public_key_pem(&format!("{BEGIN}{body}{END}"));
            keys.push(Self(key.map_err(|_| KeyFault::PublicKey)?));
            left.push_str(before);
            rest = after;
        }
        left.push_str(rest);
        Ok((keys, left))
    }

    pub fn to_pem(&self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).expect("32 bytes can be written as a public key")
    }

    pub fn verifier_key(&self, name: &str) -> Result<VerifierKey, KeyFault> {
        VerifierKey::new(name, Algorithm::Ed25519, self.0.to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

/// Checks signatures of one key under one name. Its text is a "vkey": `name+id+base64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    algorithm: Algorithm,
    public_key: ed25519_dalek::VerifyingKey,
}

impl VerifierKey {
    pub fn new(name: &str, algorithm: Algorithm, public_key: [u8; 32]) -> Result<Self, KeyFault> {
        if !is_name(name) {
            return Err(KeyFault::Name);
        }
        let id = key_id(name, algorithm, &public_key);
        let public_key = ed25519_dalek::VerifyingKey::from_bytes(&public_key)
            .ok()
            // For these, signatures can be made without the private key.
            .filter(|key| !key.is_weak())
            .ok_or(KeyFault::PublicKey)?;
        Ok(Self { name: name.to_owned(), id, algorithm, public_key })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn public_key(&self) -> &[u8; 32] {
        self.public_key.as_bytes()
    }

    fn hex_id(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.id))
    }

    /// Whether a signature says that it is of this key: names and ids are only unique together.
    pub(super) fn made(&self, signature: &Signature) -> bool {
        self.name == signature.name && self.id == signature.key_id
    }

    /// `None` if the signature is wrong.
    pub(super) fn verify(&self, text: &str, signature: &[u8]) -> Option<Verified> {
        let time = match self.algorithm {
            Algorithm::Ed25519 => {
                self.check(text, signature)?;
                None
            }
            Algorithm::Cosignature => {
                let (time, signature) = signature.split_first_chunk()?;
                let time = u64::from_be_bytes(*time);
                // The specification's limit: readers may hold it in a signed number.
                i64::try_from(time).ok()?;
                self.check(&format!("cosignature/v1\ntime {time}\n{text}"), signature)?;
                Some(time)
            }
        };
        Some(Verified { name: self.name.clone(), key_id: self.id, time })
    }

    /// Strictly: RFC 8032 leaves open whether some malformed signatures pass, and all readers must agree.
    fn check(&self, message: &str, signature: &[u8]) -> Option<()> {
        let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
        self.public_key.verify_strict(message.as_bytes(), &signature).ok()
    }
}

impl FromStr for VerifierKey {
    type Err = KeyFault;

    fn from_str(text: &str) -> Result<Self, KeyFault> {
        // No "+" is in the name or the id, but base64 has some.
        let mut parts = text.splitn(3, '+');
        let mut part = || parts.next().ok_or(KeyFault::Form);
        let (name, id, key) = (part()?, part()?, part()?);
        let key = BASE64_STANDARD.decode(key).map_err(|_| KeyFault::Form)?;
        let (algorithm, public_key) = key.split_first().ok_or(KeyFault::Form)?;
        let algorithm = match algorithm {
            0x01 => Algorithm::Ed25519,
            0x04 => Algorithm::Cosignature,
            _ => return Err(KeyFault::Algorithm),
        };
        let public_key = public_key.try_into().map_err(|_| KeyFault::PublicKey)?;
        let key = Self::new(name, algorithm, public_key)?;
        if id == key.hex_id() { Ok(key) } else { Err(KeyFault::Id) }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.algorithm as u8], self.public_key().as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, self.hex_id(), BASE64_STANDARD.encode(key))
    }
}

/// Whether a key may be named so.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|char| char.is_whitespace() || char.is_control() || char == '+')
}

fn key_id(name: &str, algorithm: Algorithm, public_key: &[u8; 32]) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', algorithm as u8])
        .chain_update(public_key)
        .finalize();
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}
