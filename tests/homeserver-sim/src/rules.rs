//! Who may do what in a room: the authorization rules, with Synapse's words.
//!
//! See <https://spec.matrix.org/v1.15/rooms/v11/#authorization-rules> and
//! <https://spec.matrix.org/v1.16/rooms/v12/#authorization-rules>.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::event::Draft;
use crate::refusal::Refusal;
use crate::room::Room;

/// Refuses what the room's state does not allow. The first two events of a room need no leave.
pub(crate) fn check(room: &Room, draft: &Draft) -> Result<(), Refusal> {
    let Draft { kind, state_key, sender, .. } = draft;
    match (kind.as_str(), state_key) {
        ("m.room.member", Some(target)) => return member(room, draft, target),
        ("m.room.create", _) => {
            return Err(Refusal::forbidden("Create event has prev events"));
        }
        _ => {}
    }
    if !room.is_joined(sender) {
        return Err(Refusal::not_in_room(sender, &room.id));
    }
    let (level, needed) = (room.level(sender), room.needed_for(kind, state_key.is_some()));
    if level < needed {
        return Err(Refusal::forbidden(format!(
            "You don't have permission to post that to the room. user_level ({level}) < \
             send_level ({needed})"
        )));
    }
    if state_key.as_deref().is_some_and(|key| key.starts_with('@') && key != sender) {
        return Err(Refusal::forbidden("You are not allowed to set others state"));
    }
    match kind.as_str() {
        "m.room.power_levels" => levels(room, draft),
        "m.room.redaction" => redaction(room, draft),
        _ => Ok(()),
    }
}

fn member(room: &Room, draft: &Draft, target: &str) -> Result<(), Refusal> {
    let sender = draft.sender.as_str();
    let membership = draft.content["membership"].as_str().unwrap_or_default();
    let (mine, theirs) = (room.membership(sender), room.membership(target));
    let (level, target_level) = (room.level(sender), room.level(target));
    if membership == "join" {
        let rule =
            room.get("m.room.join_rules", "").map_or("invite", |rule| rule.text("join_rule"));
        let inside = matches!(mine, "join" | "invite");
        return match rule {
            _ if sender != target => Err(Refusal::forbidden("Cannot force another user to join.")),
            _ if theirs == "ban" => Err(Refusal::forbidden("You are banned from this room")),
            "public" => Ok(()),
            _ if inside => Ok(()),
            _ => Err(Refusal::forbidden("You are not invited to this room.")),
        };
    }
    if membership == "leave" && sender == target && mine == "invite" {
        return Ok(());
    }
    if mine != "join" {
        return Err(Refusal::forbidden(format!("{sender} not in room {}.", room.id)));
    }
    let refused = match membership {
        "invite" if theirs == "ban" => Some(format!("{target} is banned from the room")),
        "invite" if theirs == "join" => Some(format!("{target} is already in the room.")),
        "invite" if level < room.needed("invite") => {
            Some("You don't have permission to invite users".to_owned())
        }
        "leave" if theirs == "ban" && level < room.needed("ban") => {
            Some(format!("You cannot unban user {target}."))
        }
        "leave" if sender != target && (level < room.needed("kick") || level <= target_level) => {
            Some(format!("You cannot kick user {target}."))
        }
        "ban" if level < room.needed("ban") => Some("You don't have permission to ban".to_owned()),
        "ban" if level <= target_level => {
            Some("You don't have permission to ban this user".to_owned())
        }
        "invite" | "leave" | "ban" => None,
        _ => return Err(Refusal::new(400, "M_UNKNOWN", "Invalid membership key")),
    };
    refused.map_or(Ok(()), |words| Err(Refusal::forbidden(words)))
}

fn levels(room: &Room, draft: &Draft) -> Result<(), Refusal> {
    let users = draft.content["users"].as_object();
    let users: BTreeSet<&String> = users.into_iter().flat_map(|users| users.keys()).collect();
    if let Some(creator) = users.iter().find(|user| room.has_creators() && room.is_creator(user)) {
        let words = format!("Creator user {creator} must not appear in content.users");
        return Err(Refusal::new(400, "M_UNKNOWN", words));
    }
    let Some(old) = room.get("m.room.power_levels", "").map(|event| &event.content) else {
        return Ok(());
    };
    let new = &draft.content;
    let level = room.level(&draft.sender);
    let mut compared: Vec<(Option<&str>, String)> =
        ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"]
            .map(|key| (None, key.to_owned()))
            .into();
    for section in ["users", "events", "notifications"] {
        let keys = [old, new].into_iter().filter_map(|content| content[section].as_object());
        let keys: BTreeSet<&String> = keys.flat_map(|map| map.keys()).collect();
        compared.extend(keys.into_iter().map(|key| (Some(section), key.clone())));
    }
    for (section, key) in compared {
        let at = |content: &Value| match section {
            Some(section) => content[section][&key].as_i64(),
            None => content[&key].as_i64(),
        };
        let (before, after) = (at(old), at(new));
        if before == after {
            continue;
        }
        if section == Some("users") && key != draft.sender && before == Some(level) {
            let words = "You don't have permission to remove ops level equal to your own";
            return Err(Refusal::forbidden(words));
        }
        if before.max(after).is_some_and(|changed| changed > level) {
            let words = "You don't have permission to add ops level greater than your own";
            return Err(Refusal::forbidden(words));
        }
    }
    Ok(())
}

fn redaction(room: &Room, draft: &Draft) -> Result<(), Refusal> {
    let target = draft.redacts.as_deref().unwrap_or_default();
    let original = room.event(target);
    if original.is_some_and(|event| event.kind == "m.room.create") {
        return Err(Refusal::forbidden("Redacting create events is not permitted"));
    }
    if room.level(&draft.sender) >= room.needed("redact") {
        return Ok(());
    }
    match original {
        None => Err(Refusal::not_found(format!("Could not find event {target}"))),
        Some(event) if event.sender == draft.sender => Ok(()),
        Some(_) => Err(Refusal::forbidden("You don't have permission to redact events")),
    }
}
