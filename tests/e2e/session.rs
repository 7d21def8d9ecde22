//! Logins: links, tokens that Gitter takes back, and logout.

use anyhow::Result;
use gitter_sim::{Fault, Matcher};
use harness::{Browser, Consent};

use crate::scene::{
    alice_in, cast, closed, is_member, is_only_in, on_gitter, room, say, settled, texts_by,
    texts_on_gitter, told,
};
use crate::world;

#[tokio::test]
async fn a_login_link_works_once_and_only_as_it_was_made() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice"]);
            let alice = world.person("alice").await?;
            let chat = world.start_chat(&alice).await?;
            let link = alice.last_link_in(&chat).await?;

            let mut forged = link.clone();
            let last = forged.pop().expect("a link is not empty");
            forged.push(if last == 'A' { 'Q' } else { 'A' });
            let page = Browser::new()?.visit(&forged).await?;
            assert_eq!(page.status, 403, "{}", page.text());
            assert!(page.text().contains("This link is not valid"), "{}", page.text());

            // Whose account it is, is shown before anything happens.
            let page = Browser::new()?.visit(&link).await?;
            assert!(page.text().contains(&alice.id), "{}", page.text());

            world.gitter.fail_next(
                1,
                Matcher::new("POST", "/login/oauth/token"),
                Fault::Status(503),
            );
            let page = world.follow_login(&alice, &chat, "alice", Consent::Approve).await?;
            assert!(page.status >= 500, "{} {}", page.status, page.text());
            assert!(page.text().contains("Gitter does not answer"), "{}", page.text());

            world.ask(&alice, &chat, "login").await?;
            let link = alice.last_link_in(&chat).await?;
            let page = world.follow_login(&alice, &chat, "alice", Consent::Approve).await?;
            assert_eq!(page.status, 200, "{}", page.text());
            alice.wait_for_text(&chat, "You are logged in to Gitter as Alice (@alice)").await?;
            let page = Browser::new()?.log_in(&link, "alice", Consent::Approve).await?;
            assert_eq!(page.status, 410, "{}", page.text());
            assert!(page.text().contains("This link was used before"), "{}", page.text());
            let index = Browser::new()?.visit(&world.bridge.login_url()).await?;
            assert!(index.text().contains(&world.bridge.bot()), "{}", index.text());
            settled(world, &alice, &chat).await?;
            assert_eq!(told(&alice, &chat, "You are logged in to Gitter as"), 2, "and by status");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_revoked_login_is_told_once_and_the_next_one_goes_on_in_the_same_rooms() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, chat, portal) = alice_in(world, "acme/rockets", &["alice", "bob"]).await?;
            alice.send_text(&portal, "before").await?;
            on_gitter(world, "acme/rockets", "alice", "before").await?;
            settled(world, &alice, &chat).await?;

            world.gitter.revoke_tokens_of("alice");
            let waiting = alice.send_text(&portal, "meanwhile").await?;
            alice.wait_for_text(&chat, "Gitter no longer accepts your login").await?;
            let at_it = alice.wait_for_text(&portal, "it waits until you log in anew").await?;
            assert_eq!(at_it.replies_to(), Some(&*waiting));
            alice.send_text(&portal, "and more").await?;
            say(world, "bob", "acme/rockets", "Alice?");
            world.bridge.restart().await?;
            let list = world.ask(&alice, &chat, "list").await?;
            assert!(list.body().contains("Log in here"), "{}", list.body());
            assert_eq!(texts_on_gitter(world, "acme/rockets", "alice"), ["before"]);
            is_only_in(&alice, &[&chat, &portal])?;
            assert_eq!(told(&alice, &chat, "Gitter no longer accepts your login"), 1, "told once");
            assert_eq!(told(&alice, &portal, "it waits until you log in anew"), 1, "told once");

            world.ask(&alice, &chat, "login").await?;
            let page = world.follow_login(&alice, &chat, "alice", Consent::Approve).await?;
            assert_eq!(page.status, 200, "{}", page.text());
            alice.wait_for_text(&chat, "Your rooms here stay as they are").await?;
            on_gitter(world, "acme/rockets", "alice", "and more").await?;
            alice.wait_for_text(&portal, "Alice?").await?;
            let texts = texts_on_gitter(world, "acme/rockets", "alice");
            assert_eq!(texts, ["before", "meanwhile", "and more"]);
            alice
                .wait_in(&portal, "the words taken back, and the status that it arrived", |room| {
                    let status = |event: &&harness::Event| {
                        event.kind == "com.beeper.message_send_status"
                            && event.content["m.relates_to"]["event_id"] == *waiting
                    };
                    let last = room.timeline.iter().rfind(status)?;
                    let taken_back = room.notices().next().is_none();
                    (last.content["status"] == "SUCCESS" && taken_back).then_some(())
                })
                .await?;
            assert_eq!(texts_by(&alice, &portal, &world.ghost("bob")).await?, ["Alice?"]);
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat, &portal])
        })
        .await
}

#[tokio::test]
async fn logout_closes_everything_and_a_new_login_opens_it_again() -> Result<()> {
    // Whatever an admin has the log tell: a story fails when a secret is in it.
    world()
        .setting("log_level", "trace")
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            for uri in ["acme/rockets", "acme/tea"] {
                room(world, uri, &["alice", "bob"]);
            }
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            let rockets = alice.accept_invite("acme/rockets").await?;
            let tea = alice.wait_for_invite("acme/tea").await?;
            settled(world, &alice, &chat).await?;

            alice.send_text(&chat, "logout").await?;
            alice.wait_for_text(&chat, "all your Gitter rooms here are closed").await?;
            closed(&alice, &rockets).await?;
            closed(&alice, &tea).await?;
            is_only_in(&alice, &[&chat])?;
            for uri in ["acme/rockets", "acme/tea"] {
                assert!(is_member(world, uri, "alice"), "still in {uri} on Gitter");
            }
            // Nobody speaks to Gitter in her name any more, also not after a restart.
            world
                .on_gitter("no live connection", |g| (g.faye_sockets() == 0).then_some(()))
                .await?;
            world.gitter.clear_calls();
            world.bridge.restart().await?;
            for said in ["list", "gjoin acme/rockets", "status"] {
                let answer = world.ask(&alice, &chat, said).await?;
                assert!(answer.body().contains("Log in here"), "{said}: {}", answer.body());
            }
            let calls = world.gitter.calls().into_iter();
            let knocks = ["/v1/", "/login/oauth/"];
            let calls: Vec<_> =
                calls.filter(|call| !knocks.contains(&call.route.as_str())).collect();
            assert!(calls.is_empty(), "nothing but “is Gitter there?”: {calls:?}");
            assert_eq!(world.gitter.faye_sockets(), 0);
            let answer = world.ask(&alice, &chat, "logout").await?;
            assert!(answer.body().starts_with("You are not logged in"), "{}", answer.body());

            let page = world.follow_login(&alice, &chat, "alice", Consent::Approve).await?;
            assert_eq!(page.status, 200, "{}", page.text());
            let rockets = alice.accept_invite("acme/rockets").await?;
            let tea = alice.accept_invite("acme/tea").await?;
            alice.send_text(&rockets, "Back again").await?;
            on_gitter(world, "acme/rockets", "alice", "Back again").await?;
            say(world, "bob", "acme/rockets", "Hello");
            alice.wait_for_text(&rockets, "Hello").await?;
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat, &rockets, &tea])
        })
        .await
}
