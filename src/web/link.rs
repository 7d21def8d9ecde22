//! Signed, expiring tickets: the login link, and the two cookies of a login.
//!
//! A ticket is `base64url(payload).base64url(mac)`. The payload is a version byte (1), the end of
//! its life (milliseconds since the epoch, big endian), a nonce of 16 bytes, and whom it is for (a
//! Matrix id). The MAC is HMAC-SHA-256 over purpose and *encoded* payload and is compared encoded,
//! so that each ticket has one spelling only.

use std::{fmt, time::Duration};

use hmac::{Hmac, Mac as _};
use rand::CryptoRng;
use ruma::{
    UserId,
    serde::{Base64, base64::UrlSafe},
};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use url::Url;
use zeroize::Zeroizing;

/// How long a link, and then the way to Gitter and back, may take.
pub const LIFETIME: Duration = Duration::from_secs(600);

const VERSION: u8 = 1;
/// Version, end of life and nonce.
const FIXED: usize = 1 + 8 + 16;
/// Longest ticket: a Matrix id has at most 255 bytes, see
/// <https://spec.matrix.org/v1.19/appendices/#user-identifiers>.
const MAX_TICKET: usize = (FIXED + 255).div_ceil(3) * 4 + 1 + 43;

/// Key that signs tickets; derived from `unique_secret_key` for this alone.
#[derive(Clone)]
pub struct LinkKey(Zeroizing<[u8; 32]>);

impl From<[u8; 32]> for LinkKey {
    fn from(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey")
    }
}

/// What a ticket is good for; one of one kind is worthless as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// In the link the bot sends.
    Link,
    /// In the confirmation's form and cookie: this browser was shown the page.
    Page,
    /// In the cookie of a browser that is away at Gitter; its nonce is OAuth's `state`.
    State,
}

impl Purpose {
    /// Part of what is signed, and of cookies' names.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Page => "page",
            Self::State => "state",
        }
    }
}

/// The content of a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) nonce: [u8; 16],
    /// Milliseconds since the epoch; from then on it is worthless.
    pub(super) expires_ms: i64,
    /// A Matrix id, or nothing.
    pub(super) subject: String,
}

