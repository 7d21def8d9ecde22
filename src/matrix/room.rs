//! The rooms the bridge makes: bodies of `createRoom`, and the state that is put back when it strays.
//!
//! Everything is set in the one request, so that a new room costs one call and its first visitor sees it finished.

use reconcile::model::GitterRoom;
use ruma::{MxcUri, RoomVersionId, UserId};
use serde_json::{Map, Value, json};

use super::power::level;

/// Key in a room's creation content that says which portal the room is.
pub const PORTAL_KEY: &str = "im.gitter.portal";
/// Key in a room's creation content that says whose control room it is.
pub const CONTROL_KEY: &str = "im.gitter.control";
/// The types of the bridge-info state event: as proposed, and as clients know it.
///
/// See <https://github.com/matrix-org/matrix-spec-proposals/pull/2346>.
pub const BRIDGE_INFO_TYPES: [&str; 2] = ["m.bridge", "uk.half-shot.bridge"];

/// The type of the state event that tells clients what can be done in a portal, under the state key of the bridge info.
///
/// See <https://github.com/mautrix/go/blob/main/event/capabilities.d.ts>.
pub const FEATURES_TYPE: &str = "com.beeper.room_features";

/// The type of the state event that says who may do what.
pub const POWER_LEVELS: &str = "m.room.power_levels";
/// The type of the state event that says that a room goes on elsewhere.
pub const TOMBSTONE: &str = "m.room.tombstone";

/// A text up to this surely fits into the messages it may become on Gitter, however it has to be cut.
const LONGEST_TEXT: u32 = 20_000;
/// For so many seconds a message on Gitter can be changed; later a change is a new message.
const EDITABLE_S: u32 = 590;

/// Homeservers allow any length, but an event must not exceed 64 KiB and clients show one line.
const NAME_MAX: usize = 255;
const TOPIC_MAX: usize = 4000;

/// Power to change what nobody but the bridge should.
const OWNER: u8 = 100;
/// Power to do anything beyond talking; nobody but the bot has it.
const MODERATOR: u8 = 50;

/// The Gitter room a portal shows.
#[derive(Debug, Clone, Copy)]
pub struct Channel<'a> {
    /// Its id on Gitter.
    pub id: &'a str,
    /// What people call it there: a uri, or a person's name.
    pub name: &'a str,
    /// Its topic, if any.
    pub topic: Option<&'a str>,
    /// Its avatar, uploaded.
    pub avatar: Option<&'a MxcUri>,
    /// Its page on Gitter.
    pub url: Option<&'a str>,
}

/// A portal to be made.
#[derive(Debug, Clone, Copy)]
pub struct Portal<'a> {
    /// The portal's key, by which the room is found again after a crash.
    pub key: &'a str,
    /// The bot, which creates the room.
    pub bot: &'a UserId,
    /// Whom it is for.
    pub account: &'a UserId,
    /// What it shows.
    pub channel: Channel<'a>,
    /// The room version to make.
    pub version: &'a RoomVersionId,
    /// The size in bytes up to which files are passed on, if they are.
    pub files: Option<u64>,
}

impl Portal<'_> {
    /// The body of `createRoom`. Nobody is invited by it: see [`Client::create_room`](super::Client::create_room).
    #[must_use]
    pub fn body(&self) -> Value {
        let Self { key, bot, account, channel, version, files } = *self;
        let mut state = closed_at_first();
        if let Some(avatar) = channel.avatar {
            state.push(json!({"type": "m.room.avatar", "content": {"url": avatar}}));
        }
        let info = bridge_info(bot, account, &channel);
        let state_key = bridge_info_key(channel.id);
        for kind in BRIDGE_INFO_TYPES {
            state.push(json!({"type": kind, "state_key": state_key, "content": info}));
        }
        let features = features(files);
        state.push(json!({"type": FEATURES_TYPE, "state_key": state_key, "content": features}));
        let mut body = body(bot, account, version, &portal_name(channel.name), (PORTAL_KEY, key));
        if let Some(topic) = channel.topic.map(topic).filter(|topic| !topic.is_empty()) {
            body.insert("topic".to_owned(), topic.into());
        }
        body.insert("initial_state".to_owned(), state.into());
        body.into()
    }
}

