//! The names of ghosts: from a Gitter user to the localpart of a Matrix id, and back to "one of ours".
//!
//! *Guarantees*, as long as Gitter's ids are 24 hexadecimal digits or longer, and held by the properties below:
//!
//! - Every id follows the specification's grammar and its length, whatever the name is.
//! - Without suffix, two names give one id only if they differ in nothing but case (or are cut).
//! - With suffix, or when cut, two Gitter users never share an id, nor take an id that another name would give.

use std::fmt::Write as _;

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use sha2::{Digest, Sha256};

/// The whole id, with sigil, colon and server name, by the specification.
const ID_MAX: usize = 255;
/// Gitter's ids have 24 hexadecimal digits; a longer one is replaced by its hash.
const KEY_MAX: usize = 32;
const KEY_MIN: usize = 24;
/// What must be left for a name to be recognisable.
const NAME_MIN: usize = 24;

/// The bot's id leaves no room for the names of ghosts.
#[derive(Debug, thiserror::Error)]
#[error("the id of the bot is too long for ghosts beside it: {0}")]
pub struct TooLong(OwnedUserId);

/// The ghosts' part of the homeserver's users: `@<bot>_…:<server>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ghosts {
    bot: OwnedUserId,
    prefix: String,
    server: OwnedServerName,
    /// Bytes left for what follows the prefix.
    room: usize,
}

impl TryFrom<&UserId> for Ghosts {
    type Error = TooLong;

    /// The ghosts that belong to `bot`.
    fn try_from(bot: &UserId) -> Result<Self, TooLong> {
        let prefix = format!("{}_", bot.localpart());
        let server = bot.server_name().to_owned();
        let taken = "@:".len() + prefix.len() + server.as_str().len();
        let room = ID_MAX.saturating_sub(taken);
        if room < NAME_MIN + 1 + KEY_MAX {
            return Err(TooLong(bot.to_owned()));
        }
        Ok(Self { bot: bot.to_owned(), prefix, server, room })
    }
}

impl Ghosts {
    /// What every ghost's localpart begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The id for the Gitter user `name` with the id `gitter_id`.
    ///
    /// Ask with `suffix` when the id without it belongs to another Gitter user already. A ghost keeps its id when its
    /// user is renamed: remember the id, don't derive it again.
    ///
    /// # Panics
    ///
    /// Never: the properties hold that every id is valid.
    #[must_use]
    pub fn id(&self, name: &str, gitter_id: &str, suffix: bool) -> OwnedUserId {
        let mut local = escape(&name.to_lowercase());
        // A name that looks as if it had a suffix gets another `-`, which no unescaped name has.
        if let Some((before, key)) = local.rsplit_once('-')
            && key.len() >= KEY_MIN
            && is_key(key)
        {
            local = format!("{before}=2d{key}");
        }
        if suffix || local.is_empty() || local.len() > self.room {
            let key = key(gitter_id);
            local.truncate(boundary(&local, self.room - 1 - key.len()));
            local = format!("{local}-{key}");
        }
        UserId::parse(format!("@{}{local}:{}", self.prefix, self.server))
            .expect("escaped and short enough")
    }

    /// Whether they are at this server: it is the homeserver.
    #[must_use]
    pub fn are_at(&self, server: &ServerName) -> bool {
        server == self.server
    }

    /// Whether `user` is a ghost of this bridge, by its name alone.
    #[must_use]
    pub fn is_ghost(&self, user: &UserId) -> bool {
        user.server_name() == self.server
            && user.localpart().strip_prefix(&self.prefix).is_some_and(|rest| !rest.is_empty())
    }

    /// Whether `user` is a ghost of this bridge or the bot: whose events are the bridge's own.
    #[must_use]
    pub fn is_ours(&self, user: &UserId) -> bool {
        user == self.bot || self.is_ghost(user)
    }
}

/// The grammar's characters as they are, `=xx` for every other byte.
///
/// See <https://spec.matrix.org/v1.15/appendices/#mapping-from-other-character-sets>.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/' | b'+' => {
                escaped.push(char::from(byte));
            }
            _ => write!(escaped, "={byte:02x}").expect("writing to a string never fails"),
        }
    }
    escaped
}

fn is_key(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A Gitter id as it may stand in a ghost's: itself if it looks as Gitter's do, else its hash in hexadecimal.
fn key(gitter_id: &str) -> String {
    if is_key(gitter_id) && (KEY_MIN..KEY_MAX).contains(&gitter_id.len()) {
        return gitter_id.to_owned();
    }
    let hash = Sha256::digest(gitter_id);
    hash.iter().take(KEY_MAX / 2).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string never fails");
        hex
    })
}

