//! Who may do what in a room, by its levels and its beginning.
//!
//! See <https://spec.matrix.org/v1.16/client-server-api/#permissions> and
//! <https://spec.matrix.org/v1.16/rooms/v12/#authorization-rules>.

use ruma::UserId;
use serde_json::Value;

use super::client::CreateEvent;

/// The levels of a room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Power<'a> {
    pub(super) created: &'a CreateEvent,
    /// The content of `m.room.power_levels`; a room need not have any.
    pub(super) levels: Option<&'a Value>,
}

impl Power<'_> {
    /// Whether somebody may send state events of this type.
    pub(super) fn may_set(self, user: &UserId, kind: &str) -> bool {
        let own = self.levels.and_then(|levels| level(levels.get("events")?.get(kind)));
        self.has(user, own.unwrap_or_else(|| self.needed("state_default", 50)))
    }

    /// Whether somebody may do what a portal takes: bring people in and out, and say what the room is.
    pub(super) fn may_keep(self, user: &UserId) -> bool {
        let invite = self.needed("invite", 0);
        let most = ["kick", "ban", "redact", "state_default"].map(|key| self.needed(key, 50));
        self.has(user, most.into_iter().fold(invite, i64::max))
            && ["m.room.name", "m.room.topic", "m.room.avatar"]
                .iter()
                .all(|k| self.may_set(user, k))
    }

    fn needed(self, key: &str, default: i64) -> i64 {
        // Without levels anybody may set state, and only the creator has any.
        let default = if self.levels.is_none() && key == "state_default" { 0 } else { default };
        self.levels.and_then(|levels| level(levels.get(key))).unwrap_or(default)
    }

    fn has(self, user: &UserId, needed: i64) -> bool {
        let Self { created, levels } = self;
        let privileged =
            created.version().and_then(|version| version.rules()).is_none_or(|rules| {
                // Versions not known yet are taken to keep what the newest known has.
                rules.authorization.explicitly_privilege_room_creators
            });
        let more = created.content.get("additional_creators").and_then(Value::as_array);
        let is_creator = created.sender == user
            || privileged && more.into_iter().flatten().any(|creator| creator == user.as_str());
        if is_creator && privileged {
            return true;
        }
        let Some(levels) = levels else { return needed <= if is_creator { 100 } else { 0 } };
        let own = levels.get("users").and_then(|users| level(users.get(user.as_str())));
        own.or_else(|| level(levels.get("users_default"))).unwrap_or(0) >= needed
    }
}

/// A level; up to room version 9 it may be a text.
pub(super) fn level(value: Option<&Value>) -> Option<i64> {
    let value = value?;
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use ruma::{owned_user_id, user_id};
    use serde_json::json;

    use super::*;

    #[test]
    fn creators_levels_and_defaults_decide_who_may_end_a_room() {
        let (bot, alice, carol) =
            (user_id!("@bot:hs"), user_id!("@alice:hs"), user_id!("@carol:hs"));
        let created = |version: &str, more: Value| CreateEvent {
            sender: owned_user_id!("@bot:hs"),
            content: json!({"room_version": version, "additional_creators": more}),
        };
        let levels = json!({"users": {"@alice:hs": 100}, "events": {"m.room.tombstone": 150}});
        let eleven = json!({
            "users": {"@bot:hs": 100, "@alice:hs": "50"}, "events": {"m.room.tombstone": 100},
        });
        let open = json!({"users": {"@alice:hs": 50}});
        let v12 = created("12", json!(["@carol:hs"]));
        let v11 = created("11", json!(["@carol:hs"]));
        let rows = [
            ("the creator", &v12, Some(&levels), bot, true),
            ("another creator", &v12, Some(&levels), carol, true),
            ("a hundred is not enough", &v12, Some(&levels), alice, false),
            ("the creator needs a level", &v11, Some(&eleven), bot, true),
            ("a level as text", &v11, Some(&eleven), alice, false),
            ("no creators beside", &v11, Some(&eleven), carol, false),
            ("the default for state", &v11, Some(&open), alice, true),
            ("nobody's level", &v11, Some(&open), bot, false),
            ("without levels the creator", &v11, None, bot, true),
            ("without levels anybody", &v11, None, alice, true),
        ];
        for (name, created, levels, user, expected) in rows {
            let power = Power { created, levels };
            assert_eq!(power.may_set(user, "m.room.tombstone"), expected, "row: {name}");
        }
    }

    #[test]
    fn a_portal_takes_all_of_a_moderators_power() {
        let bot = user_id!("@bot:hs");
        let created = CreateEvent {
            sender: owned_user_id!("@alice:hs"),
            content: json!({"room_version": "12"}),
        };
        let may = |levels: Value| Power { created: &created, levels: Some(&levels) }.may_keep(bot);
        assert!(may(json!({"users": {"@bot:hs": 50}, "events": {"m.room.name": 50}})));
        assert!(!may(json!({"users": {"@bot:hs": 50}, "events": {"m.room.name": 51}})));
        assert!(!may(json!({"users": {"@bot:hs": 50}, "invite": 60})));
        assert!(!may(json!({"users": {"@bot:hs": 49}})));
        assert!(!may(json!({})));
    }
}
