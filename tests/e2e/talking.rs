//! Talk in a portal: what is said on one side is said on the other, in order and once.

use anyhow::Result;
use harness::WorldConfig;
use reqwest::Method;
use serde_json::json;

use crate::scene::{
    alice_in, cast, messages_by, on_gitter, room, say, settled, texts_by, texts_on_gitter,
};
use crate::world;

const ROOM: &str = "acme/rockets";

/// A Gitter that does not slow anybody down.
fn chatty() -> WorldConfig {
    let mut config = world().setting("gitter_requests_per_minute", "10000");
    config.gitter = |gitter| gitter.rate_limit = Some(10_000);
    config
}

#[tokio::test]
async fn what_is_said_looks_the_same_on_the_other_side() -> Result<()> {
    chatty()
        .story(async |world| {
            let (alice, chat, portal) = alice_in(world, ROOM, &["alice", "bob"]).await?;
            let bob = world.ghost("bob");
            alice.wait_in(&portal, "Bob's ghost", |room| room.has(&bob).then_some(())).await?;

            // Matrix → Gitter
            alice.send_text(&portal, "Plain: 2 < 3 & 5 > 4").await?;
            alice.send_html(&portal, "**big**", "<strong>big</strong>").await?;
            alice.send_html(&portal, "`x_y`", "<code>x_y</code>").await?;
            let pill = format!("<a href=\"https://matrix.to/#/{bob}\">Bob</a>: hi");
            alice.send_html(&portal, "Bob: hi", &pill).await?;
            alice.send_message(&portal, &json!({ "msgtype": "m.emote", "body": "waves" })).await?;
            let long = "word ".repeat(1000);
            alice.send_text(&portal, long.trim_end()).await?;
            alice.send_text(&portal, "the end").await?;
            on_gitter(world, ROOM, "alice", "the end").await?;
            let texts = texts_on_gitter(world, ROOM, "alice");
            assert_eq!(
                texts[..5],
                ["Plain: 2 < 3 & 5 > 4", "**big**", "`x_y`", "@bob: hi", "@alice waves"]
            );
            assert_eq!(texts.len(), 8, "5 short ones, 2 halves of the long one, the last");
            assert!(texts.iter().all(|text| text.encode_utf16().count() <= 4096));
            assert_eq!(texts[5..7].join(" "), long.trim_end());
            let messages = world.gitter.messages(ROOM);
            assert!(messages[4].status, "a /me stays one");
            assert!(messages[3].html.contains("mention"), "Bob is called: {}", messages[3].html);

            // Gitter → Matrix
            say(world, "bob", ROOM, "**big** and `x_y`");
            say(world, "bob", ROOM, "@alice look");
            world.gitter.post_as_status("bob", ROOM, "waves back");
            alice.wait_for_text(&portal, "waves back").await?;
            let heard = messages_by(&alice, &portal, &bob).await?;
            let bodies: Vec<_> = heard.iter().map(harness::Event::body).collect();
            assert_eq!(heard.len(), 3, "{bodies:?}");
            assert_eq!(heard[0].html(), "<strong>big</strong> and <code>x_y</code>");
            assert_eq!(heard[1].content["m.mentions"]["user_ids"], json!([alice.id]));
            assert!(heard[1].html().contains(&alice.id), "a pill: {}", heard[1].html());
            assert_eq!((heard[2].msgtype(), heard[2].body()), ("m.emote", "waves back"));

            // What can't be shown there is answered where it was said.
            let file = json!({ "url": "mxc://x/y", "v": "v2" });
            let image = json!({ "msgtype": "m.image", "body": "encrypted.png", "file": file });
            let image = alice.send_message(&portal, &image).await?;
            let sticker = json!({ "body": "a cat that is nowhere", "info": {} });
            let sticker = alice.send_event(&portal, "m.sticker", &sticker).await?;
            for event in [&image, &sticker] {
                let why = alice
                    .wait_in(&portal, "a word why not", |room| {
                        room.notices().find(|n| n.replies_to() == Some(event)).cloned()
                    })
                    .await?;
                assert!(why.body().starts_with("This message is not on Gitter"), "{}", why.body());
            }
            alice.send_message(&portal, &json!({ "msgtype": "m.notice", "body": "beep" })).await?;
            alice.send_text(&portal, "after the cats").await?;
            on_gitter(world, ROOM, "alice", "after the cats").await?;
            assert_eq!(world.gitter.messages(ROOM).len(), 8 + 3 + 1, "nothing else went out");
            settled(world, &alice, &chat).await
        })
        .await
}

#[tokio::test]
async fn bursts_in_both_directions_arrive_in_order_and_once() -> Result<()> {
    chatty()
        .story(async |world| {
            let (alice, _, portal) = alice_in(world, ROOM, &["alice", "bob", "carol"]).await?;
            world.gitter.echo_before_answer(true);
            let named = |who: &str| (1..=30).map(|n| format!("{who} {n}")).collect::<Vec<_>>();
            for ((mine, bobs), carols) in
                named("alice").iter().zip(named("bob")).zip(named("carol"))
            {
                alice.send_text(&portal, mine).await?;
                world.gitter.post("bob", ROOM, &bobs);
                world.gitter.post("carol", ROOM, &carols);
            }
            on_gitter(world, ROOM, "alice", "alice 30").await?;
            alice.wait_for_text(&portal, "carol 30").await?;
            say(world, "bob", ROOM, "that was all");
            alice.wait_for_text(&portal, "that was all").await?;
            assert_eq!(texts_on_gitter(world, ROOM, "alice"), named("alice"));
            let bobs = texts_by(&alice, &portal, &world.ghost("bob")).await?;
            assert_eq!(bobs, [named("bob"), vec!["that was all".to_owned()]].concat());
            let carols = texts_by(&alice, &portal, &world.ghost("carol")).await?;
            assert_eq!(carols, named("carol"));
            let own = texts_by(&alice, &portal, &alice.id).await?;
            assert_eq!(own, named("alice"));
            let ghost = texts_by(&alice, &portal, &world.ghost("alice")).await?;
            assert!(ghost.is_empty(), "her own words do not come back: {ghost:?}");
            let interleaved = alice.history(&portal).await?;
            let theirs: Vec<_> = interleaved.iter().filter(|e| e.is_message()).collect();
            let place = |text: &str| theirs.iter().position(|event| event.body() == text);
            for n in 1..30 {
                let pair = (place(&format!("bob {n}")), place(&format!("carol {n}")));
                let next = place(&format!("bob {}", n + 1));
                assert!(pair.0 < pair.1 && pair.1 < next, "order of the room is kept at {n}");
            }
            Ok(())
        })
        .await
}

