//! Said, and said otherwise: edits, deletions, answers and threads, both ways.

use anyhow::Result;
use gitter_sim::SimMessage;
use harness::{Consent, Person, World};
use serde_json::json;

use crate::{
    scene::{alice_in, texts_by, told},
    world,
};

const ROOM: &str = "acme/rockets";

/// Alice with a portal, Bob on Gitter.
async fn rockets(world: &World) -> Result<(Person, String)> {
    let (alice, _, portal) = alice_in(world, ROOM, &["alice", "bob"]).await?;
    Ok((alice, portal))
}

/// Waits for a message on Gitter and returns it.
async fn on_gitter(
    world: &World,
    what: &str,
    is: impl Fn(&SimMessage) -> bool,
) -> Result<SimMessage> {
    world.on_gitter(what, |gitter| gitter.messages(ROOM).into_iter().find(|m| is(m))).await
}

#[tokio::test]
async fn what_is_changed_on_matrix_changes_on_gitter_and_late_changes_point_at_the_old_words()
-> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let event = alice.send_text(&portal, "frist").await?;
            let first = on_gitter(world, "the typo", |m| m.text == "frist").await?;
            alice.edit(&portal, &event, "first").await?;
            on_gitter(world, "the correction", |m| m.id == first.id && m.text == "first").await?;

            // The echo of the change must not come back as news.
            world.gitter.post("bob", ROOM, "seen");
            alice.wait_for_text(&portal, "seen").await?;
            let from_bot = alice.notices_in(&portal);
            assert!(from_bot.is_empty(), "no word about it: {from_bot:?}");

            world.gitter.advance_clock(11 * 60 * 1000);
            alice.edit(&portal, &event, "the first").await?;
            let late =
                on_gitter(world, "the late change", |m| m.text.contains("the first")).await?;
            assert_ne!(late.id, first.id);
            assert!(late.text.contains(&format!("?at={}", first.id)), "{}", late.text);

            // From then on the late message is the one that changes; with its event, both go.
            world.bridge.restart().await?;
            alice.edit(&portal, &event, "the very first").await?;
            let text = late.text.replace("the first", "the very first");
            let again = |m: &SimMessage| m.id == late.id && m.text == text;
            on_gitter(world, "the change of the late change", again).await?;
            alice.redact(&portal, &event).await?;
            let left = |gitter: &gitter_sim::World| {
                gitter.messages(ROOM).iter().all(|m| m.from == "bob").then_some(())
            };
            world.on_gitter("both deleted", left).await
        })
        .await
}