/// A control room to be made.
#[derive(Debug, Clone, Copy)]
pub struct Control<'a> {
    /// The bot, which creates the room.
    pub bot: &'a UserId,
    /// Whom it is for.
    pub account: &'a UserId,
    /// The room version to make.
    pub version: &'a RoomVersionId,
}

impl Control<'_> {
    /// The body of `createRoom`. Invite with [`Client::invite_direct`](super::Client::invite_direct) afterwards.
    #[must_use]
    pub fn body(&self) -> Value {
        let Self { bot, account, version } = *self;
        let mut body = body(bot, account, version, "Gitter", (CONTROL_KEY, account.as_str()));
        body.insert("topic".to_owned(), "Your line to the Gitter bridge: say help".into());
        body.insert("is_direct".to_owned(), true.into());
        body.insert("initial_state".to_owned(), closed_at_first().into());
        body.into()
    }
}

/// What a Gitter room is called here: its uri, or for a conversation of two the other's name.
#[must_use]
pub fn title(room: &GitterRoom) -> &str {
    if room.one_to_one { &room.name } else { &room.uri }
}

/// The content of a portal's `m.room.name`.
#[must_use]
pub fn name_content(title: &str) -> Value {
    json!({"name": portal_name(title)})
}

/// The content of a portal's `m.room.topic`.
#[must_use]
pub fn topic_content(topic: &str) -> Value {
    json!({"topic": self::topic(topic)})
}

/// The name of a portal for the Gitter room `name`, cut to what clients can show.
#[must_use]
pub fn portal_name(name: &str) -> String {
    format!("{} (Gitter)", cut(name, NAME_MAX - " (Gitter)".len()))
}

/// A Gitter topic as a room's topic, cut to a bound.
#[must_use]
pub fn topic(topic: &str) -> String {
    cut(topic.trim(), TOPIC_MAX)
}

/// The state key of a room's bridge info.
#[must_use]
pub fn bridge_info_key(channel_id: &str) -> String {
    format!("im.gitter/{channel_id}")
}

/// The content of a portal's bridge info, which clients show as "bridged to …".
#[must_use]
pub fn bridge_info(bot: &UserId, account: &UserId, channel: &Channel<'_>) -> Value {
    let mut about = json!({"id": channel.id, "displayname": cut(channel.name, NAME_MAX)});
    if let Some(avatar) = channel.avatar {
        about["avatar_url"] = avatar.as_str().into();
    }
    if let Some(url) = channel.url {
        about["external_url"] = url.into();
    }
    json!({
        "bridgebot": bot,
        "creator": account,
        "protocol": {"id": "gitter", "displayname": "Gitter"},
        "channel": about,
    })
}

/// What can be done in a portal, for clients that offer no more than that. `files` is the size in bytes up to which files are passed
/// on; `None` when they are not.
#[must_use]
pub fn features(files: Option<u64>) -> Value {
    /// Nothing becomes of it.
    const DROPPED: i8 = -1;
    const PARTLY: i8 = 1;
    const FULLY: i8 = 2;
    let level = |names: &[&str], level: i8| {
        names.iter().map(|name| ((*name).to_owned(), Value::from(level))).collect::<Vec<_>>()
    };
    let kept = [
        "bold",
        "italic",
        "strikethrough",
        "inline_code",
        "code_block",
        "code_block.syntax_highlighting",
        "blockquote",
        "inline_link",
        "user_link",
        "unordered_list",
        "ordered_list",
        "horizontal_line",
        "headers",
        "math",
        "table",
    ];
    let text =
        ["spoiler", "spoiler.reason", "details_summary", "custom_emoji", "room_link", "event_link"];
    let lost = [
        "underline",
        "at_room_mention",
        "color.foreground",
        "color.background",
        "superscript",
        "subscript",
    ];
    let formatting = [level(&kept, FULLY), level(&text, PARTLY), level(&lost, DROPPED)];
    let formatting: Map<String, Value> = formatting.into_iter().flatten().collect();
    let kinds = [
        "m.image",
        "m.file",
        "m.audio",
        "m.video",
        "org.matrix.msc3245.voice",
        "fi.mau.gif",
        "m.sticker",
    ];
    let file = |max: u64| {
        let file = json!({"mime_types": {"*/*": PARTLY}, "caption": FULLY, "max_size": max});
        kinds.map(|kind| (kind.to_owned(), file.clone())).into_iter().collect::<Map<_, _>>()
    };
    json!({
        "formatting": formatting,
        "file": files.map(file).unwrap_or_default(),
        "max_text_length": LONGEST_TEXT,
        "location_message": PARTLY,
        "poll": PARTLY,
        "thread": FULLY,
        "reply": PARTLY,
        "edit": FULLY,
        "edit_max_age": EDITABLE_S,
        "delete": FULLY,
        "reaction": DROPPED,
        "read_receipts": true,
        "typing_notifications": false,
    })
}

