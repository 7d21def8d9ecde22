//! Subkeys of `unique_secret_key`, one per purpose, so that what one use of the secret gives away
//! says nothing about another.
//!
//! HKDF-SHA256, <https://www.rfc-editor.org/rfc/rfc5869>. The derivation is part of the database's
//! format: changing it makes every stored Gitter token unreadable (test
//! `the_derivation_never_changes`).

use std::fmt;

use hkdf::Hkdf;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

const SALT: &[u8] = b"matrix-gitter";

/// What a subkey is for. A purpose's label is never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Signs the login links the bot hands out.
    LoginLink,
    /// Signs the `state` that travels through Gitter during a login.
    OauthState,
    /// Signs the cookie of the login pages.
    WebCookie,
    /// Signs links to files that were sent on Matrix.
    MediaLink,
    /// Encrypts secrets in rows of the store.
    StoreSeal,
    /// Derives transaction ids of Matrix sends, so that a repeated send is recognised.
    TransactionId,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::LoginLink,
        Self::OauthState,
        Self::WebCookie,
        Self::MediaLink,
        Self::StoreSeal,
        Self::TransactionId,
    ];

    fn label(self) -> &'static [u8] {
        match self {
            Self::LoginLink => b"login link v1",
            Self::OauthState => b"oauth state v1",
            Self::WebCookie => b"web cookie v1",
            Self::MediaLink => b"media link v1",
            Self::StoreSeal => b"store seal v1",
            Self::TransactionId => b"transaction id v1",
        }
    }
}

/// A 256-bit key for one purpose; wiped from memory when dropped.
#[derive(Clone)]
pub struct Subkey(Zeroizing<[u8; 32]>);

impl Subkey {
    /// The key. Don't copy it around.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Subkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subkey([REDACTED])")
    }
}

/// Makes subkeys.
#[derive(Clone)]
pub struct Keys(Zeroizing<[u8; 32]>);

impl Keys {
    /// Extracts the key material from `unique_secret_key`; the secret is not kept.
    #[must_use]
    pub fn new(unique_secret_key: &SecretString) -> Self {
        let (mut extracted, _) =
            Hkdf::<Sha256>::extract(Some(SALT), unique_secret_key.expose_secret().as_bytes());
        let keys = Self(Zeroizing::new(extracted.into()));
        extracted.as_mut_slice().zeroize();
        keys
    }

    /// The key for one purpose; the same each time.
    ///
    /// # Panics
    ///
    /// Never: both lengths are constants that HKDF accepts.
    #[must_use]
    pub fn subkey(&self, purpose: Purpose) -> Subkey {
        let hkdf =
            Hkdf::<Sha256>::from_prk(&*self.0).expect("32 bytes are as long as SHA-256 needs");
        let mut subkey = Subkey(Zeroizing::new([0; 32]));
        hkdf.expand(purpose.label(), subkey.0.as_mut_slice())
            .expect("32 bytes are far below HKDF's limit");
        subkey
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new(&"correct horse battery staple".into())
    }

    /// Computed with another implementation (Python's `hmac`): extract with the salt, expand by one
    /// block.
    #[test]
    fn the_derivation_never_changes() {
        let rows = [
            (
                Purpose::LoginLink,
                "23f355760d1a9d93544ffe9d8eec363ee5e2b533a485606f8a5d562c5fb655fa",
            ),
            (
                Purpose::OauthState,
                "0224199f19862ddcdd636c4a3f305f30b1ed82bea577aa6c4a0f3ced8475a21d",
            ),
            (
                Purpose::WebCookie,
                "08f3d3c1d6dfea7a825e9beb35092dc91754fd8cd95cfe78d84876895ab97d40",
            ),
            (
                Purpose::MediaLink,
                "42a98e9c0b704da5daa981f64143dbf3802ec0888a4502a55f5f6cd676fab246",
            ),
            (
                Purpose::StoreSeal,
                "c7b1fbb2d0acf0000236ba547435951b563c930ba9c0f481acbe7028d9dcdd40",
            ),
            (
                Purpose::TransactionId,
                "151c7b7b83ad456eae3268a31c1d3b48eb938522644eb9540a7831b2b1f2819d",
            ),
        ];
        for (purpose, expected) in rows {
            let hex = keys()
                .subkey(purpose)
                .as_bytes()
                .iter()
                .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
            assert_eq!(hex, expected, "{purpose:?}");
        }
    }

    #[test]
    fn every_purpose_has_a_key_of_its_own() {
        let mut subkeys = Purpose::ALL.map(|purpose| *keys().subkey(purpose).as_bytes()).to_vec();
        subkeys.sort_unstable();
        subkeys.dedup();
        assert_eq!(subkeys.len(), Purpose::ALL.len());
    }

    #[test]
    fn another_secret_gives_other_keys() {
        let other = Keys::new(&"correct horse battery stapler".into());
        for purpose in Purpose::ALL {
            assert_ne!(
                keys().subkey(purpose).as_bytes(),
                other.subkey(purpose).as_bytes(),
                "{purpose:?}"
            );
        }
    }

    #[test]
    fn debug_output_holds_no_key() {
        assert_eq!(
            format!("{:?} {:?}", keys(), keys().subkey(Purpose::StoreSeal)),
            "Keys([REDACTED]) Subkey([REDACTED])"
        );
    }
}
