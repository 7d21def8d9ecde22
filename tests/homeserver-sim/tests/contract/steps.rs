//! The requests: what the bridge asks, and each mistake once.

use serde_json::{Value, json};

/// One request; `{name}` in path and body is what an earlier step saved.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) method: &'static str,
    /// After `/_matrix/`, segments not encoded.
    pub(crate) path: String,
    /// Localpart of the ghost that acts; the bot when empty.
    pub(crate) who: &'static str,
    /// Whether it acts on its device.
    pub(crate) device: bool,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) body: Option<Value>,
    /// Name and place of what is kept of the answer.
    pub(crate) save: Option<(&'static str, &'static str)>,
    /// Compare the status and error code alone.
    pub(crate) loose: bool,
}

impl Step {
    fn new(method: &'static str, path: impl Into<String>, body: Option<Value>) -> Self {
        Self {
            method,
            path: path.into(),
            who: "",
            device: false,
            query: Vec::new(),
            body,
            save: None,
            loose: false,
        }
    }

    fn by(self, who: &'static str) -> Self {
        Self { who, ..self }
    }

    fn on_device(self) -> Self {
        Self { device: true, ..self }
    }

    fn with(mut self, key: &'static str, value: &str) -> Self {
        self.query.push((key, value.to_owned()));
        self
    }

    fn save(self, name: &'static str, at: &'static str) -> Self {
        Self { save: Some((name, at)), ..self }
    }

    fn loose(self) -> Self {
        Self { loose: true, ..self }
    }
}

fn get(path: &str) -> Step {
    Step::new("GET", path, None)
}

fn post(path: &str, body: Value) -> Step {
    Step::new("POST", path, Some(body))
}

fn put(path: &str, body: Value) -> Step {
    Step::new("PUT", path, Some(body))
}

fn register(name: &str) -> Step {
    let body = json!({"type": "m.login.application_service", "username": name,
        "inhibit_login": true});
    post("client/v3/register", body)
}

fn device(who: &'static str) -> Step {
    put("client/v3/devices/BRIDGE", json!({})).by(who).with("user_id", "")
}

fn invite(room: &str, user: &str) -> Step {
    post(
        &format!("client/v3/rooms/{room}/invite"),
        json!({"user_id": format!("@{user}:localhost")}),
    )
}

fn join(room: &str, who: &'static str) -> Step {
    post(&format!("client/v3/join/{room}"), json!({})).by(who)
}

fn leave(room: &str, who: &'static str) -> Step {
    post(&format!("client/v3/rooms/{room}/leave"), json!({})).by(who)
}

fn kick(room: &str, user: &str) -> Step {
    let body = json!({"user_id": format!("@{user}:localhost"), "reason": "out"});
    post(&format!("client/v3/rooms/{room}/kick"), body)
}

fn say(room: &str, txn: &str, text: &str) -> Step {
    let body = json!({"msgtype": "m.text", "body": text});
    put(&format!("client/v3/rooms/{room}/send/m.room.message/{txn}"), body).on_device()
}

fn state(room: &str, rest: &str) -> Step {
    get(&format!("client/v3/rooms/{room}/state/{rest}"))
}

fn everything(room: &str, who: &'static str) -> Vec<Step> {
    let at = |what: &str| get(&format!("client/v3/rooms/{room}/{what}")).by(who);
    vec![
        at("messages").on_device().with("dir", "b").with("limit", "50"),
        at("joined_members"),
        at("state/m.room.power_levels/"),
        at("state/m.room.create/").with("format", "event"),
    ]
}

/// Who is who, before there is any room.
pub(crate) fn users() -> Vec<Step> {
    vec![
        get("client/versions"),
        get("client/v3/account/whoami"),
        get("client/v3/capabilities").loose(),
        get("client/v3/nonsense"),
        register("gitter"),
        register("gitter"),
        register("somebody"),
        get("client/v3/account/whoami").by("gitter_ann"),
        register("gitter_ann"),
        register("gitter_ann"),
        register("gitter_bob"),
        register("gitter_cy"),
        get("client/v3/account/whoami").by("gitter_ann"),
        get("client/v3/account/whoami").by("gitter_ann").on_device(),
        get("client/v3/account/whoami").by("alice"),
        device(""),
        device(""),
        device("gitter_ann"),
        device("gitter_bob"),
        device("gitter_cy"),
        get("client/v3/account/whoami").by("gitter_ann").on_device(),
        get("client/v3/profile/@gitter:localhost"),
        get("client/v3/profile/@gitter_nobody:localhost"),
        put("client/v3/profile/@gitter_ann:localhost/displayname", json!({"displayname": "Ann"}))
            .by("gitter_ann"),
        put("client/v3/profile/@gitter_ann:localhost/displayname", json!({"displayname": "X"})),
        put(
            "client/v3/profile/@gitter_ann:localhost/displayname",
            json!({"displayname": "x".repeat(257)}),
        )
        .by("gitter_ann"),
        put(
            "client/v3/profile/@gitter_ann:localhost/avatar_url",
            json!({"avatar_url": "mxc://localhost/x"}),
        )
        .by("gitter_ann"),
        get("client/v3/profile/@gitter_ann:localhost"),
        get("client/v3/joined_rooms"),
        put("client/v3/user/@gitter:localhost/account_data/im.x", json!({"a": 1})),
        post("client/v1/appservice/gitter/ping", json!({"transaction_id": "t"})),
        post("client/v1/appservice/other/ping", json!({})),
    ]
}