#[tokio::test]
async fn a_long_message_is_split_changed_and_deleted_as_one() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let long = "a long story. ".repeat(600);
            let event = alice.send_text(&portal, long.trim_end()).await?;
            let parts = |gitter: &gitter_sim::World| {
                gitter
                    .messages(ROOM)
                    .into_iter()
                    .filter(|m| m.text.contains("long story"))
                    .collect::<Vec<_>>()
            };
            let three =
                world.on_gitter("three parts", |g| Some(parts(g)).filter(|p| p.len() == 3)).await?;
            assert!(three.iter().all(|part| part.text.encode_utf16().count() <= 4096));
            assert_eq!(three.iter().map(|p| p.text.matches("story").count()).sum::<usize>(), 600);

            let is_short = |gitter: &gitter_sim::World| {
                let left = gitter.messages(ROOM);
                (left.len() == 1 && left[0].text == "a short tale").then_some(())
            };
            world.bridge.restart().await?;
            alice.edit(&portal, &event, "a short tale").await?;
            world.on_gitter("one part with new words", is_short).await?;

            // It grows again, shrinks again, and grows once more: never a part too many, none forgotten.
            alice.edit(&portal, &event, long.trim_end()).await?;
            let grown = |g: &gitter_sim::World| {
                let parts = parts(g);
                let stories = parts.iter().map(|p| p.text.matches("story").count()).sum::<usize>();
                (g.messages(ROOM).len() == 3 && stories == 600).then_some(())
            };
            world.on_gitter("three parts again", grown).await?;
            alice.edit(&portal, &event, "a short tale").await?;
            world.on_gitter("one part again", is_short).await?;
            alice.edit(&portal, &event, long.trim_end()).await?;
            world.on_gitter("three parts once more", grown).await?;
            world.bridge.restart().await?;
            alice.redact(&portal, &event).await?;
            world.on_gitter("nothing", |g| g.messages(ROOM).is_empty().then_some(())).await?;
            alice
                .wait_in(&portal, "her own deletion", |room| {
                    room.text_now(&event).is_none().then_some(())
                })
                .await?;
            let from_bot = alice.notices_in(&portal);
            assert!(from_bot.is_empty(), "no word about any of it: {from_bot:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn what_is_changed_or_deleted_on_gitter_follows_on_matrix_also_after_the_bridge_was_away()
-> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let said = world.gitter.post("bob", ROOM, "tommorow");
            let event = alice.wait_for_text(&portal, "tommorow").await?;
            world.gitter.edit(ROOM, &said, "tomorrow");
            let now = |person: &Person, event: &str| {
                person.look(|view| view.rooms[&portal].text_now(event).map(str::to_owned))
            };
            alice
                .wait_in(&portal, "the correction", |room| {
                    (room.text_now(&event.id) == Some("tomorrow")).then_some(())
                })
                .await?;
            let gone = world.gitter.post("bob", ROOM, "never mind");
            let gone_event = alice.wait_for_text(&portal, "never mind").await?;
            let kept = world.gitter.post("bob", ROOM, "kept");
            let kept_event = alice.wait_for_text(&portal, "kept").await?;
            world.gitter.delete(ROOM, &gone);
            alice
                .wait_in(&portal, "the deletion", |room| {
                    room.text_now(&gone_event.id).is_none().then_some(())
                })
                .await?;

            world.bridge.kill9()?;
            world.gitter.edit(ROOM, &kept, "kept and changed");
            world.gitter.delete(ROOM, &said);
            world.gitter.post("bob", ROOM, "while you were away");
            world.bridge.start_again()?;
            alice.wait_for_text(&portal, "while you were away").await?;
            alice
                .wait_in(&portal, "what was missed", |room| {
                    let changed = room.text_now(&kept_event.id) == Some("kept and changed");
                    (changed && room.text_now(&event.id).is_none()).then_some(())
                })
                .await?;
            assert_eq!(now(&alice, &kept_event.id).as_deref(), Some("kept and changed"));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn what_is_said_changed_and_deleted_on_matrix_while_the_bridge_is_away_comes_right()
-> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let wrong = alice.send_text(&portal, "at eihgt").await?;
            let regretted = alice.send_text(&portal, "or never").await?;
            let gone = on_gitter(world, "both", |m| m.text == "or never").await?;
            let first = on_gitter(world, "the first", |m| m.text == "at eihgt").await?;

            world.bridge.kill9()?;
            alice.edit(&portal, &wrong, "at eight").await?;
            alice.redact(&portal, &regretted).await?;
            let new = alice.send_text(&portal, "in the prak").await?;
            alice.edit(&portal, &new, "in the park").await?;
            let secret = alice.send_text(&portal, "a secret").await?;
            alice.redact(&portal, &secret).await?;
            alice.send_text(&portal, "See you").await?;
            world.bridge.start_again()?;
            on_gitter(world, "the last word", |m| m.text == "See you").await?;
            let said = world.gitter.messages(ROOM);
            let texts: Vec<_> = said.iter().map(|message| message.text.as_str()).collect();
            assert_eq!(texts, ["at eight", "in the park", "See you"]);
            assert_eq!(said[0].id, first.id, "changed where it was");
            assert!(said.iter().all(|message| message.id != gone.id));
            let from_bot = alice.notices_in(&portal);
            assert!(from_bot.is_empty(), "no word about any of it: {from_bot:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn what_is_emptied_on_gitter_goes_and_is_said_anew_when_it_has_words_again() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let said = world.gitter.post("bob", ROOM, "tea at four?");
            let event = alice.wait_for_text(&portal, "tea at four?").await?;
            world.gitter.edit(ROOM, &said, "");
            let gone = |room: &harness::Room| room.text_now(&event.id).is_none().then_some(());
            alice.wait_in(&portal, "nothing of it", gone).await?;
            world.bridge.restart().await?;
            world.gitter.edit(ROOM, &said, "tea at five?");
            let back = alice.wait_for_text(&portal, "tea at five?").await?;
            assert_eq!((back.sender.as_str(), back.replaces()), (&*world.ghost("bob"), None));

            // It is one message: what is said about the new words is about it.
            world.gitter.edit(ROOM, &said, "tea at six?");
            let six = |room: &harness::Room| {
                (room.text_now(&back.id) == Some("tea at six?")).then_some(())
            };
            alice.wait_in(&portal, "the change", six).await?;
            alice.reply(&portal, &back.id, "At seven!").await?;
            let answer = on_gitter(world, "the answer", |m| m.text.contains("At seven!")).await?;
            assert!(answer.text.contains(&format!("?at={said}")), "{}", answer.text);
            let texts = texts_by(&alice, &portal, &world.ghost("bob")).await?;
            assert_eq!(texts.iter().filter(|text| !text.is_empty()).count(), 1, "{texts:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn answers_and_threads_stay_together_both_ways() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let question = world.gitter.post("bob", ROOM, "When do we start?");
            let event = alice.wait_for_text(&portal, "When do we start?").await?;

            let reply = alice.reply(&portal, &event.id, "On Monday").await?;
            let answer = on_gitter(world, "the answer", |m| m.text.contains("On Monday")).await?;
            assert!(answer.text.starts_with("> [bob]("), "quoted: {}", answer.text);
            assert!(answer.text.contains("When do we start?"), "{}", answer.text);
            assert_eq!(answer.parent, None);
            alice.edit(&portal, &reply, "On Tuesday").await?;
            let changed = answer.text.replace("Monday", "Tuesday");
            on_gitter(world, "the change, still quoting", |m| m.text == changed).await?;

            let thread = json!({
                "msgtype": "m.text", "body": "At nine",
                "m.relates_to": {
                    "rel_type": "m.thread", "event_id": event.id, "is_falling_back": true,
                    "m.in_reply_to": {"event_id": event.id},
                },
            });
            alice.send_message(&portal, &thread).await?;
            let child = on_gitter(world, "the child", |m| m.text == "At nine").await?;
            assert_eq!(child.parent.as_deref(), Some(question.as_str()));

            world.gitter.reply("bob", ROOM, &question, "Sharp!");
            let sharp = alice.wait_for_text(&portal, "Sharp!").await?;
            assert_eq!(sharp.content["m.relates_to"]["rel_type"], "m.thread");
            assert_eq!(sharp.content["m.relates_to"]["event_id"], event.id.as_str());

            alice.send_message(&portal, &json!({"msgtype": "m.emote", "body": "waves"})).await?;
            let waves = on_gitter(world, "the wave", |m| m.text == "@alice waves").await?;
            assert!(waves.status);
            // Below what it answers, too, it says who.
            let nods = json!({"msgtype": "m.emote", "body": "nods",
                "m.relates_to": {"m.in_reply_to": {"event_id": event.id}}});
            alice.send_message(&portal, &nods).await?;
            let nods = on_gitter(world, "the nod", |m| m.text.ends_with("nods")).await?;
            assert!(nods.status && nods.text.starts_with("> [bob]("), "{}", nods.text);
            assert!(nods.text.ends_with("\n\n@alice nods"), "{}", nods.text);
            world.gitter.post_as_status("bob", ROOM, "waves back");
            let back = alice.wait_for_text(&portal, "waves back").await?;
            assert_eq!((back.msgtype(), back.body()), ("m.emote", "waves back"));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn threads_go_on_after_a_restart_and_after_their_first_message_is_deleted() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let in_thread = |root: &str, body: &str| {
                json!({
                    "msgtype": "m.text", "body": body,
                    "m.relates_to": {
                        "rel_type": "m.thread", "event_id": root, "is_falling_back": true,
                        "m.in_reply_to": {"event_id": root},
                    },
                })
            };
            // One begun there, one begun here.
            let theirs = world.gitter.post("bob", ROOM, "Their thread");
            let root = alice.wait_for_text(&portal, "Their thread").await?.id;
            let own_root = alice.send_text(&portal, "My thread").await?;
            let mine = on_gitter(world, "her message", |m| m.text == "My thread").await?.id;
            world.bridge.restart().await?;
            for (thread, root, name) in [(&theirs, &root, "theirs"), (&mine, &own_root, "mine")] {
                let answer = format!("here, to {name}");
                let event = alice.send_message(&portal, &in_thread(root, &answer)).await?;
                let child = on_gitter(world, "the answer", |m| m.text == answer).await?;
                assert_eq!(child.parent.as_deref(), Some(thread.as_str()));
                world.gitter.reply("bob", ROOM, thread, &format!("there, to {name}"));
                let there = alice.wait_for_text(&portal, &format!("there, to {name}")).await?;
                assert_eq!(there.content["m.relates_to"]["event_id"], root.as_str());
                // A plain reply to a message of a thread goes where that message is.
                let plain = format!("plainly, to {name}");
                alice.reply(&portal, &event, &plain).await?;
                let child = on_gitter(world, "the reply", |m| m.text == plain).await?;
                assert_eq!(child.parent.as_deref(), Some(thread.as_str()));
            }

            // The first message is deleted: Gitter keeps it, empty, and the thread.
            world.gitter.delete(ROOM, &theirs);
            alice
                .wait_in(&portal, "the deletion", |room| {
                    room.text_now(&root).is_none().then_some(())
                })
                .await?;
            let still = alice.wait_for_text(&portal, "there, to theirs").await?;
            assert!(alice.look(|view| view.rooms[&portal].text_now(&still.id).is_some()));
            alice.send_message(&portal, &in_thread(&root, "still here")).await?;
            let child = on_gitter(world, "the late answer", |m| m.text == "still here").await?;
            assert_eq!(child.parent.as_deref(), Some(theirs.as_str()));
            world.gitter.reply("bob", ROOM, &theirs, "still there");
            let there = alice.wait_for_text(&portal, "still there").await?;
            assert_eq!(there.content["m.relates_to"]["event_id"], root.as_str());

            // Without answers it is gone altogether: what comes after stands alone.
            let lone = world.gitter.post("bob", ROOM, "Nobody answers");
            let root = alice.wait_for_text(&portal, "Nobody answers").await?.id;
            world.gitter.delete(ROOM, &lone);
            alice
                .wait_in(&portal, "the other deletion", |room| {
                    room.text_now(&root).is_none().then_some(())
                })
                .await?;
            alice.send_message(&portal, &in_thread(&root, "too late")).await?;
            let alone = on_gitter(world, "the answer to nothing", |m| m.text == "too late").await?;
            assert_eq!(alone.parent, None);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn replies_become_threads_on_gitter_where_the_admin_wants_them_to() -> Result<()> {
    world()
        .setting("replies", "thread")
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let question = world.gitter.post("bob", ROOM, "When do we start?");
            let event = alice.wait_for_text(&portal, "When do we start?").await?;
            let answer = alice.reply(&portal, &event.id, "On Monday").await?;
            let child = on_gitter(world, "the answer", |m| m.text == "On Monday").await?;
            assert_eq!(child.parent.as_deref(), Some(question.as_str()));
            alice.reply(&portal, &answer, "At nine").await?;
            let child = on_gitter(world, "the next", |m| m.text == "At nine").await?;
            assert_eq!(child.parent.as_deref(), Some(question.as_str()), "threads have one level");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn what_the_account_does_on_gitter_itself_is_seen_here() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            // Said there: by her ghost. Changed and deleted there, too.
            let there = world.gitter.post("alice", ROOM, "from the train");
            let event = alice.wait_for_text(&portal, "from the train").await?;
            assert_eq!(event.sender, world.ghost("alice"));
            world.gitter.edit(ROOM, &there, "from the tram");
            alice
                .wait_in(&portal, "the change", |room| {
                    (room.text_now(&event.id) == Some("from the tram")).then_some(())
                })
                .await?;

            // Said here, changed there: nobody but her may change her event, so the bot tells.
            let here = alice.send_text(&portal, "from home").await?;
            let there = on_gitter(world, "her message", |m| m.text == "from home").await?.id;
            world.gitter.edit(ROOM, &there, "from work");
            let word = alice.wait_for_text(&portal, "now reads: from work").await?;
            assert_eq!(word.replies_to(), Some(here.as_str()));
            world.gitter.delete(ROOM, &there);
            alice
                .wait_in(&portal, "the deletion", |room| {
                    room.text_now(&here).is_none().then_some(())
                })
                .await?;
            assert_eq!(told(&alice, &portal, "now reads"), 1, "told once");

            // Of a message in parts, what is left of it stays; with the last part its event goes.
            let long = "a long story. ".repeat(600);
            let whole = alice.send_text(&portal, long.trim_end()).await?;
            let parts = world
                .on_gitter("three parts", |gitter| {
                    let parts: Vec<_> = gitter.messages(ROOM).into_iter().map(|m| m.id).collect();
                    (parts.len() == 4).then(|| parts[1..].to_vec())
                })
                .await?;
            world.gitter.delete(ROOM, &parts[0]);
            world.gitter.delete(ROOM, &parts[2]);
            world.gitter.post("bob", ROOM, "Hm");
            alice.wait_for_text(&portal, "Hm").await?;
            assert!(alice.look(|view| view.rooms[&portal].text_now(&whole).is_some()));
            world.bridge.restart().await?;
            world.gitter.delete(ROOM, &parts[1]);
            alice
                .wait_in(&portal, "the end of the story", |room| {
                    room.text_now(&whole).is_none().then_some(())
                })
                .await
        })
        .await
}

#[tokio::test]
async fn what_is_deleted_before_it_left_never_leaves() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            alice.send_text(&portal, "before").await?;
            on_gitter(world, "the first message", |m| m.text == "before").await?;
            world.gitter.revoke_tokens_of("alice");
            alice.send_text(&portal, "finds out").await?;
            let chat = alice.look(|view| {
                view.joined().find(|room| room.id != portal).map(|room| room.id.clone())
            });
            let chat = chat.expect("the control room");
            alice.wait_for_text(&chat, "Gitter no longer accepts your login").await?;
            let regretted = alice.send_text(&portal, "a secret").await?;
            alice.edit(&portal, &regretted, "still a secret").await?;
            alice.redact(&portal, &regretted).await?;
            alice.send_text(&portal, "kept").await?;
            world.ask(&alice, &chat, "login").await?;
            let page = world.follow_login(&alice, &chat, "alice", Consent::Approve).await?;
            assert_eq!(page.status, 200, "{}", page.text());
            on_gitter(world, "what waited", |m| m.text == "kept").await?;
            let texts: Vec<_> = world.gitter.messages(ROOM).into_iter().map(|m| m.text).collect();
            assert_eq!(texts, ["before", "finds out", "kept"]);
            // Not even for a moment: of each that is there, one was sent.
            assert_eq!(world.gitter.count_calls("POST", "/chatMessages"), 4, "and one refused");
            assert_eq!(world.gitter.count_calls("DELETE", "/chatMessages"), 0);
            Ok(())
        })
        .await
}