/// The longest length up to `max` that does not cut an escaped byte apart.
fn boundary(escaped: &str, max: usize) -> usize {
    let max = max.min(escaped.len());
    let tail = &escaped[max.saturating_sub(2)..max];
    tail.find('=').filter(|_| max < escaped.len()).map_or(max, |at| max.saturating_sub(2) + at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::user_id;

    use super::*;

    const ID: &str = "53307831c3599d1de448e19a";

    fn ghosts() -> Ghosts {
        Ghosts::try_from(user_id!("@gitter:hs.example")).expect("a short bot")
    }

    #[test]
    fn names_become_localparts() {
        let rows = [
            ("plain", "alice", false, "gitter_alice"),
            ("case", "AliceB", false, "gitter_aliceb"),
            ("allowed signs", "a-b_c.d/e+f", false, "gitter_a-b_c.d/e+f"),
            ("space and at", "a b@c", false, "gitter_a=20b=40c"),
            ("equals", "a=b", false, "gitter_a=3db"),
            ("two bytes", "É", false, "gitter_=c3=a9"),
            ("second of the name", "alice", true, "gitter_alice-53307831c3599d1de448e19a"),
            ("no name", "", false, "gitter_-53307831c3599d1de448e19a"),
            (
                "posing as a second",
                "alice-53307831c3599d1de448e19a",
                false,
                "gitter_alice=2d53307831c3599d1de448e19a",
            ),
        ];
        for (row, name, suffix, expected) in rows {
            assert_eq!(ghosts().id(name, ID, suffix).localpart(), expected, "row: {row}");
        }
    }

    #[test]
    fn an_id_unlike_gitters_is_hashed() {
        for id in ["", "7", "Ünïcode", &"a".repeat(10_000), "../../etc"] {
            let local = ghosts().id("x", id, true).localpart().to_owned();
            let key = local.strip_prefix("gitter_x-").expect("a suffix");
            assert!(key.len() == KEY_MAX && is_key(key), "{local}");
        }
    }

    #[test]
    fn ours_are_the_bot_and_its_ghosts_on_its_own_server() {
        let rows = [
            ("@gitter:hs.example", true, false),
            ("@gitter_alice:hs.example", true, true),
            ("@gitter_:hs.example", false, false),
            ("@gitterfan:hs.example", false, false),
            ("@gitter_alice:other.example", false, false),
            ("@gitter:other.example", false, false),
            ("@alice:hs.example", false, false),
            ("@Gitter_alice:hs.example", false, false),
        ];
        for (user, ours, ghost) in rows {
            let user = <&UserId>::try_from(user).expect("an id");
            assert_eq!(ghosts().is_ours(user), ours, "{user}");
            assert_eq!(ghosts().is_ghost(user), ghost, "{user}");
        }
    }

    #[test]
    fn a_bot_that_leaves_no_room_is_refused() {
        let long = format!("@gitter:{}.example", "a".repeat(200));
        let bot = UserId::parse(long).expect("an id");
        assert!(Ghosts::try_from(&*bot).is_err());
    }

    fn gitter_id() -> impl Strategy<Value = String> {
        "[0-9a-f]{24}"
    }

    /// Any text, and what most likely makes trouble.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[a-zA-Z0-9_.=-]{0,40}",
            "[é=A ]{50,400}",
            ("[a-z-]{0,4}", gitter_id()).prop_map(|(name, id)| format!("{name}-{id}")),
            ("[a-z]{180,240}", gitter_id()).prop_map(|(name, id)| format!("{name}-{id}")),
        ]
    }

    proptest! {
        #[test]
        fn every_id_is_valid_and_one_of_ours(name in name(), id in any::<String>(), suffix: bool) {
            let ghost = ghosts().id(&name, &id, suffix);
            prop_assert!(ghost.validate_strict().is_ok(), "{ghost}");
            prop_assert!(ghost.as_str().len() <= ID_MAX, "{ghost}");
            prop_assert!(ghosts().is_ours(&ghost) && ghosts().is_ghost(&ghost));
            // Nothing was cut in the middle of an escaped byte.
            let mut rest = ghost.localpart();
            while let Some(at) = rest.find('=') {
                prop_assert!(rest.len() >= at + 3 && is_key(&rest[at + 1..at + 3]), "{ghost}");
                rest = &rest[at + 3..];
            }
        }

        #[test]
        fn with_a_suffix_two_users_never_share_an_id(
            (name, other) in prop_oneof![(name(), name()), name().prop_map(|n| (n.clone(), n))],
            (id, other_id) in (gitter_id(), gitter_id()),
            other_suffix: bool,
        ) {
            prop_assume!(id != other_id);
            let ghost = ghosts().id(&name, &id, true);
            prop_assert_ne!(ghost, ghosts().id(&other, &other_id, other_suffix));
        }

        #[test]
        fn a_name_that_poses_as_a_second_user_gets_another_id(
            name in "[a-z]{1,20}", id in gitter_id(), poser in gitter_id(),
        ) {
            let second = ghosts().id(&name, &id, true);
            let posing = ghosts().id(&format!("{name}-{id}"), &poser, false);
            prop_assert_ne!(second, posing);
        }

        #[test]
        fn without_a_suffix_only_case_is_lost(name in "\\PC{1,15}", other in "\\PC{1,15}", id in gitter_id()) {
            let same = ghosts().id(&name, &id, false) == ghosts().id(&other, &id, false);
            prop_assert_eq!(same, name.to_lowercase() == other.to_lowercase());
        }
    }
}
