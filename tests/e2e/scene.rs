//! What many stories say: people and rooms on Gitter, and the state of both worlds, counted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gitter_sim::RoomSpec;
use harness::{Event, Person, World};

/// Adds people to Gitter whose display name is their name in capitals' manner: `bob` is `Bob`.
pub(crate) fn cast(world: &World, names: &[&str]) {
    for name in names {
        let mut shown = (*name).to_owned();
        shown[..1].make_ascii_uppercase();
        world.gitter.add_user(name, &shown);
    }
}

/// Adds a public room with these members to Gitter.
pub(crate) fn room(world: &World, uri: &str, members: &[&str]) -> String {
    let id = world.gitter.add_room(RoomSpec::public(uri));
    for member in members {
        world.gitter.join(uri, member);
    }
    id
}

/// Alice, logged in and in the portal of a new room with these members, who are new, too: she, her chat with the bot, the portal.
pub(crate) async fn alice_in(
    world: &World,
    uri: &str,
    members: &[&str],
) -> Result<(Person, String, String)> {
    cast(world, members);
    room(world, uri, members);
    let alice = world.person("alice").await?;
    let chat = world.log_in(&alice, "alice").await?;
    let portal = alice.accept_invite(uri).await?;
    Ok((alice, chat, portal))
}

/// Somebody says something on Gitter, and the transcript tells; returns the message's id.
pub(crate) fn say(world: &World, who: &str, uri: &str, text: &str) -> String {
    world.transcript.line(&format!("Gitter {uri}"), who, &format!("says: {text}"));
    world.gitter.post(who, uri, text)
}

/// Whether somebody is a member of a room on Gitter.
pub(crate) fn is_member(world: &World, uri: &str, user: &str) -> bool {
    world.gitter.members(uri).iter().any(|member| member == user)
}

/// All texts of a person in a room on Gitter, oldest first.
pub(crate) fn texts_on_gitter(world: &World, uri: &str, who: &str) -> Vec<String> {
    let messages = world.gitter.messages(uri).into_iter();
    messages.filter(|message| message.from == who).map(|message| message.text).collect()
}

/// Waits until Gitter has this text by this person in a room.
pub(crate) async fn on_gitter(world: &World, uri: &str, who: &str, text: &str) -> Result<()> {
    let what = format!("“{text}” by {who}");
    let said = |gitter: &gitter_sim::World| {
        let messages = gitter.messages(uri);
        messages.iter().any(|message| message.from == who && message.text == text).then_some(())
    };
    world.on_gitter(&what, said).await?;
    world.transcript.line(&format!("Gitter {uri}"), who, &format!("says: {text}"));
    Ok(())
}

/// All messages of a sender in a room, oldest first, as the homeserver has them.
pub(crate) async fn messages_by(person: &Person, room: &str, sender: &str) -> Result<Vec<Event>> {
    let history = person.history(room).await?.into_iter();
    let by = |event: &Event| event.sender == sender && event.is_message();
    Ok(history.filter(|event| by(event) && event.replaces().is_none()).collect())
}

/// The plain texts of [`messages_by`].
pub(crate) async fn texts_by(person: &Person, room: &str, sender: &str) -> Result<Vec<String>> {
    let messages = messages_by(person, room, sender).await?;
    Ok(messages.iter().map(|event| event.body().to_owned()).collect())
}

/// Waits until a person is neither in a room nor invited to it.
pub(crate) async fn closed(person: &Person, room: &str) -> Result<()> {
    let out = |view: &harness::View| {
        let room = view.rooms.get(room)?;
        (room.standing == harness::Standing::Left).then_some(())
    };
    person.wait_for("the room closed", out).await
}

/// Asserts that no invite waits for a person and that they are in exactly these rooms.
pub(crate) fn is_only_in(person: &Person, rooms: &[&str]) -> Result<()> {
    person.look(|view| {
        let invites: Vec<_> = view.invited().map(|room| room.name()).collect();
        ensure!(invites.is_empty(), "unexpected invites: {invites:?}");
        let mut is: Vec<_> = view.joined().map(|room| room.id.as_str()).collect();
        let mut should = rooms.to_vec();
        is.sort_unstable();
        should.sort_unstable();
        ensure!(is == should, "in the rooms {is:?} instead of {should:?}\n{}", view.tail());
        Ok(())
    })
}

/// How often the bridge has read somebody's rooms since the calls were last cleared.
pub(crate) fn looks(world: &World, user: &str) -> usize {
    let calls = world.gitter.calls();
    let is_look = |call: &&gitter_sim::Call| {
        call.method == "GET"
            && call.path.ends_with("/user/me/rooms")
            && call.user.as_deref() == Some(user)
    };
    calls.iter().filter(is_look).count()
}

/// Waits until the bridge has nothing more to do for a person, as `status` says it.
pub(crate) async fn settled(world: &World, person: &Person, chat: &str) -> Result<()> {
    loop {
        let answer = world.ask(person, chat, "status").await?;
        if answer.body().contains("Everything is as you asked for") {
            return Ok(());
        }
    }
}

/// The bridge answered all that the homeserver has sent it: it knows of everything before.
///
/// Events reach a bridge in order, so the answer to a command comes after all that happened before it.
pub(crate) async fn heard(world: &World, person: &Person, chat: &str) -> Result<()> {
    world.ask_until(person, chat, "help list", "list").await.map(|_| ())
}

/// How many notices in a room contain this.
pub(crate) fn told(person: &Person, room: &str, part: &str) -> usize {
    person.notices_in(room).iter().filter(|notice| notice.contains(part)).count()
}

/// Waits until the bridge's log has a line with this.
pub(crate) async fn logged(world: &World, part: &str) -> Result<()> {
    world
        .on_gitter(&format!("“{part}” in the log"), |_| {
            world.bridge.log_tail(10_000).contains(part).then_some(())
        })
        .await
}

/// Waits for a metric to become what it should be.
pub(crate) async fn metric(world: &World, name: &str, is: impl Fn(f64) -> bool) -> Result<()> {
    let deadline = tokio::time::Instant::now() + harness::patience();
    let mut look = tokio::time::interval(Duration::from_millis(50));
    loop {
        look.tick().await;
        let metrics = world.bridge.metrics().await?;
        let value = *metrics.get(name).with_context(|| format!("no metric {name}"))?;
        if is(value) {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{name} stays {value}");
    }
}
