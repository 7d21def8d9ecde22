//! Stopping in the middle of things: nothing is lost, nothing comes twice, and who is in a hurry is obeyed.

use std::time::Duration;

use anyhow::{Result, ensure};
use gitter_sim::{Fault, Matcher};

use crate::scene::{alice_in, on_gitter, say, settled, texts_by, texts_on_gitter};
use crate::world;

const ROOM: &str = "acme/rockets";
const MESSAGES: usize = 8;

#[tokio::test]
async fn a_stop_under_traffic_loses_and_doubles_nothing() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, chat, portal) = alice_in(world, ROOM, &["alice", "bob"]).await?;
            let mut expected = Vec::new();
            for round in 0..2 {
                // Answers come late, so that the stop finds calls under way.
                let slow = Matcher::new("POST", "chatMessages");
                world.gitter.fail_next(1000, slow, Fault::SlowMs(300));
                for n in 0..MESSAGES {
                    let text = format!("{round}.{n}");
                    alice.send_text(&portal, &text).await?;
                    say(world, "bob", ROOM, &text);
                    expected.push(text);
                    if n == MESSAGES / 2 {
                        let before = tokio::time::Instant::now();
                        let ended = world.bridge.terminate().await?;
                        ensure!(ended.success(), "SIGTERM is a normal end: {ended}");
                        let took = before.elapsed();
                        ensure!(took < Duration::from_secs(20), "stopped after {took:?}");
                    }
                }
                world.gitter.clear_faults();
                world.bridge.start_again()?;
                world.bridge.wait_ready().await?;
                let last = expected.last().cloned().unwrap_or_default();
                on_gitter(world, ROOM, "alice", &last).await?;
                alice.wait_for_text(&portal, &last).await?;
            }
            settled(world, &alice, &chat).await?;
            assert_eq!(texts_on_gitter(world, ROOM, "alice"), expected);
            assert_eq!(texts_by(&alice, &portal, &world.ghost("bob")).await?, expected);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_second_signal_ends_the_bridge_at_once() -> Result<()> {
    world()
        .story(async |world| {
            // A request that never ends keeps the bridge from stopping by itself.
            let address = world.bridge.url().replace("http://", "");
            let mut held = tokio::net::TcpStream::connect(&address).await?;
            let token = &world.bridge.config.registration.homeserver_token;
            let head = format!(
                "PUT /_matrix/app/v1/transactions/held HTTP/1.1\r\nHost: {address}\r\n\
                 Authorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\n{{"
            );
            tokio::io::AsyncWriteExt::write_all(&mut held, head.as_bytes()).await?;
            // It is on its way once another request has been answered.
            world.bridge.metrics().await?;
            for (signal, said) in [("-TERM", "stopping"), ("-INT", "second signal")] {
                let id = world.bridge.process().id().to_string();
                let sent = tokio::process::Command::new("kill").args([signal, &id]).status();
                ensure!(sent.await?.success(), "kill can be run");
                crate::scene::logged(world, said).await?;
            }
            let before = tokio::time::Instant::now();
            let ended = world.bridge.ended(Duration::from_secs(5)).await?;
            assert_eq!(ended.code(), Some(130), "after {:?}", before.elapsed());
            world.bridge.start_again()?;
            world.bridge.wait_ready().await
        })
        .await
}
