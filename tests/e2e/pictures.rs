//! Pictures that people show on Gitter, seen on Matrix.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result};
use gitter_sim::{Fault, Matcher};
use harness::{Event, Person, World, WorldConfig};

use crate::{scene, world};

const ROOM: &str = "acme/rockets";

/// The head of a picture of 8 times 6 pixels, and some weight behind it.
fn picture(weight: usize) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x08\0\0\0\x06\x08\x02\0\0\0".to_vec();
    bytes.resize(bytes.len() + weight, b'x');
    bytes
}

fn showing() -> WorldConfig {
    world().setting("gitter_images", "upload")
}

/// Alice with a portal, in which Bob is, too.
async fn rockets(world: &World) -> Result<(Person, String)> {
    let (alice, _, portal) = scene::alice_in(world, ROOM, &["alice", "bob"]).await?;
    Ok((alice, portal))
}

/// Waits until Bob's ghost shows nothing any more in the portal.
async fn nothing_left(alice: &Person, world: &World, portal: &str) -> Result<()> {
    let ghost = world.ghost("bob");
    let none = |room: &harness::Room| room.messages_by(&ghost).next().is_none().then_some(());
    alice.wait_in(portal, "nothing left of it", none).await
}

/// What Bob's ghost shows in the portal, as it is now.
fn shown(alice: &Person, world: &World, portal: &str) -> Vec<Event> {
    let ghost = world.ghost("bob");
    alice.look(|view| view.rooms[portal].messages_by(&ghost).cloned().collect())
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(Event::msgtype).collect()
}

/// Waits until Bob's ghost shows so many pictures.
async fn pictures(alice: &Person, world: &World, portal: &str, count: usize) -> Result<Vec<Event>> {
    let ghost = world.ghost("bob");
    alice
        .wait_in(portal, &format!("{count} pictures"), |room| {
            let images = room.messages_by(&ghost).filter(|event| event.msgtype() == "m.image");
            Some(images.cloned().collect::<Vec<_>>()).filter(|images| images.len() == count)
        })
        .await
}

#[tokio::test]
async fn a_picture_is_shown_after_its_words_changed_and_deleted_with_them() -> Result<()> {
    showing()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let cat = world.gitter.add_file("my%20cat.png", "text/plain", &picture(5));
            let dog = world.gitter.add_file("dog.png", "image/png", &picture(7));
            let said = world.gitter.post("bob", ROOM, &format!("look: ![a cat]({cat})"));
            let images = pictures(&alice, world, &portal, 1).await?;
            let all = shown(&alice, world, &portal);
            assert_eq!(kinds(&all), ["m.text", "m.image"]);
            assert!(
                all[0].html().contains(&format!("<a href=\"{cat}\">a cat</a>")),
                "{:?}",
                all[0]
            );
            let content = &images[0].content;
            assert_eq!(content["body"], "a cat");
            assert_eq!(content["filename"], "my cat.png");
            assert_eq!(content["info"]["mimetype"], "image/png", "whatever its server says");
            assert_eq!(
                (content["info"]["w"].as_u64(), content["info"]["h"].as_u64()),
                (Some(8), Some(6))
            );
            assert_eq!(content["info"]["size"], picture(5).len());
            assert!(content["url"].as_str().is_some_and(|url| url.starts_with("mxc://")));

            // Another picture instead of the first one.
            world.gitter.edit(ROOM, &said, &format!("look: ![a dog]({dog})"));
            let first = images[0].id.clone();
            alice
                .wait_in(&portal, "the dog instead of the cat", |room| {
                    let mut images = room.messages().filter(|event| event.msgtype() == "m.image");
                    let dog = images.next().filter(|event| event.body() == "a dog");
                    (dog.is_some() && images.next().is_none()).then_some(())
                })
                .await?;
            let text = shown(&alice, world, &portal)[0].id.clone();
            alice
                .wait_in(&portal, "the new words", |room| {
                    room.text_now(&text).filter(|words| words.contains("a dog")).map(drop)
                })
                .await?;
            assert!(shown(&alice, world, &portal).iter().all(|event| event.id != first));

            // An answer to the picture is one to its message.
            let dog = pictures(&alice, world, &portal, 1).await?.pop().context("the dog")?;
            alice.reply(&portal, &dog.id, "good boy").await?;
            let answer = format!("?at={said}");
            world
                .on_gitter("the answer to the picture", |gitter| {
                    let mut messages = gitter.messages(ROOM).into_iter();
                    messages.find(|m| m.text.contains("good boy") && m.text.contains(&answer))
                })
                .await?;

            world.gitter.delete(ROOM, &said);
            nothing_left(&alice, world, &portal).await
        })
        .await
}

