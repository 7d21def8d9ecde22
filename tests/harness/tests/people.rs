//! The harness against a real Synapse: what people do, other people see.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::{Person, Refusal, Registration, Standing, Synapse, SynapseConfig, Transcript};
use serde_json::json;

fn python() -> Result<Option<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("no workspace")?;
    Synapse::venv(&root.join("target"))
}

async fn people(synapse: &Synapse) -> Result<(Person, Person, Transcript)> {
    let transcript = Transcript::kept();
    let alice = synapse.register_user("alice", "pw", &transcript).await?;
    let bob = synapse.register_user("bob", "pw", &transcript).await?;
    Ok((alice, bob, transcript))
}

#[tokio::test]
async fn two_people_chat_and_each_sees_what_the_other_does() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let registrations = vec![Registration::new("gitter1")?, Registration::new("gitter2")?];
    let mut synapse = Synapse::start(SynapseConfig::new(python, registrations)).await?;
    let (alice, bob, transcript) = people(&synapse).await?;

    // A direct chat, accepted.
    let chat = alice.create_dm(&bob.id).await?;
    let inviter = bob
        .wait_for("the invite", |view| {
            view.invited().find(|room| room.is_direct).map(|room| room.inviter.clone())
        })
        .await?;
    assert_eq!(inviter.as_deref(), Some(alice.id.as_str()));
    bob.join(&chat).await?;
    alice
        .wait_in(&chat, "bob in the chat", |room| room.has("@bob:localhost").then_some(()))
        .await?;

    // Talk, an answer, an edit, a removal, formatting, a notice with a link.
    let question = alice.send_text(&chat, "how are you?").await?;
    assert_eq!(bob.wait_for_text(&chat, "how are").await?.id, question);
    let answer = bob.reply(&chat, &question, "fien").await?;
    let seen = alice.wait_for_answer(&chat, &bob.id, Some(&question)).await?;
    assert_eq!((seen.id.as_str(), seen.replies_to()), (answer.as_str(), Some(question.as_str())));
    bob.edit(&chat, &answer, "fine").await?;
    alice
        .wait_in(&chat, "the edit", |room| (room.text_now(&answer)? == "fine").then_some(()))
        .await?;
    alice.redact(&chat, &question).await?;
    bob.wait_in(&chat, "the removal", |room| room.text_now(&question).is_none().then_some(()))
        .await?;
    bob.send_html(&chat, "see", "<a href=\"http://h/?a=1&amp;b=2\">here</a>").await?;
    assert_eq!(alice.last_link_in(&chat).await?, "http://h/?a=1&b=2");
    let note = json!({ "msgtype": "m.notice", "body": "a note" });
    let note = bob.send_message(&chat, &note).await?;
    alice.wait_for_text(&chat, "a note").await?;
    assert_eq!(alice.notices_in(&chat), ["a note"]);

    // Read receipts, typing, names.
    alice.read(&chat, &note).await?;
    let read =
        |room: &harness::Room| (room.read_up_to.get("@alice:localhost")? == &note).then_some(());
    bob.wait_in(&chat, "the receipt", read).await?;
    alice.set_typing(&chat, true).await?;
    let typing = |room: &harness::Room| (room.typing == ["@alice:localhost"]).then_some(());
    bob.wait_in(&chat, "alice typing", typing).await?;
    alice.set_displayname("Alice A.").await?;
    let named =
        |room: &harness::Room| (room.name_of("@alice:localhost") == "Alice A.").then_some(());
    bob.wait_in(&chat, "alice's new name", named).await?;

    // Leaving and being thrown out.
    bob.leave(&chat).await?;
    bob.wait_for("having left", |view| {
        (view.rooms.get(&chat)?.standing == Standing::Left).then_some(())
    })
    .await?;
    bob.forget(&chat).await?;
    let room = alice.create_room("Den", true).await?;
    alice.invite(&room, &bob.id).await?;
    assert_eq!(bob.accept_invite("Den").await?, room);
    bob.wait_in(&room, "encryption", |room| room.is_encrypted().then_some(())).await?;
    alice.kick(&room, &bob.id, "enough").await?;
    bob.wait_for("being thrown out", |view| {
        (view.rooms.get(&room)?.standing == Standing::Left).then_some(())
    })
    .await?;
    let refused = bob.send_text(&room, "hey").await.expect_err("bob is out");
    assert_eq!(
        refused.downcast_ref::<Refusal>().map(|no| no.errcode.as_str()),
        Some("M_FORBIDDEN")
    );

    // A restart loses nothing and nobody has to sign in again.
    synapse.restart().await?;
    alice.send_text(&room, "still here").await?;
    let history = alice.history(&room).await?;
    assert_eq!(history.iter().filter(|event| event.body() == "still here").count(), 1);
    alice.wait_in(&room, "my words", |room| room.saying("still here").map(|_| ())).await?;

    let text = transcript.text();
    for line in ["alice says: how are you?", "@bob:localhost", "edits: fine", "notes: a note"] {
        assert!(text.contains(line), "“{line}” is missing:\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_flood_of_messages_is_seen_whole_and_in_order() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let mut config = SynapseConfig::new(python, Vec::new());
    // One event in each answer: the rest is a gap that the client has to fill.
    config.extra.insert("filter_timeline_limit".to_owned(), json!(1));
    let synapse = Synapse::start(config).await?;
    let (alice, bob, _) = people(&synapse).await?;
    let room = alice.create_room("Flood", false).await?;
    alice.invite(&room, &bob.id).await?;
    bob.accept_invite("Flood").await?;
    for n in 0..20 {
        let texts = [format!("{n} a"), format!("{n} b"), format!("{n} c")];
        let [a, b, c] = texts.each_ref().map(|text| alice.send_text(&room, text));
        tokio::try_join!(a, b, c)?;
    }
    let texts = |events: &[harness::Event]| -> Vec<String> {
        events.iter().filter(|e| e.is_message()).map(|e| e.body().to_owned()).collect()
    };
    let sent = texts(&bob.history(&room).await?);
    assert_eq!(sent.len(), 60);
    let seen = |room: &harness::Room| (texts(&room.timeline) == sent).then_some(());
    bob.wait_in(&room, "all that was sent, in order", seen).await
}

#[tokio::test]
async fn a_room_has_the_version_asked_for_and_the_view_can_be_told() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let mut config = SynapseConfig::new(python, Vec::new());
    config.room_version = Some("11".to_owned());
    let synapse = Synapse::start(config).await?;
    let (alice, _bob, _) = people(&synapse).await?;
    let room = alice.create_room("Den", false).await?;
    let created = |room: &harness::Room| room.name().map(|_| room.version().to_owned());
    assert_eq!(alice.wait_in(&room, "the room's name", created).await?, "11");
    let view = alice.look(harness::View::tail);
    assert!(view.contains("Den") && view.contains("m.room.name"), "{view}");
    Ok(())
}
