//! What was done over REST in the sessions that listen to many channels, by the note on it.

use reqwest::Method;
use serde_json::json;

use crate::faye::Run;

/// Does what a note tells.
pub(crate) async fn act(run: &mut Run, note: &str) {
    let world = run.world.clone();
    let room = world.find_room("acme/stream").expect("the room");
    let bob = world.token_for("bob", "bridge-client-key");
    let alice = world.token_for("alice", "bridge-client-key");
    match note.strip_prefix("REST: ").unwrap_or(note) {
        "erin joins the room" => world.join("acme/stream", "erin"),
        "erin leaves the room" => world.leave("acme/stream", "erin"),
        "alice adds frank" => world.join("acme/stream", "frank"),
        "alice removes frank" => world.kick("acme/stream", "frank"),
        "alice changes the topic" => world.set_topic("acme/stream", "Another topic"),
        "alice changes the tags" => {
            let path = format!("/v1/rooms/{room}");
            run.call(Method::PUT, &path, &alice, &json!({"tags": "a, b"})).await;
        }
        "alice posts with a mention of bob" => {
            let id = world.post("alice", "acme/stream", "hello @bob");
            run.ids.insert("6b02c9fd01d2592f9f46552c", &id);
        }
        "bob marks it read" => {
            let last = world.messages("acme/stream").pop().expect("the message");
            let path = format!("/v1/user/me/rooms/{room}/unreadItems");
            run.call(Method::POST, &path, &bob, &json!({"chat": [last.id]})).await;
        }
        n if n.starts_with("erin (not in the room any more) is banned") => {
            world.ban("acme/stream", "erin");
        }
        "bob joins another room" => world.join("acme/empty", "bob"),
        "bob leaves it" => world.leave("acme/empty", "bob"),
        n if n.starts_with("carol opens a one-to-one") => {
            let direct = world.one_to_one("carol", "bob");
            world.post("carol", &direct, "hi bob");
        }
        "bob hides acme/widgets" => {
            let room = world.find_room("acme/widgets").expect("the room");
            let path = format!("/v1/user/me/rooms/{room}");
            run.call(Method::DELETE, &path, &bob, &json!({})).await;
        }
        n if n.starts_with("bob mentioned in a room he is not in") => {
            world.post("alice", "gitterHQ/sandbox", "hey @bob");
        }
        n if n.starts_with("now: spam test by newbie") => removals(run, &room, &bob).await,
        _ => {}
    }
}

async fn removals(run: &mut Run, room: &str, bob: &str) {
    let world = run.world.clone();
    let young = format!("{:08x}8f5f0448fa73b0a3", world.clock() / 1000);
    run.ids.insert("6b02cb9b8f5f0448fa73b0a3", &young);
    world.add_user_with_id(&young, "newbie", "New Bie");
    // The last two are swallowed.
    for _ in 0..11 {
        world.post("newbie", "acme/stream", "the same sentence again and again");
    }
    world.post("newbie", "acme/stream", "something else entirely");
    world.post("leaver", "acme/stream", "written before leaving");
    world.post("leaver2", "acme/stream", "written before leaving, ghost");
    world.delete_user("leaver", false);
    world.delete_user("leaver2", true);
    world.post("alice", "acme/doomed", "last words");
    world.delete_room("acme/doomed");
    let path = format!("/v1/user/me/rooms/{room}");
    run.call(Method::PATCH, &path, bob, &json!({"mode": "mute"})).await;
}
