//! Files that people send on Matrix, seen from Gitter by somebody who has no account on Matrix.

use anyhow::{Context as _, Result};
use gitter_sim::SimMessage;
use harness::{Person, World, patience};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::scene::alice_in;
use crate::world;

const ROOM: &str = "acme/rockets";
/// The smallest picture there is, with some weight behind it.
const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n0123456789abcdefghijklmnopqrstuvwxyz";

/// Alice with a portal.
async fn rockets(world: &World) -> Result<(Person, String)> {
    let (alice, _, portal) = alice_in(world, ROOM, &["alice"]).await?;
    Ok((alice, portal))
}

/// Sends a file, its content completed with the file's address; returns the event's id.
async fn send(
    alice: &Person,
    portal: &str,
    bytes: &[u8],
    kind: &str,
    content: &Value,
) -> Result<String> {
    let name = content["body"].as_str().unwrap_or_default();
    let mut content = content.clone();
    content["url"] = alice.upload(bytes.to_vec(), kind, name).await?.into();
    alice.send_message(portal, &content).await
}

/// The first message on Gitter with `part` in it, and the address it shows.
async fn on_gitter(world: &World, part: &str) -> Result<(SimMessage, String)> {
    let found = |m: &SimMessage| m.text.contains(part);
    let message = world
        .on_gitter(part, |gitter| gitter.messages(ROOM).into_iter().find(|m| found(m)))
        .await?;
    let (_, rest) = message.text.split_once("](").context("no link in the message")?;
    let (url, _) = rest.split_once(')').context("a link without an end")?;
    let url = url.to_owned();
    assert!(url.starts_with(&format!("{}/media/", world.bridge.login_url())), "{url}");
    Ok((message, url))
}

/// Somebody without any cookie, token or patience for redirects.
async fn fetch(url: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    let client = client.redirect(reqwest::redirect::Policy::none()).build()?;
    let mut request = client.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.send().await?)
}

