//! Links to files: which file, until when, and the message whose deletion ends it.
//!
//! A link ends in `media/<token>/<name>`. The token is `base64url(payload).base64url(mac)`; the payload is a version byte
//! (1), the end of its life (milliseconds since the epoch, big endian), and the file's `server/id`, NUL, the event's id.
//! The MAC is HMAC-SHA-256 over encoded payload and name, and is compared encoded: each link has one spelling only.

use std::{fmt::Write as _, time::Duration};

use ruma::{
    EventId, MxcUri, OwnedEventId, OwnedMxcUri,
    serde::{Base64, base64::UrlSafe},
};
use subtle::ConstantTimeEq as _;
use url::Url;

use super::super::link::{LinkKey, TicketError, below, encoded};

const VERSION: u8 = 1;
const LABEL: &str = "media";
/// Version and end of life.
const FIXED: usize = 1 + 8;
/// An event's id has at most 255 bytes, and so has the name of a server; media ids are far shorter.
const MAX_PAYLOAD: usize = FIXED + 255 + 1 + 255 + 1 + 255;
const MAX_TOKEN: usize = MAX_PAYLOAD.div_ceil(3) * 4 + 1 + 43;
/// Longest name in a link, in characters, and its longest ending.
const MAX_STEM: usize = 60;
const MAX_ENDING: usize = 10;
/// Stands for names of which nothing can be kept.
const NAMELESS: &str = "file";

/// Makes links to files, and knows them again.
#[derive(Debug, Clone)]
pub struct MediaLinks {
    login_url: Url,
    key: LinkKey,
    lifetime_ms: i64,
    largest: u64,
}

/// What a link leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) mxc: OwnedMxcUri,
    pub(super) event: OwnedEventId,
    /// Milliseconds since the epoch; from then on it is worthless.
    pub(super) expires_ms: i64,
}

impl MediaLinks {
    /// Links below `login_url`, signed with `key`, that work for `lifetime`, to files of at most `largest` bytes.
    #[must_use]
    pub fn new(login_url: Url, key: LinkKey, lifetime: Duration, largest: u64) -> Self {
        let lifetime_ms = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
        Self { login_url, key, lifetime_ms, largest }
    }

    /// Size of the largest file that is passed on, in bytes.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// A link to the file `mxc` of `event`, shown as `name`; `None` when `mxc` is no address of a file.
    ///
    /// It works until its lifetime after `now_ms` (milliseconds since the epoch).
    #[must_use]
    pub fn link(&self, mxc: &MxcUri, event: &EventId, name: &str, now_ms: i64) -> Option<Url> {
        let (server, id) = mxc.parts().ok().filter(|(_, id)| !id.is_empty())?;
        let expires_ms = now_ms.saturating_add(self.lifetime_ms);
        let mut payload = vec![VERSION];
        payload.extend(expires_ms.to_be_bytes());
        for part in [server.as_str(), "/", id, "\0", event.as_str()] {
            payload.extend(part.as_bytes());
        }
        if payload.len() > MAX_PAYLOAD {
            return None;
        }
        let payload = encoded(&payload);
        let name = file_name(name);
        let mac = encoded(&self.key.mac(LABEL, &[payload.as_bytes(), name.as_bytes()]));
        let mut path = format!("media/{payload}.{mac}/");
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
                path.push(char::from(byte));
            } else {
                write!(path, "%{byte:02X}").expect("writing to a string never fails");
            }
        }
        Some(below(&self.login_url, &path))
    }

    /// What the link with this token and name (decoded) leads to.
    pub(super) fn open(&self, token: &str, name: &str, now_ms: i64) -> Result<File, TicketError> {
        let forged = TicketError::Forged;
        if token.len() > MAX_TOKEN {
            return Err(forged);
        }
        let (payload, given) = token.split_once('.').ok_or(forged)?;
        let mac = encoded(&self.key.mac(LABEL, &[payload.as_bytes(), name.as_bytes()]));
        if !bool::from(mac.as_bytes().ct_eq(given.as_bytes())) {
            return Err(forged);
        }
        // Signed by us from here on; still read with care, as an older version may have done so.
        let payload = Base64::<UrlSafe>::parse(payload).map_err(|_| forged)?.into_inner();
        let (&version, rest) = payload.split_first().ok_or(forged)?;
        let (expires, rest) = rest.split_first_chunk::<8>().ok_or(forged)?;
        let rest = std::str::from_utf8(rest).map_err(|_| forged)?;
        let (file, event) = rest.split_once('\0').ok_or(forged)?;
        let mxc = OwnedMxcUri::from(format!("mxc://{file}"));
        let event = OwnedEventId::try_from(event).map_err(|_| forged)?;
        if version != VERSION || !mxc.is_valid() {
            return Err(forged);
        }
        let expires_ms = i64::from_be_bytes(*expires);
        if now_ms >= expires_ms {
            return Err(TicketError::Expired);
        }
        Ok(File { mxc, event, expires_ms })
    }
}