/// The content of `m.room.power_levels` of every room the bridge makes: members talk, the bot does everything else.
///
/// An override replaces `events` as a whole, so that the protections homeservers give by default are repeated. From room
/// version 12 on the creator's power is unlimited and must not be listed; before, it must be.
///
/// See <https://spec.matrix.org/v1.16/rooms/v12/>.
#[must_use]
pub fn power_levels(bot: &UserId, version: &RoomVersionId) -> Value {
    let creators_rule = has_creator_power(version);
    let users = if creators_rule { json!({}) } else { json!({bot.as_str(): OWNER}) };
    // Tombstones are for creators alone where these have a power of their own.
    let tombstone = if creators_rule { 150 } else { OWNER };
    json!({
        "users": users,
        "users_default": 0,
        "events_default": 0,
        "state_default": MODERATOR,
        "ban": MODERATOR,
        "kick": MODERATOR,
        "redact": MODERATOR,
        "invite": MODERATOR,
        "historical": OWNER,
        // Whoever calls the whole room on Gitter was allowed to there.
        "notifications": {"room": 0},
        "events": {
            "m.room.message": 0,
            "m.room.name": MODERATOR,
            "m.room.avatar": MODERATOR,
            "m.room.topic": MODERATOR,
            "m.room.canonical_alias": MODERATOR,
            "m.room.power_levels": OWNER,
            "m.room.join_rules": OWNER,
            "m.room.history_visibility": OWNER,
            "m.room.encryption": OWNER,
            "m.room.server_acl": OWNER,
            TOMBSTONE: tombstone,
            BRIDGE_INFO_TYPES[0]: OWNER,
            BRIDGE_INFO_TYPES[1]: OWNER,
            FEATURES_TYPE: OWNER,
        },
    })
}

/// The content of the state event that says what an upgraded room is: the marker, as in a creation content. Homeservers copy
/// neither; the event's type is `key` too, and it counts only when the bot sent it.
#[must_use]
pub fn mark(key: &str, value: &str) -> Value {
    json!({key: value})
}

/// The same levels with nobody's word left who has no power of their own; `None` when it is so already.
///
/// An upgrade raises `events_default`, but not the level that portals name for messages.
#[must_use]
pub fn hushed(levels: &Value) -> Option<Value> {
    let mut hushed = levels.clone();
    let raise = |level: &mut Value| {
        if level.as_u64().is_none_or(|level| level < MODERATOR.into()) {
            *level = MODERATOR.into();
        }
    };
    let fields = hushed.as_object_mut()?;
    raise(fields.entry("events_default").or_insert_with(|| 0.into()));
    if let Some(events) = fields.get_mut("events").and_then(Value::as_object_mut) {
        events.values_mut().for_each(raise);
    }
    (hushed != *levels).then_some(hushed)
}