impl Ticket {
    /// The nonce in 22 characters of base64url.
    pub(super) fn nonce_text(&self) -> String {
        encoded(&self.nonce)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TicketError {
    Forged,
    Expired,
}

impl LinkKey {
    pub(super) fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes keys of any size");
        mac.update(b"matrix-gitter ");
        mac.update(label.as_bytes());
        for part in parts {
            mac.update(b"\0");
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    pub(super) fn seal(&self, purpose: Purpose, ticket: &Ticket) -> String {
        let mut payload = Vec::with_capacity(FIXED + ticket.subject.len());
        payload.push(VERSION);
        payload.extend(ticket.expires_ms.to_be_bytes());
        payload.extend(ticket.nonce);
        payload.extend(ticket.subject.as_bytes());
        let payload = encoded(&payload);
        let mac = encoded(&self.mac(purpose.name(), &[payload.as_bytes()]));
        format!("{payload}.{mac}")
    }

    pub(super) fn open(
        &self,
        purpose: Purpose,
        token: &str,
        now_ms: i64,
    ) -> Result<Ticket, TicketError> {
        let forged = TicketError::Forged;
        if token.len() > MAX_TICKET {
            return Err(forged);
        }
        let (payload, given) = token.split_once('.').ok_or(forged)?;
        let mac = encoded(&self.mac(purpose.name(), &[payload.as_bytes()]));
        if !bool::from(mac.as_bytes().ct_eq(given.as_bytes())) {
            return Err(forged);
        }
        // Signed by us from here on; still read with care, as an older version may have done so.
        let payload = Base64::<UrlSafe>::parse(payload).map_err(|_| forged)?.into_inner();
        let (&version, rest) = payload.split_first().ok_or(forged)?;
        let (expires, rest) = rest.split_first_chunk::<8>().ok_or(forged)?;
        let (&nonce, subject) = rest.split_first_chunk::<16>().ok_or(forged)?;
        let subject = String::from_utf8(subject.to_vec()).map_err(|_| forged)?;
        if version != VERSION {
            return Err(forged);
        }
        let expires_ms = i64::from_be_bytes(*expires);
        if now_ms >= expires_ms {
            return Err(TicketError::Expired);
        }
        Ok(Ticket { nonce, expires_ms, subject })
    }

    /// The nonce of the state that `page`'s browser gets for `link`: the same each time it asks,
    /// and not to be guessed by who only knows the link.
    pub(super) fn derive(&self, link: &[u8; 16], page: &[u8; 16]) -> [u8; 16] {
        let mac = self.mac("state nonce", &[link, page]);
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&mac[..16]);
        nonce
    }
}

/// A link for `account` to log in with: works once, until [`LIFETIME`] after `now_ms`
/// (milliseconds since the epoch).
///
/// `login_url` is the base the pages are reached at; a path in it is kept.
#[must_use]
pub fn login_link(
    login_url: &Url,
    key: &LinkKey,
    account: &UserId,
    now_ms: i64,
    rng: &mut impl CryptoRng,
) -> Url {
    let mut nonce = [0; 16];
    rng.fill_bytes(&mut nonce);
    let ticket = Ticket {
        nonce,
        expires_ms: now_ms.saturating_add(super::LIFETIME_MS),
        subject: account.as_str().to_owned(),
    };
    let mut url = below(login_url, "login");
    url.set_query(Some(&format!("link={}", key.seal(Purpose::Link, &ticket))));
    url
}

/// `base` with `name` as one more path segment, whether or not `base` ends in a slash.
pub(super) fn below(base: &Url, name: &str) -> Url {
    let mut url = base.clone();
    let path = format!("{}/{name}", base.path().trim_end_matches('/'));
    url.set_path(&path);
    url.set_query(None);
    url.set_fragment(None);
    url
}

pub(super) fn encoded(bytes: &[u8]) -> String {
    Base64::<UrlSafe, _>::new(bytes).encode()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};
    use ruma::user_id;

    use super::*;

    fn key() -> LinkKey {
        LinkKey::from([7; 32])
    }

    fn ticket() -> Ticket {
        let subject = "@alice:example.org".to_owned();
        Ticket { nonce: [9; 16], expires_ms: 1_000, subject }
    }

    #[test]
    fn a_ticket_comes_back_as_it_was_until_it_expires() {
        let token = key().seal(Purpose::Link, &ticket());
        assert_eq!(key().open(Purpose::Link, &token, 999), Ok(ticket()));
        assert_eq!(key().open(Purpose::Link, &token, 1_000), Err(TicketError::Expired));
    }

    #[test]
    fn a_ticket_with_any_byte_changed_is_forged() {
        let token = key().seal(Purpose::Link, &ticket());
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=";
        for at in 0..token.len() {
            for other in alphabet.iter().filter(|byte| **byte != token.as_bytes()[at]) {
                let mut bytes = token.clone().into_bytes();
                bytes[at] = *other;
                let changed = String::from_utf8(bytes).expect("ASCII");
                let opened = key().open(Purpose::Link, &changed, 0);
                assert_eq!(opened, Err(TicketError::Forged), "byte {at} as {}", char::from(*other));
            }
            assert_eq!(key().open(Purpose::Link, &token[..at], 0), Err(TicketError::Forged));
        }
        for other in
            [format!("{token}A"), format!("{token}="), format!("{token}."), "x".repeat(9999)]
        {
            assert_eq!(key().open(Purpose::Link, &other, 0), Err(TicketError::Forged), "{other}");
        }
    }

    #[test]
    fn a_ticket_is_good_for_one_purpose_and_one_key() {
        let token = key().seal(Purpose::Link, &ticket());
        for purpose in [Purpose::Page, Purpose::State] {
            assert_eq!(key().open(purpose, &token, 0), Err(TicketError::Forged));
        }
        let other = LinkKey::from([8; 32]);
        assert_eq!(other.open(Purpose::Link, &token, 0), Err(TicketError::Forged));
    }

    #[test]
    fn tickets_for_the_longest_ids_are_taken() {
        let subject = format!("@{}:example.org", "x".repeat(255 - 13));
        let long = Ticket { subject, ..ticket() };
        assert_eq!(long.subject.len(), 255);
        let token = key().seal(Purpose::Link, &long);
        assert_eq!(key().open(Purpose::Link, &token, 0), Ok(long));
    }

    #[test]
    fn links_keep_the_path_of_the_base_and_differ_each_time() {
        let mut rng = StdRng::seed_from_u64(1);
        for base in ["https://example.org/gitter", "https://example.org/gitter/?x#y"] {
            let base = Url::parse(base).expect("an address");
            let alice = user_id!("@alice:example.org");
            let [one, other] = [0, 0].map(|now| login_link(&base, &key(), alice, now, &mut rng));
            assert_ne!(one, other);
            let token = one.as_str().strip_prefix("https://example.org/gitter/login?link=");
            let opened = key().open(Purpose::Link, token.expect("the path"), 599_999);
            assert_eq!(opened.expect("a good link").subject, alice.as_str());
        }
    }

    #[test]
    fn keys_do_not_print_themselves() {
        assert_eq!(format!("{:?}", key()), "LinkKey");
    }
}