/// Waits until an address answers with this status.
async fn becomes(url: &str, status: StatusCode) -> Result<()> {
    let asked = async {
        let mut again = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            again.tick().await;
            if fetch(url, &[]).await?.status() == status {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(patience(), asked).await.with_context(|| format!("never {status}"))?
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_picture_and_a_file_are_seen_on_gitter_until_their_messages_are_deleted() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let picture = json!({"msgtype": "m.image", "body": "Look *here*!",
                "filename": "my cat.png", "info": {"size": PICTURE.len()}});
            let event = send(&alice, &portal, PICTURE, "image/png", &picture).await?;
            let (message, url) = on_gitter(world, "![my cat.png](").await?;
            assert!(message.text.ends_with(")\n\nLook *here*!"), "{}", message.text);

            let whole = fetch(&url, &[]).await?;
            assert_eq!(whole.status(), StatusCode::OK);
            assert_eq!(header(&whole, "content-type"), "image/png");
            assert!(header(&whole, "content-disposition").starts_with("inline; "));
            assert!(header(&whole, "content-security-policy").starts_with("sandbox;"));
            assert_eq!(header(&whole, "content-length"), PICTURE.len().to_string());
            assert_eq!(whole.bytes().await?, PICTURE);
            let part = fetch(&url, &[("range", "bytes=8-17")]).await?;
            assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
            assert_eq!(header(&part, "content-range"), format!("bytes 8-17/{}", PICTURE.len()));
            assert_eq!(part.bytes().await?, &b"0123456789"[..]);
            let beyond = fetch(&url, &[("range", "bytes=1000-")]).await?;
            assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);

            let page = b"<script>alert(1)</script>";
            let file = json!({"msgtype": "m.file", "body": "page.html", "info": {"size": 25}});
            send(&alice, &portal, page, "text/html", &file).await?;
            let (message, file) = on_gitter(world, "[page.html](").await?;
            assert!(message.text.ends_with(") (25 bytes)"), "{}", message.text);
            let whole = fetch(&file, &[]).await?;
            assert_eq!(whole.status(), StatusCode::OK);
            assert_eq!(header(&whole, "content-type"), "application/octet-stream");
            assert!(header(&whole, "content-disposition").starts_with("attachment; "));
            assert_eq!(whole.bytes().await?, &page[..]);

            let other = url.replace("my%20cat", "his%20cat");
            assert_ne!(other, url);
            assert_eq!(fetch(&other, &[]).await?.status(), StatusCode::NOT_FOUND);
            let crossed = format!("{}/page.html", url.rsplit_once('/').context("a name")?.0);
            assert_eq!(fetch(&crossed, &[]).await?.status(), StatusCode::NOT_FOUND);

            alice.redact(&portal, &event).await?;
            becomes(&url, StatusCode::GONE).await?;
            world
                .on_gitter("the deletion", |gitter| {
                    let left = gitter.messages(ROOM);
                    left.iter().all(|m| !m.text.contains("cat.png")).then_some(())
                })
                .await?;
            world.bridge.restart().await?;
            assert_eq!(fetch(&url, &[]).await?.status(), StatusCode::GONE, "after a restart, too");
            assert_eq!(fetch(&file, &[]).await?.status(), StatusCode::OK, "the other is untouched");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_link_to_a_file_ends_by_itself() -> Result<()> {
    world()
        .setting("media_link_lifetime", "1s")
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let picture = json!({"msgtype": "m.image", "body": "cat.png"});
            send(&alice, &portal, PICTURE, "image/png", &picture).await?;
            let (_, url) = on_gitter(world, "![cat.png](").await?;
            becomes(&url, StatusCode::GONE).await?;
            let page = fetch(&url, &[]).await?.text().await?;
            assert!(page.contains("This link has expired"), "{page}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_file_that_is_too_large_is_not_passed_on() -> Result<()> {
    world()
        .setting("media_max_size", "1kB")
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let large = vec![b'x'; 1001];
            let silent = json!({"msgtype": "m.file", "body": "silent.bin"});
            send(&alice, &portal, &large, "application/octet-stream", &silent).await?;
            let (_, url) = on_gitter(world, "[silent.bin](").await?;
            let refused = fetch(&url, &[]).await?;
            assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);

            let honest = json!({"msgtype": "m.file", "body": "a.bin", "info": {"size": 1001}});
            let event = send(&alice, &portal, &large, "application/octet-stream", &honest).await?;
            let why =
                alice.wait_for_text(&portal, "larger than what this bridge passes on").await?;
            assert_eq!(why.replies_to(), Some(event.as_str()));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn with_the_switch_off_nobody_gets_a_file() -> Result<()> {
    world()
        .setting("media_links", "off")
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let picture = json!({"msgtype": "m.image", "body": "cat.png"});
            let event = send(&alice, &portal, PICTURE, "image/png", &picture).await?;
            let why = alice.wait_for_text(&portal, "files are not passed on").await?;
            assert_eq!(why.replies_to(), Some(event.as_str()));
            let url = format!("{}/media/a.b/cat.png", world.bridge.login_url());
            assert_eq!(fetch(&url, &[]).await?.status(), StatusCode::GONE);
            assert!(world.gitter.messages(ROOM).is_empty());
            Ok(())
        })
        .await
}

#[tokio::test]
async fn places_stickers_polls_and_voices_are_readable_on_gitter() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, portal) = rockets(world).await?;
            let place =
                json!({"msgtype": "m.location", "body": "The pad", "geo_uri": "geo:28.5,-80.6"});
            alice.send_message(&portal, &place).await?;
            let map = "[location: The pad](https://www.openstreetmap.org/?mlat=28.5&mlon=-80.6)";
            let says = |text: &'static str| {
                world.on_gitter(text, move |gitter| {
                    gitter.messages(ROOM).iter().any(|m| m.text == text).then_some(())
                })
            };
            says(map).await?;

            let mxc = alice.upload(PICTURE.to_vec(), "image/png", "wave").await?;
            let sticker = json!({"body": "A cat waves", "url": mxc, "info": {}});
            alice.send_event(&portal, "m.sticker", &sticker).await?;
            let (_, url) = on_gitter(world, "![A cat waves](").await?;
            assert_eq!(fetch(&url, &[]).await?.bytes().await?, PICTURE);

            let text = |text: &str| json!({"m.text": [{"body": text}]});
            let poll = json!({"m.poll": {"question": text("Launch?"),
                "answers": [text("Yes"), text("No")]}});
            alice.send_event(&portal, "m.poll.start", &poll).await?;
            says("**Poll: Launch?**\n\n1. Yes\n2. No\n\n(votes are taken on Matrix only)").await?;

            let voice = json!({"msgtype": "m.audio", "body": "Voice message.ogg",
                "org.matrix.msc3245.voice": {}, "info": {"duration": 65_000}});
            send(&alice, &portal, b"OggS", "audio/ogg", &voice).await?;
            let (message, _) = on_gitter(world, "Voice message: [Voice message.ogg](").await?;
            assert!(message.text.ends_with(") (1:05)"), "{}", message.text);
            Ok(())
        })
        .await
}
