//! Secrets in rows: sealed with a key that is not in the file.

use chacha20poly1305::{AeadInPlace, KeyInit, XChaCha20Poly1305, XNonce};
use rand::{TryRngCore, rngs::OsRng};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::error::{Result, StoreError};

const NONCE: usize = 24;
const TAG: usize = 16;

/// The key that seals secrets; derived from `unique_secret_key`, wiped from memory when dropped, never printed.
pub struct SealKey(Zeroizing<[u8; 32]>);

impl SealKey {
    /// Takes the 32 bytes of a key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }

    /// Nonce, then sealed text, then tag. The row's name goes into the tag, so that a sealed secret is of no use in another row.
    pub(crate) fn seal(&self, row: &str, secret: &SecretString) -> Result<Vec<u8>> {
        let text = secret.expose_secret().as_bytes();
        let mut nonce = [0; NONCE];
        OsRng.try_fill_bytes(&mut nonce).map_err(|error| StoreError::Random(Box::new(error)))?;
        // Room for the tag, so that growing leaves no plain copy behind.
        let mut body = Zeroizing::new(Vec::with_capacity(text.len() + TAG));
        body.extend_from_slice(text);
        self.cipher()
            .encrypt_in_place(XNonce::from_slice(&nonce), row.as_bytes(), &mut *body)
            .map_err(|_| StoreError::given_up("the secret is too long to be sealed"))?;
        Ok([&nonce[..], &body[..]].concat())
    }

    pub(crate) fn open(&self, row: &str, sealed: &[u8]) -> Result<SecretString> {
        let other_key = || StoreError::Sealed { row: row.to_owned() };
        let Some((nonce, body)) = sealed.split_at_checked(NONCE) else {
            return Err(StoreError::Damaged {
                table: "tokens",
                key: row.to_owned(),
                reason: format!("{} bytes are too few", sealed.len()),
            });
        };
        let mut body = Zeroizing::new(body.to_vec());
        self.cipher()
            .decrypt_in_place(XNonce::from_slice(nonce), row.as_bytes(), &mut *body)
            .map_err(|_| other_key())?;
        std::str::from_utf8(&body).map(SecretString::from).map_err(|_| other_key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_with_its_key_in_its_row_and_nowhere_else() {
        let key = SealKey::new([1; 32]);
        let secret = SecretString::from("a token");
        let sealed = key.seal("tokens/@a:b", &secret).expect("sealed");
        let open = |key: &SealKey, row: &str, bytes: &[u8]| {
            key.open(row, bytes).map(|secret| secret.expose_secret().to_owned())
        };
        assert_eq!(open(&key, "tokens/@a:b", &sealed).expect("its own"), "a token");
        let is_sealed = |result| matches!(result, Err(StoreError::Sealed { .. }));
        assert!(is_sealed(open(&key, "tokens/@c:b", &sealed)), "another row");
        assert!(is_sealed(open(&SealKey::new([2; 32]), "tokens/@a:b", &sealed)), "another key");
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert!(is_sealed(open(&key, "tokens/@a:b", &bent)), "bent at {at}");
        }
        assert!(matches!(open(&key, "x", &sealed[..20]), Err(StoreError::Damaged { .. })));
        assert_ne!(sealed, key.seal("tokens/@a:b", &secret).expect("sealed"), "a fresh nonce");
    }
}
