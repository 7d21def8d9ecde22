//! A ghost: the virtual Matrix user of one Gitter user.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

/// What a Gitter user shows of themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Display name as on Gitter, at most 256 characters.
    pub display_name: String,
    /// Where their picture is; absolute.
    pub avatar_url: Option<String>,
}

/// Longest display name that a homeserver takes, in characters.
const NAME_MAX: usize = 256;

/// A display name as people compare it: names that are equal so are told apart.
#[must_use]
pub fn alike(display_name: &str) -> String {
    let seen = |c: &char| !c.is_control() || c.is_whitespace();
    let clean: String = display_name.chars().filter(seen).take(NAME_MAX).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// The virtual Matrix user of one Gitter user; key: the Gitter user id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ghost {
    /// The Matrix id, fixed at first sight.
    pub user: OwnedUserId,
    /// The username as last seen, exact case.
    pub username: String,
    /// The profile as last seen on Gitter.
    pub profile: Profile,
    /// The profile as last set on the homeserver; `None` until the ghost is registered there.
    pub dressed: Option<Profile>,
}

impl Ghost {
    /// What the ghost is to show on Matrix: its person's profile, the username behind the display name when `namesakes` says
    /// that somebody else is called the same, or when the name looks as if that had been done already.
    #[must_use]
    pub fn to_show(&self, namesakes: bool) -> Profile {
        let name = &self.profile.display_name;
        let posing = name.trim_end().strip_suffix(')').and_then(|name| name.rsplit_once(" ("));
        let posing = posing.is_some_and(|(_, inner)| {
            inner.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.~".contains(&b))
        });
        if !namesakes && !posing {
            return self.profile.clone();
        }
        let suffix: String = format!(" ({})", self.username).chars().take(NAME_MAX / 2).collect();
        let kept: String = name.chars().take(NAME_MAX - suffix.chars().count()).collect();
        let display_name = kept + &suffix;
        Profile { display_name, avatar_url: self.profile.avatar_url.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_by_what_is_unique() {
        let long = "x".repeat(300);
        //  display name, whether somebody else is called the same, what is shown
        let rows = [
            ("Bob", false, "Bob".to_owned()),
            ("Bob", true, "Bob (bob_1)".to_owned()),
            ("Bob (ann)", false, "Bob (ann) (bob_1)".to_owned()),
            ("Bob (ann) ", false, "Bob (ann)  (bob_1)".to_owned()),
            ("Bob (he/him)", false, "Bob (he/him)".to_owned()),
            ("Bob (the builder)", false, "Bob (the builder)".to_owned()),
            (&long, true, format!("{} (bob_1)", "x".repeat(248))),
        ];
        for (name, namesakes, shown) in rows {
            let profile = Profile { display_name: name.to_owned(), avatar_url: None };
            let user = "@gitter_bob:hs".try_into().expect("valid");
            let ghost = Ghost { user, username: "bob_1".to_owned(), profile, dressed: None };
            assert_eq!(ghost.to_show(namesakes).display_name, shown, "row: {name}");
        }
    }

    #[test]
    fn names_are_compared_as_people_read_them() {
        for other in ["bob b.", " Bob  B.", "BOB\tB.", "Bob\u{7} B."] {
            assert_eq!(alike(other), alike("Bob B."), "row: {other:?}");
        }
        assert_ne!(alike("Bob"), alike("Rob"));
    }
}
