//! What an admin, or a person who wonders, asks the bridge about itself.

use anyhow::Result;

use crate::scene::{cast, room, settled};
use crate::world;

#[tokio::test]
async fn check_goes_through_all_there_is_and_names_what_to_change() -> Result<()> {
    world()
        .story(async |world| {
            let (status, text) = world.bridge.run(&["check"]).await?;
            assert!(status.success() && !text.contains("FAIL"), "the bridge runs:\n{text}");
            assert!(text.contains("the bridge is running"), "{text}");
            for about in ["homeserver", "token", "ping", "gitter", "realtime", "login pages"] {
                assert!(text.to_lowercase().contains(about), "{about} is not in it:\n{text}");
            }
            world.bridge.terminate().await?;
            let (status, text) = world.bridge.run(&["check"]).await?;
            assert!(status.success() && !text.contains("FAIL"), "a stand-in answers:\n{text}");

            world.stop_gitter().await;
            let (status, text) = world.bridge.run(&["check"]).await?;
            assert_eq!(status.code(), Some(1), "{text}");
            let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL")).collect();
            for key in ["gitter_api_url", "gitter_oauth_url", "gitter_faye_url"] {
                let told = failed.iter().any(|line| line.contains(&format!("or correct {key}")));
                assert!(told, "{key} is not named:\n{text}");
            }
            assert_eq!(failed.len(), 3, "{text}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn why_tells_what_is_wanted_what_was_seen_and_what_stands_in_the_way() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            room(world, "acme/rockets", &["alice", "bob"]);
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            alice.accept_invite("acme/rockets").await?;
            settled(world, &alice, &chat).await?;
            let answer = world.ask_until(&alice, &chat, "why rockets", "you are in it").await?;
            assert!(answer.body().contains("should be a member; last seen: a member"));
            assert!(!answer.body().contains("went wrong"), "{}", answer.body());

            world.stop_gitter().await;
            alice.send_text(&chat, "gpart rockets").await?;
            let answer = loop {
                let answer = world.ask(&alice, &chat, "why rockets").await?.body().to_owned();
                if answer.contains("What went wrong last") {
                    break answer;
                }
            };
            for part in ["should be not a member; last seen: a member", "I look at it again"] {
                assert!(answer.contains(part), "{part}: {answer}");
            }
            world.start_gitter().await?;
            alice.wait_for_text(&chat, "You are no longer in acme/rockets").await?;
            Ok(())
        })
        .await
}