/// The levels of a portal that somebody changed, put back as far as the bot can; `None` when there is nothing to put back.
///
/// Who has as much power as the bot can't be deprived of it, and a tombstone may need more.
#[must_use]
pub fn healed(levels: &Value, bot: &UserId) -> Option<Value> {
    let users = levels.get("users").and_then(Value::as_object);
    // Without a level of its own the bot is a creator whose power nobody can take.
    let own = users.and_then(|users| level(users.get(bot.as_str())));
    if own.is_some_and(|own| own < OWNER.into()) {
        return None;
    }
    let mut healed = power_levels(bot, &RoomVersionId::V11);
    let kept = users.into_iter().flatten().filter(|(user, power)| {
        *user == bot.as_str() || own.is_some_and(|own| level(Some(power)) >= Some(own))
    });
    healed["users"] = kept.map(|(user, power)| (user.clone(), power.clone())).collect();
    let tombstone = levels.get("events").and_then(|events| events.get(TOMBSTONE));
    if let Some(more) = tombstone.filter(|power| level(Some(power)) > Some(OWNER.into())) {
        healed["events"][TOMBSTONE] = more.clone();
    }
    (healed != *levels).then_some(healed)
}

/// Whether a state event of a portal leaves it otherwise than the bridge made it: then it is put back. What the bot says itself
/// is as it should be, but for levels, which an admin of the homeserver can change in its name.
#[must_use]
pub fn strays(kind: &str, content: &Value, by_bot: bool, bot: &UserId) -> bool {
    match kind {
        POWER_LEVELS => healed(content, bot).is_some(),
        "m.room.name" | "m.room.topic" | "m.room.avatar" | FEATURES_TYPE => !by_bot,
        _ if BRIDGE_INFO_TYPES.contains(&kind) => !by_bot,
        _ => !by_bot && closed().iter().any(|(of, _)| *of == kind),
    }
}

/// Whether a name or topic that the bot set in a portal is not what the Gitter room has now: a call that was given up may land after
/// a newer one.
#[must_use]
pub fn is_outdated(kind: &str, content: &Value, shows: &GitterRoom) -> bool {
    let (field, now) = match kind {
        "m.room.name" => ("name", name_content(title(shows))),
        "m.room.topic" => ("topic", topic_content(&shows.topic)),
        _ => return false,
    };
    content.get(field) != now.get(field)
}

/// Whether creators have power by creating. Versions not known yet are taken to keep what the newest known has.
fn has_creator_power(version: &RoomVersionId) -> bool {
    version.rules().is_none_or(|rules| rules.authorization.explicitly_privilege_room_creators)
}

fn body(
    bot: &UserId,
    account: &UserId,
    version: &RoomVersionId,
    name: &str,
    (mark, value): (&str, &str),
) -> Map<String, Value> {
    let mut creation = json!({mark: value});
    if account.server_name() == bot.server_name() {
        creation["m.federate"] = false.into();
    }
    let Value::Object(body) = json!({
        "preset": "private_chat",
        "visibility": "private",
        "room_version": version,
        "name": name,
        "creation_content": creation,
        "power_level_content_override": power_levels(bot, version),
    }) else {
        unreachable!("an object was written")
    };
    body
}