#[tokio::test]
async fn a_message_that_is_only_a_picture_is_only_a_picture() -> Result<()> {
    showing()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let large = world.gitter.add_file("large.png", "image/png", &picture(100));
            let small = world.gitter.add_file("thumb.png", "image/png", &picture(1));
            // As Gitter's own upload writes it: a small one that leads to the large one.
            let said = world.gitter.post("bob", ROOM, &format!("[![large.png]({small})]({large})"));
            let images = pictures(&alice, world, &portal, 1).await?;
            assert_eq!(kinds(&shown(&alice, world, &portal)), ["m.image"]);
            assert_eq!(images[0].content["info"]["size"], picture(100).len());
            assert_eq!(images[0].body(), "large.png");
            world.gitter.edit(ROOM, &said, "never mind");
            alice
                .wait_in(&portal, "words instead", |room| {
                    (room.text_now(&images[0].id) == Some("never mind")).then_some(())
                })
                .await?;
            world.gitter.delete(ROOM, &said);
            nothing_left(&alice, world, &portal).await
        })
        .await
}

#[tokio::test]
async fn what_is_no_picture_too_large_or_leads_inside_stays_a_link() -> Result<()> {
    showing()
        .setting("media_max_size", "1kB")
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            // Something that only this machine can ask.
            let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let secret = format!("http://{}/secret.png", inside.local_addr()?);
            let asked = Arc::new(AtomicUsize::new(0));
            let count = asked.clone();
            let server = tokio::spawn(async move {
                while let Ok((_, _)) = inside.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
            let gitter = &world.gitter;
            let refused = [
                ("direct", secret.clone()),
                ("by redirect", gitter.add_redirect("redirect.png", &secret)),
                ("by name", secret.replace("127.0.0.1", "localhost")),
                ("too large", gitter.add_file("large.png", "image/png", &picture(2000))),
                ("svg", gitter.add_file("x.svg", "image/png", b"<svg onload='alert(1)'/>")),
                ("missing", gitter.add_redirect("missing.png", "/files/nothing.png")),
            ];
            for (what, url) in &refused {
                world.gitter.post("bob", ROOM, &format!("![{what}]({url})"));
            }
            let fine = gitter.add_file("fine.png", "image/png", &picture(5));
            let fine = gitter.add_redirect("moved.png", &fine);
            world.gitter.post("bob", ROOM, &format!("![fine]({fine})"));
            pictures(&alice, world, &portal, 1).await?;
            let all = shown(&alice, world, &portal);
            assert_eq!(all.len(), refused.len() + 1, "{:?}", kinds(&all));
            for ((what, url), event) in refused.iter().zip(&all) {
                assert_eq!(event.msgtype(), "m.text", "{what}");
                assert!(event.html().contains(url), "{what}: {}", event.html());
            }
            assert_eq!(all[refused.len()].body(), "fine");
            assert_eq!(asked.load(Ordering::SeqCst), 0, "nobody may ask what is inside");
            server.abort();
            Ok(())
        })
        .await
}

#[tokio::test]
async fn killed_while_it_fetches_a_picture_the_bridge_shows_words_and_picture_once() -> Result<()> {
    showing()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let cat = world.gitter.add_file("cat.png", "image/png", &picture(5));
            world.gitter.fail_next(1, Matcher::new("GET", "/files/"), Fault::Hang);
            world.gitter.post("bob", ROOM, &format!("look: ![a cat]({cat})"));
            alice.wait_for_text(&portal, "look:").await?;
            world
                .on_gitter("somebody asking for it", |gitter| {
                    (gitter.count_calls("GET", "/files/cat.png") == 1).then_some(())
                })
                .await?;
            world.bridge.kill9()?;
            world.bridge.start_again()?;
            pictures(&alice, world, &portal, 1).await?;
            world.gitter.post("bob", ROOM, "done");
            alice.wait_for_text(&portal, "done").await?;
            let all = scene::messages_by(&alice, &portal, &world.ghost("bob")).await?;
            assert_eq!(kinds(&all), ["m.text", "m.image", "m.text"]);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn without_the_setting_pictures_are_links_and_nobody_fetches_them() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let cat = world.gitter.add_file("cat.png", "image/png", &picture(5));
            world.gitter.post("bob", ROOM, &format!("![a cat]({cat})"));
            world.gitter.post("bob", ROOM, "done");
            alice.wait_for_text(&portal, "done").await?;
            assert_eq!(kinds(&shown(&alice, world, &portal)), ["m.text", "m.text"]);
            assert_eq!(world.gitter.count_calls("GET", "/files/"), 0);
            Ok(())
        })
        .await
}