/// Code with all that could be taken for something else.
const CODE: &str = "fn main() {\n    // <b> & &lt; *not bold* _x_ @bob @/all :smile: #12 $$x$$\n\n\tlet s = `\"a\\\\b\"`; \n    print!(\"http://x.example/a_b\");\n}";

#[tokio::test]
async fn code_is_the_same_to_the_byte_on_the_other_side() -> Result<()> {
    chatty()
        .story(async |world| {
            let (alice, _, portal) = alice_in(world, ROOM, &["alice", "bob"]).await?;
            let fenced = format!("Look:\n\n```rust\n{CODE}\n```");
            say(world, "bob", ROOM, &fenced);
            let heard = alice.wait_for_text(&portal, "Look:").await?;
            assert_eq!(heard.body(), fenced);
            let html = heard.html();
            let code = html.split_once("<pre><code class=\"language-rust\">").map(|(_, code)| code);
            let code = code.and_then(|code| code.split_once("</code></pre>")).map(|(code, _)| code);
            let code = code.unwrap_or_else(|| panic!("code in a language: {html}"));
            let escaped = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")];
            let code = escaped.iter().fold(code.to_owned(), |code, (a, b)| code.replace(a, b));
            assert_eq!(code, format!("{CODE}\n"));
            assert_eq!(heard.content["m.mentions"], json!({}), "code calls nobody");

            // What was heard, said again.
            alice.send_html(&portal, heard.body(), html).await?;
            on_gitter(world, ROOM, "alice", &fenced).await
        })
        .await
}

#[tokio::test]
async fn who_is_called_on_one_side_is_called_on_the_other_whether_they_are_in_the_room_or_not()
-> Result<()> {
    chatty()
        .story(async |world| {
            cast(world, &["alice", "bob", "carol"]);
            room(world, ROOM, &["alice", "bob"]);
            let alice = world.person("alice").await?;
            world.log_in(&alice, "alice").await?;
            let portal = alice.accept_invite(ROOM).await?;
            let (bob, carol) = (world.ghost("bob"), world.ghost("carol"));
            say(world, "bob", ROOM, "@bob asks @carol and @nosuch");
            let heard = alice.wait_for_text(&portal, "asks").await?;
            for ghost in [&bob, &carol] {
                let link = format!("<a href=\"https://matrix.to/#/{ghost}\">");
                assert!(heard.html().contains(&link), "a pill: {}", heard.html());
            }
            assert!(heard.html().ends_with("</a> and @nosuch"), "{}", heard.html());
            assert_eq!(heard.content["m.mentions"]["user_ids"], json!([bob, carol]));
            let profile = alice.profile_of(&carol).await?;
            assert_eq!(profile, Some(json!({"displayname": "carol"})), "so that clients show it");
            let history = alice.history(&portal).await?;
            assert!(history.iter().all(|e| e.state_key.as_deref() != Some(&*carol)), "not inside");

            // Whatever a pill shows, it calls whom it leads to.
            let pill = |ghost: &str| format!("<a href=\"https://matrix.to/#/{ghost}\">you</a>");
            let html = format!("{} and {}, yes?", pill(&bob), pill(&carol));
            alice.send_html(&portal, "you and you, yes?", &html).await?;
            on_gitter(world, ROOM, "alice", "@bob and @carol, yes?").await?;
            let said = world.gitter.messages(ROOM);
            assert_eq!(said[1].html.matches("class=\"mention\"").count(), 2, "{}", said[1].html);

            // Named only when it was changed, she is notified then.
            let message = say(world, "bob", ROOM, "who comes along?");
            let event = alice.wait_for_text(&portal, "who comes along?").await?;
            for text in ["@alice, who comes along?", "@alice, who comes along too?"] {
                world.gitter.edit(ROOM, &message, text);
                let changed =
                    |room: &harness::Room| (room.text_now(&event.id)? == text).then_some(());
                alice.wait_in(&portal, text, changed).await?;
            }
            let history = alice.history(&portal).await?;
            let edits = history.iter().filter(|edit| edit.replaces() == Some(&event.id));
            let calls: Vec<_> = edits.map(|edit| &edit.content["m.mentions"]).collect();
            assert_eq!(calls, [&json!({"user_ids": [alice.id]}), &json!({})], "once");
            let notified = alice.call(Method::GET, &["v3", "notifications"], None).await?;
            let notified = notified["notifications"].as_array().cloned().unwrap_or_default();
            let highlight = json!({"set_tweak": "highlight"});
            let loud = notified.iter().filter(|told| {
                let actions = told["actions"].as_array();
                actions.is_some_and(|actions| actions.contains(&highlight))
            });
            let loud: Vec<_> = loud.map(|told| told["event"]["content"]["body"].clone()).collect();
            assert_eq!(loud, ["* @alice, who comes along?"]);
            Ok(())
        })
        .await
}