/// A portal as the bridge makes it, and its ghosts.
#[expect(clippy::too_many_lines, reason = "one story, told in requests")]
pub(crate) fn portal(version: u32, room: &'static str, prefix: &str) -> Vec<Step> {
    let r = format!("{{{room}}}");
    let r = r.as_str();
    let users = if version < 12 { json!({"@gitter:localhost": 100}) } else { json!({}) };
    let mut body = json!({
        "preset": "private_chat", "visibility": "private", "room_version": version.to_string(),
        "name": "N", "topic": "T", "creation_content": {"im.gitter.portal": "k", "m.federate": false},
        "power_level_content_override": {"users": users, "invite": 50,
            "events": {"m.room.name": 50, "m.room.power_levels": 100}},
        "initial_state": [
            {"type": "m.room.join_rules", "content": {"join_rule": "invite"}},
            {"type": "m.room.history_visibility", "content": {"history_visibility": "shared"}},
            {"type": "m.room.guest_access", "content": {"guest_access": "forbidden"}},
            {"type": "m.bridge", "state_key": "im.gitter/1", "content": {"a": "b"}},
        ],
    });
    if version == 10 {
        body["is_direct"] = json!(true);
    }
    let in_room = |rest: &str| format!("client/v3/rooms/{r}/{rest}");
    let txn = |n: u32| format!("{prefix}{n}");
    let by_ann = || {
        let filter = r#"{"senders": ["@gitter_ann:localhost"]}"#;
        get(&in_room("messages")).with("dir", "b").with("filter", filter)
    };
    let mut steps = vec![
        post("client/v3/createRoom", body).save(room, "/room_id"),
        state(r, "m.room.create/"),
        state(r, "m.room.encryption/"),
        state(r, "m.bridge/im.gitter%2F1"),
        say(r, &txn(0), "not inside").by("gitter_ann"),
        join(r, "gitter_ann"),
        leave(r, "gitter_ann"),
        kick(r, "gitter_ann"),
        invite(r, "gitter_ann"),
        invite(r, "gitter_ann"),
        state(r, "m.room.name/").by("gitter_ann"),
        join(r, "gitter_ann"),
        join(r, "gitter_ann"),
        invite(r, "gitter_ann"),
        state(r, "m.room.member/@gitter_ann:localhost").with("format", "event"),
        state(r, "m.room.member/@gitter_bob:localhost").with("format", "event"),
        put(
            &in_room("state/m.room.member/@gitter_bob:localhost"),
            json!({"membership": "invite", "is_direct": true}),
        ),
        join(r, "gitter_bob"),
        put(
            &in_room("state/m.room.member/@gitter_bob:localhost"),
            json!({"membership": "join", "displayname": "Bob here"}),
        )
        .by("gitter_bob"),
        invite(r, "gitter_cy").by("gitter_ann"),
        put(&in_room("state/m.room.name/"), json!({"name": "M"})).by("gitter_ann"),
        put(&in_room("state/m.room.name/"), json!({"name": "M"})),
        put(&in_room("state/m.room.name/"), json!({"name": "M"})),
        put(&in_room("state/x/@gitter_ann:localhost"), json!({})),
        invite(r, "gitter_nobody"),
        kick(r, "gitter_nobody"),
        kick(r, "gitter_nobody"),
        // Sending.
        say(r, &txn(1), "one").by("gitter_ann").save("one", "/event_id"),
        say(r, &txn(1), "one").by("gitter_ann"),
        say(r, &txn(1), "of another ghost, the same id").by("gitter_bob"),
        put(&in_room(&format!("send/m.other/{}", txn(1))), json!({})).by("gitter_ann").on_device(),
        say(r, &txn(2), "dated").by("gitter_ann").with("ts", "1500000000000"),
        put(&in_room(&format!("send/m.reaction/{}", txn(3))), reaction()).by("gitter_ann"),
        put(&in_room(&format!("send/m.reaction/{}", txn(4))), reaction()).by("gitter_ann"),
        put(&in_room(&format!("send/m.room.message/{}", txn(5))), edit("two")).by("gitter_ann"),
        put(&in_room(&format!("send/m.room.message/{}", txn(6))), edit("foreign")).by("gitter_bob"),
        put(&in_room(&format!("send/m.room.message/{}", txn(7))), json!({"body": 1})),
        put(
            &in_room(&format!("send/m.room.message/{}", txn(8))),
            json!({"body": "b", "msgtype": "m.text", "n": 1.5}),
        ),
        say(r, &txn(9), &"x".repeat(66_000)),
        say(r, &txn(10), &"y".repeat(64_000)).by("gitter_bob").save("long", "/event_id"),
        put(&in_room(&format!("redact/{{long}}/{}", txn(11))), json!({"reason": "long"}))
            .on_device(),
        get(&in_room("event/{one}")).by("gitter_ann").on_device(),
        get(&in_room("event/{one}")).by("gitter_ann"),
        get(&in_room("event/{one}")).by("gitter_cy"),
        get(&in_room("event/{long}")),
        get(&in_room("event/$nothing-of-this-kind-is-anywhere-in-any-room")),
        put(&in_room(&format!("redact/{{one}}/{}", txn(12))), json!({})).by("gitter_bob"),
        put(
            &in_room(&format!("redact/$nothing-of-this-kind-is-anywhere-in-any/{}", txn(13))),
            json!({}),
        ),
        put(
            &in_room(&format!("redact/$nothing-of-this-kind-is-anywhere-in-any/{}", txn(14))),
            json!({}),
        )
        .by("gitter_bob"),
        post(&in_room("receipt/m.read/{one}"), json!({})).by("gitter_bob"),
        put(&in_room("typing/@gitter_bob:localhost"), json!({"typing": true, "timeout": 9000}))
            .by("gitter_bob"),
        get(&in_room("messages"))
            .by("gitter_ann")
            .on_device()
            .with("dir", "b")
            .with("limit", "2")
            .save("earlier", "/end"),
        get(&in_room("messages")).with("dir", "b").with("limit", "3").with("from", "{earlier}"),
        by_ann().with("limit", "2").save("anns", "/end"),
        by_ann().with("limit", "1").with("from", "{anns}"),
        get(&in_room("members")).with("membership", "join"),
    ];
    steps.extend(everything(r, ""));
    // Power and bans.
    steps.extend([
        kick(r, "gitter").by("gitter_ann"),
        post(&in_room("ban"), json!({"user_id": "@gitter_bob:localhost"})),
        join(r, "gitter_bob"),
        invite(r, "gitter_bob"),
        kick(r, "gitter_bob"),
        leave(r, "gitter_bob"),
        state(r, "m.room.name/").by("gitter_bob"),
        post(&in_room("unban"), json!({"user_id": "@gitter_bob:localhost"})),
        post(&in_room("unban"), json!({"user_id": "@gitter_bob:localhost"})),
        join(r, "gitter_bob"),
        invite(r, "gitter_bob"),
        join(r, "gitter_bob"),
        kick(r, "gitter_bob"),
        leave(r, "gitter_bob"),
        say(r, &txn(20), "kicked").by("gitter_bob"),
        invite(r, "gitter_cy"),
        leave(r, "gitter_cy"),
        leave(r, "gitter_cy"),
        put(
            &in_room("state/m.room.power_levels/"),
            json!({"users": {"@gitter:localhost": 100, "@gitter_ann:localhost": 50}}),
        ),
        put(
            &in_room("state/m.room.power_levels/"),
            json!({"users": {"@gitter_ann:localhost": 100}}),
        )
        .by("gitter_ann"),
        leave(r, "gitter_ann"),
        leave(r, "gitter_ann"),
        post(&in_room("forget"), json!({})),
        say(r, &txn(21), "left").by("gitter_ann"),
        say(r, &txn(1), "one").by("gitter_ann"),
        put(&in_room("state/m.room.topic/"), json!({"topic": "after"})),
    ]);
    steps.extend(everything(r, "gitter_ann"));
    steps.push(post(&in_room("forget"), json!({})).by("gitter_ann"));
    steps.extend(everything(r, "gitter_ann"));
    steps.push(say(r, &txn(22), "still here"));
    steps
}

