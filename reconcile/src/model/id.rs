//! Ids of the Gitter side and of what lies between; Matrix ids are ruma's.

use std::{fmt, str::FromStr};

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no {what}: {rule}")]
pub struct IdError {
    what: &'static str,
    rule: &'static str,
    value: String,
}

macro_rules! gitter_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as Gitter writes it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(value: String) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(&value) {
                    Ok(Self(value))
                } else {
                    let value = value.chars().take(64).collect();
                    Err(IdError { what: $what, rule: $rule, value })
                }
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::try_from(value.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn object_id(value: &str) -> bool {
    value.len() == 24 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

gitter_id!(
    /// A Gitter room: 24 lower-case hex digits that stay when the room is renamed.
    GitterRoomId,
    "Gitter room id",
    "24 lower-case hex digits",
    object_id
);
gitter_id!(
    /// A Gitter message: 24 hex digits; the first eight are its time in seconds.
    MessageId,
    "Gitter message id",
    "24 lower-case hex digits",
    object_id
);
gitter_id!(
    /// A Gitter user. Usually 24 hex digits; users of other bridges are `matrix-name:server`.
    GitterUserId,
    "Gitter user id",
    "1 to 255 characters without white space or control characters",
    |value| (1..=255).contains(&value.len())
        && !value.chars().any(|c| c.is_whitespace() || c.is_control())
);

impl GitterUserId {
    /// Whether this is somebody with an account on Gitter, who can be a member of rooms; not a user of another bridge, nor
    /// the one who stands for all whose account is gone.
    #[must_use]
    pub fn is_person(&self) -> bool {
        object_id(&self.0.to_ascii_lowercase())
    }
}

impl MessageId {
    /// The first possible id of a second, to page from a time; see the Gitter reference, section 4.1.
    #[must_use]
    pub fn first_of(time: Millis) -> Self {
        let seconds = u32::try_from(time.0 / 1000).unwrap_or(u32::MAX);
        Self(format!("{seconds:08x}{:016x}", 0))
    }

    /// The greatest id below this one: "after it" includes this one.
    #[must_use]
    pub fn before(&self) -> Self {
        let value = self.0.get(..16).and_then(|half| u64::from_str_radix(half, 16).ok());
        let rest = self.0.get(16..).and_then(|half| u32::from_str_radix(half, 16).ok());
        match (value.unwrap_or(0), rest.unwrap_or(0)) {
            (high, 0) => Self(format!("{:016x}{:08x}", high.saturating_sub(1), u32::MAX)),
            (high, low) => Self(format!("{high:016x}{:08x}", low - 1)),
        }
    }

    /// The second in which this id was made.
    #[must_use]
    pub fn made(&self) -> Millis {
        Millis(u64::from_str_radix(&self.0[..8], 16).unwrap_or(0) * 1000)
    }
}

/// Milliseconds since the Unix epoch, by some clock outside this crate.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The time that passed since `earlier`; zero if the clock went back.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Which portal: one account's room for one Gitter room.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortalKey {
    /// The account whose portal it is.
    pub account: OwnedUserId,
    /// The Gitter room it shows.
    pub room: GitterRoomId,
}

impl PortalKey {
    /// Names a portal.
    #[must_use]
    pub fn new(account: OwnedUserId, room: GitterRoomId) -> Self {
        Self { account, room }
    }
}

/// `<Gitter room id>/<Matrix user id>`: also the marker in the room's creation content. It is read back with
/// [`FromStr`].
impl fmt::Display for PortalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.room, self.account)
    }
}

impl FromStr for PortalKey {
    type Err = IdError;

    fn from_str(value: &str) -> Result<Self, IdError> {
        let bad = || IdError {
            what: "portal key",
            rule: "<Gitter room id>/<Matrix user id>",
            value: value.chars().take(64).collect(),
        };
        let (room, account) = value.split_once('/').ok_or_else(bad)?;
        let account = OwnedUserId::try_from(account).map_err(|_| bad())?;
        Ok(Self { account, room: room.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_what_gitter_makes_and_nothing_else() {
        let rows: [(&str, bool, bool); 7] = [
            ("5f000000000000000000e001", true, true),
            ("5F000000000000000000E001", false, true),
            ("5f00", false, true),
            ("", false, false),
            ("matrix-vera:example.org", false, true),
            ("a b", false, false),
            ("a\u{0}b", false, false),
        ];
        for (text, object, user) in rows {
            assert_eq!(text.parse::<GitterRoomId>().is_ok(), object, "room: {text}");
            assert_eq!(text.parse::<MessageId>().is_ok(), object, "message: {text}");
            assert_eq!(text.parse::<GitterUserId>().is_ok(), user, "user: {text}");
        }
    }

    #[test]
    fn a_portal_key_is_read_back_as_it_was_written() {
        let key: PortalKey = "5f000000000000000000e001/@a/b:example.com".parse().expect("valid");
        assert_eq!(key.account.as_str(), "@a/b:example.com");
        assert_eq!(key.to_string().parse::<PortalKey>().expect("valid"), key);
        assert!("5f000000000000000000e001".parse::<PortalKey>().is_err());
        assert!("5f000000000000000000e001/alice".parse::<PortalKey>().is_err());
    }

    #[test]
    fn a_message_id_tells_its_second() {
        let id: MessageId = "5fdbe7b0aa0000000000aa01".parse().expect("valid");
        assert_eq!(id.made(), Millis(0x5fdb_e7b0 * 1000));
        assert_eq!(id.before().as_str(), "5fdbe7b0aa0000000000aa00");
        let round: MessageId = "5fdbe7b0aa00000100000000".parse().expect("valid");
        assert_eq!(round.before().as_str(), "5fdbe7b0aa000000ffffffff");
        assert_eq!(MessageId::first_of(id.made()).as_str(), "5fdbe7b00000000000000000");
    }
}