/// `name` without what file systems, addresses or readers could be misled by, shortened before its ending.
fn file_name(name: &str) -> String {
    let misleads = |c: char| {
        c.is_control()
            || "/\\:*?\"<>|".contains(c)
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let clean: String = name.chars().map(|c| if misleads(c) { '_' } else { c }).collect();
    // A leading dot hides a file, and dots alone are no name.
    let clean = clean.trim_matches(|c: char| c == '.' || c.is_whitespace());
    let (stem, ending) = match clean.rsplit_once('.') {
        Some((stem, ending)) if ending.chars().count() <= MAX_ENDING => (stem, Some(ending)),
        _ => (clean, None),
    };
    let mut short: String = stem.chars().take(MAX_STEM).collect();
    if let Some(ending) = ending {
        short.push('.');
        short.push_str(ending);
    }
    if short.is_empty() { NAMELESS.to_owned() } else { short }
}

#[cfg(test)]
pub(super) mod tests {
    use ruma::{event_id, mxc_uri};

    use super::*;

    pub(in super::super) fn links() -> MediaLinks {
        let base = Url::parse("https://bridge.example.org/gitter/").expect("an address");
        MediaLinks::new(base, LinkKey::from([7; 32]), Duration::from_secs(60), 1_000)
    }

    fn file() -> File {
        let event = event_id!("$abc:example.org").to_owned();
        File { mxc: mxc_uri!("mxc://example.org/AbC-1_2").to_owned(), event, expires_ms: 61_000 }
    }

    /// Token and name of a link as a server sees them.
    fn parts(url: &Url) -> (String, String) {
        let (_, rest) = url.path().split_once("/media/").expect("a link to a file");
        let (token, name) = rest.split_once('/').expect("a name");
        let decoded = url::form_urlencoded::parse(name.as_bytes()).next().expect("one");
        (token.to_owned(), decoded.0.into_owned())
    }

    fn link(name: &str) -> Url {
        links().link(&file().mxc, &file().event, name, 1_000).expect("a link")
    }

    #[test]
    fn a_link_leads_to_its_file_until_it_expires() {
        let url = link("cat.png");
        assert!(url.as_str().starts_with("https://bridge.example.org/gitter/media/"), "{url}");
        assert!(url.as_str().ends_with("/cat.png"), "{url}");
        let (token, name) = parts(&url);
        assert_eq!(links().open(&token, &name, 60_999), Ok(file()));
        assert_eq!(links().open(&token, &name, 61_000), Err(TicketError::Expired));
    }

    #[test]
    fn a_link_with_any_byte_changed_is_forged() {
        let (token, name) = parts(&link("cat.png"));
        let forged = Err(TicketError::Forged);
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=";
        for at in 0..token.len() {
            for other in alphabet.iter().filter(|byte| **byte != token.as_bytes()[at]) {
                let mut bytes = token.clone().into_bytes();
                bytes[at] = *other;
                let changed = String::from_utf8(bytes).expect("ASCII");
                let opened = links().open(&changed, &name, 0);
                assert_eq!(opened, forged, "byte {at} as {}", char::from(*other));
            }
            assert_eq!(links().open(&token[..at], &name, 0), forged);
        }
        for other in [format!("{token}A"), format!("{token}="), "x".repeat(99_999)] {
            assert_eq!(links().open(&other, &name, 0), forged, "{other}");
        }
        for other in ["", "cat.exe", "cat.png ", "Cat.png"] {
            assert_eq!(links().open(&token, other, 0), forged, "name {other:?}");
        }
        let other = MediaLinks { key: LinkKey::from([8; 32]), ..links() };
        assert_eq!(other.open(&token, &name, 0), forged, "another key");
    }

    #[test]
    fn what_is_no_file_has_no_link() {
        for mxc in ["", "https://x.org/a", "mxc://", "mxc://x.org", "mxc://x.org/", "mxc://x/a/b"] {
            let mxc = OwnedMxcUri::from(mxc);
            assert_eq!(links().link(&mxc, &file().event, "a", 0), None, "{mxc}");
        }
    }

    #[test]
    fn names_are_kept_as_far_as_they_mislead_nobody() {
        let long = format!("{}.png", "x".repeat(500));
        let cut = format!("{}.png", "x".repeat(MAX_STEM));
        let rows = [
            ("a cat.png", "a cat.png"),
            ("Katze (süß) 🐈.png", "Katze (süß) 🐈.png"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("..", NAMELESS),
            ("", NAMELESS),
            (" \n", "_"),
            ("c:\\x.exe", "c__x.exe"),
            ("gpj.\u{202e}exe", "gpj._exe"),
            ("no ending but a very. long one indeed", "no ending but a very. long one indeed"),
            (&long, &cut),
        ];
        for (name, kept) in rows {
            let (token, found) = parts(&link(name));
            assert_eq!(found, kept, "row: {name:?}");
            assert_eq!(links().open(&token, &found, 0), Ok(file()), "row: {name:?}");
        }
    }
}