fn reaction() -> Value {
    json!({"m.relates_to": {"rel_type": "m.annotation", "event_id": "{one}", "key": "+"}})
}

fn edit(text: &str) -> Value {
    json!({"msgtype": "m.text", "body": format!("* {text}"),
        "m.new_content": {"msgtype": "m.text", "body": text},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "{one}"}})
}

/// Rooms that fail while they are made, direct chats, upgrades, and rooms without anybody.
pub(crate) fn oddities() -> Vec<Step> {
    let marked = |key: &str, more: Value| {
        let mut body =
            json!({"preset": "private_chat", "name": "half", "creation_content": {"k": key}});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        post("client/v3/createRoom", body)
    };
    let direct = |version: &str| {
        json!({"preset": "trusted_private_chat", "is_direct": true, "room_version": version,
            "invite": ["@gitter:localhost"],
            "initial_state": [{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}]})
    };
    let chat = |rest: &str| format!("client/v3/rooms/{{chat}}/{rest}");
    let mut steps = vec![
        post("client/v3/createRoom", json!({"room_version": "99"})),
        post("client/v3/createRoom", json!({"invite": ["nobody"]})),
        post("client/v3/createRoom", json!({"preset": "nonsense"})),
        post(
            "client/v3/createRoom",
            json!({"room_version": "11",
            "power_level_content_override": {"users": {}}}),
        ),
        post("client/v3/createRoom", json!({"room_alias_name": "gitter_x"})),
        marked(
            "levels",
            json!({"power_level_content_override":
            {"users": {"@gitter:localhost": 100}}}),
        ),
        marked(
            "other",
            json!({"initial_state": [{"type": "x", "state_key": "@a:localhost", "content": {}}]}),
        ),
        marked(
            "member",
            json!({"room_version": "11", "initial_state":
            [{"type": "m.room.member", "state_key": "@gitter_ann:localhost", "content": {"membership": "join"}}]}),
        ),
        get("client/v3/joined_rooms").loose(),
        // A direct chat, as a client starts it.
        post("client/v3/createRoom", direct("12")).by("gitter_ann").save("chat", "/room_id"),
        join("{chat}", ""),
        get(&chat("joined_members")),
        state("{chat}", "m.room.create/"),
        say("{chat}", "c1", "hello").by("gitter_ann"),
        put(&chat("state/m.room.encryption/"), json!({"algorithm": "m.megolm.v1.aes-sha2"}))
            .by("gitter_ann"),
        post(&chat("upgrade"), json!({"new_version": "12"}))
            .by("gitter_ann")
            .save("new", "/replacement_room"),
        state("{new}", "m.room.create/").by("gitter_ann"),
        state("{new}", "m.room.power_levels/").by("gitter_ann"),
        join("{new}", ""),
        say("{chat}", "c2", "as creator"),
        state("{chat}", "m.room.tombstone/"),
        post("client/v3/createRoom", direct("10")).by("gitter_bob").save("chat", "/room_id"),
        join("{chat}", ""),
        state("{chat}", "m.room.power_levels/"),
        post(&chat("upgrade"), json!({"new_version": "12"}))
            .by("gitter_bob")
            .save("new", "/replacement_room"),
        state("{new}", "m.room.create/").by("gitter_bob"),
        state("{new}", "m.room.power_levels/").by("gitter_bob"),
    ];
    steps.extend(everything("{new}", "gitter_bob"));
    steps.extend(everything("{chat}", "gitter_bob"));
    // The last one leaves.
    steps.extend([
        leave("{chat}", "gitter_bob"),
        leave("{chat}", ""),
        leave("{chat}", ""),
        get(&chat("joined_members")),
        state("{chat}", "m.room.create/"),
        join("{chat}", "gitter_bob"),
        invite("{chat}", "gitter_bob"),
        post(&chat("forget"), json!({})),
        state("{chat}", "m.room.create/"),
        leave("{chat}", ""),
        // What never was.
        get("client/v3/rooms/!none:localhost/joined_members"),
        state("!none:localhost", "m.room.create/"),
        join("!none:localhost", ""),
        leave("!none:localhost", ""),
        kick("!none:localhost", "gitter_ann"),
        invite("!none:localhost", "gitter_ann"),
        say("!none:localhost", "n1", "hello"),
        put("client/v3/rooms/!none:localhost/state/m.room.name/", json!({"name": "x"})),
        put("client/v3/rooms/!none:localhost/redact/$x/n2", json!({})),
        post("client/v3/rooms/!none:localhost/forget", json!({})),
        get("client/v3/rooms/!none:localhost/event/$x"),
        get("client/v3/rooms/!none:localhost/messages").with("dir", "b"),
        get("client/v1/media/download/localhost/none"),
    ]);
    steps
}

/// What is asked again after the homeserver was restarted: with a device nothing is sent twice, without one it is.
pub(crate) fn sent_before() -> Vec<Step> {
    let plain = |n: &str| {
        let mut step = say("{eleven}", n, "plain");
        step.device = false;
        step
    };
    vec![say("{eleven}", "s1", "kept"), plain("s2"), plain("s2")]
}