/// What keeps strangers out, whatever the homeserver's preset says: types of state events, and their content.
#[must_use]
pub fn closed() -> [(&'static str, Value); 3] {
    [
        ("m.room.join_rules", json!({"join_rule": "invite"})),
        ("m.room.history_visibility", json!({"history_visibility": "shared"})),
        ("m.room.guest_access", json!({"guest_access": "forbidden"})),
    ]
}

fn closed_at_first() -> Vec<Value> {
    closed().map(|(kind, content)| json!({"type": kind, "content": content})).into()
}

/// At most `max` characters of `text`, without NUL.
fn cut(text: &str, max: usize) -> String {
    let mut kept: String = text.chars().filter(|&c| c != '\0').take(max + 1).collect();
    if kept.chars().count() > max {
        kept.truncate(kept.char_indices().nth(max - 1).map_or(0, |(at, _)| at));
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use ruma::{mxc_uri, user_id};

    use super::*;

    fn version(number: u8) -> RoomVersionId {
        RoomVersionId::try_from(number.to_string()).expect("a version")
    }

    fn portal(account: &UserId, version: &RoomVersionId) -> Value {
        let channel = Channel {
            id: "5709c4",
            name: "rust-lang/rust",
            topic: Some(" Systems\0 programming "),
            avatar: Some(mxc_uri!("mxc://hs.example/abc")),
            url: Some("https://gitter.im/rust-lang/rust"),
        };
        let bot = user_id!("@gitter:hs.example");
        Portal {
            key: "@a:hs.example 5709c4",
            bot,
            account,
            channel,
            version,
            files: Some(50_000_000),
        }
        .body()
    }

    #[test]
    fn the_creator_is_listed_with_power_up_to_version_eleven_and_never_after() {
        let bot = user_id!("@gitter:hs.example");
        for number in 1..=12 {
            let body = portal(user_id!("@a:hs.example"), &version(number));
            let levels = &body["power_level_content_override"];
            let users = levels["users"].as_object().expect("users");
            let (expected, tombstone) = if number < 12 { (Some(100), 100) } else { (None, 150) };
            let found = users.get(bot.as_str()).and_then(Value::as_u64);
            assert_eq!(found, expected, "version {number}");
            assert_eq!(users.len(), usize::from(expected.is_some()), "version {number}");
            assert_eq!(levels["events"]["m.room.tombstone"], tombstone, "version {number}");
            assert_eq!(body["room_version"], number.to_string());
        }
        let future = RoomVersionId::try_from("13").expect("a version");
        assert_eq!(power_levels(bot, &future)["users"], json!({}));
    }

    #[test]
    fn in_a_hushed_room_only_the_bot_may_talk() {
        for number in [11, 12] {
            let levels = power_levels(user_id!("@gitter:hs.example"), &version(number));
            let now = hushed(&levels).expect("members could talk");
            assert_eq!(now["events"]["m.room.message"], MODERATOR);
            assert_eq!(now["events_default"], MODERATOR);
            assert_eq!(now["events"]["m.room.tombstone"], levels["events"]["m.room.tombstone"]);
            assert_eq!(now["users"], levels["users"]);
            assert_eq!(hushed(&now), None);
        }
    }

    #[test]
    fn levels_that_somebody_changed_are_put_back_as_far_as_they_can_be() {
        let (bot, alice) = (user_id!("@gitter:hs.example"), "@alice:hs.example");
        for number in 1..=12 {
            let ours = power_levels(bot, &version(number));
            assert_eq!(healed(&ours, bot), None, "version {number}");
            let changed = |change: fn(&mut Value)| {
                let mut levels = ours.clone();
                change(&mut levels);
                healed(&levels, bot)
            };
            let back = Some(ours.clone());
            assert_eq!(changed(|l| l["users"]["@alice:hs.example"] = 50.into()), back);
            assert_eq!(changed(|l| l["users_default"] = 50.into()), back);
            assert_eq!(changed(|l| l["invite"] = 0.into()), back);
            assert!(changed(|l| l["events"] = json!({})).is_some());
            assert_eq!(changed(|l| l["events"]["m.room.name"] = 0.into()), back);
            assert_eq!(changed(|l| l["redact"] = "0".into()), back);
        }
        // In a room that alice upgraded.
        let mut hers = power_levels(bot, &version(11));
        hers["users"] = json!({bot.as_str(): 100, alice: 100});
        hers["events"][TOMBSTONE] = 150.into();
        assert_eq!(healed(&hers, bot), None, "nobody can take her power");
        let before = hers.clone();
        hers["invite"] = 0.into();
        assert_eq!(healed(&hers, bot), Some(before));
        hers["users"][bot.as_str()] = 50.into();
        assert_eq!(healed(&hers, bot), None, "the bot has no power to");
    }

    #[test]
    fn what_others_change_of_a_portal_strays_and_what_the_bot_sets_does_not() {
        let bot = user_id!("@gitter:hs.example");
        let body = portal(user_id!("@a:hs.example"), &version(11));
        let mut state = body["initial_state"].as_array().expect("state").clone();
        let levels = body["power_level_content_override"].clone();
        state.push(json!({"type": POWER_LEVELS, "content": levels}));
        for kind in ["m.room.name", "m.room.topic"] {
            state.push(json!({"type": kind, "content": {}}));
        }
        for event in state {
            let kind = event["type"].as_str().expect("a type");
            let strays = |by_bot| strays(kind, &event["content"], by_bot, bot);
            assert!(!strays(true), "{kind}");
            assert_eq!(strays(false), kind != POWER_LEVELS, "{kind}");
        }
        let lax = json!({"users": {bot.as_str(): 100, "@a:hs.example": 50}});
        assert!(strays(POWER_LEVELS, &lax, true, bot), "given in the bot's name");
        assert!(!strays("m.room.pinned_events", &json!({}), false, bot));
    }

    #[test]
    fn a_name_or_topic_that_came_after_a_newer_one_is_outdated() {
        let shows = GitterRoom {
            uri: "acme/now".to_owned(),
            name: "Now".to_owned(),
            topic: " Tea ".to_owned(),
            avatar_url: None,
            one_to_one: false,
        };
        let of_two = GitterRoom { one_to_one: true, ..shows.clone() };
        let rows = [
            ("m.room.name", json!({"name": "acme/now (Gitter)"}), &shows, false),
            ("m.room.name", json!({"name": "acme/before (Gitter)"}), &shows, true),
            ("m.room.name", json!({}), &shows, true),
            ("m.room.name", json!({"name": "Now (Gitter)"}), &of_two, false),
            ("m.room.topic", json!({"topic": "Tea", "m.topic": {}}), &shows, false),
            ("m.room.topic", json!({"topic": "Coffee"}), &shows, true),
            ("m.room.avatar", json!({"url": "mxc://hs.example/a"}), &shows, false),
        ];
        for (kind, content, shows, outdated) in rows {
            assert_eq!(is_outdated(kind, &content, shows), outdated, "row: {kind} {content}");
        }
    }

    #[test]
    fn members_may_talk_and_do_nothing_else_in_any_version() {
        for number in 1..=12 {
            let levels = power_levels(user_id!("@gitter:hs.example"), &version(number));
            let member = levels["users_default"].as_u64().expect("a level");
            assert_eq!(levels["events"]["m.room.message"], member);
            assert_eq!(levels["events_default"], member);
            for key in ["invite", "kick", "ban", "redact", "state_default"] {
                assert!(levels[key].as_u64() > Some(member), "{key} in version {number}");
            }
            let events = levels["events"].as_object().expect("events");
            for (kind, level) in events.iter().filter(|(kind, _)| *kind != "m.room.message") {
                assert!(level.as_u64() > Some(member), "{kind} in version {number}");
            }
        }
    }

    #[test]
    fn a_portals_body_reads_as_it_always_did() {
        let body = portal(user_id!("@a:hs.example"), &version(12));
        insta::assert_json_snapshot!(body);
        assert!(body.get("invite").is_none(), "a refused invite leaves a half-made room behind");
    }

    #[test]
    fn a_control_rooms_body_reads_as_it_always_did() {
        let bot = user_id!("@gitter:hs.example");
        let account = user_id!("@a:hs.example");
        insta::assert_json_snapshot!(Control { bot, account, version: &version(11) }.body());
    }

    #[test]
    fn only_rooms_of_local_accounts_are_closed_to_other_servers() {
        let local = portal(user_id!("@a:hs.example"), &version(11));
        assert_eq!(local["creation_content"]["m.federate"], false);
        let remote = portal(user_id!("@a:other.example"), &version(11));
        assert!(remote["creation_content"].get("m.federate").is_none());
    }

    #[test]
    fn long_names_and_topics_are_cut_between_characters() {
        let name = portal_name(&"é".repeat(1000));
        assert_eq!(name.chars().count(), NAME_MAX);
        assert!(name.ends_with("é… (Gitter)"));
        assert_eq!(topic(&"x".repeat(TOPIC_MAX)).chars().count(), TOPIC_MAX);
        assert_eq!(topic(&"x".repeat(TOPIC_MAX + 1)).chars().count(), TOPIC_MAX);
        assert_eq!(topic("short\0"), "short");
    }
}
