//! A conversation with everything people write in it, photographed on both sides: `cargo xtask screenshots`.
//!
//! Called as `scene HYDROGEN OUT CHROMIUM`: the directory of the built web client, that of the pictures, and the browser.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use gitter_sim::RoomSpec;
use harness::{Person, Transcript, World, WorldConfig};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const PASSWORD: &str = "wonderland";
const ROCKETS: &str = "acme/rockets";
const TEA: &str = "acme/tea";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe scene did not come to its end: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where the pictures are made.
struct Studio {
    hydrogen: PathBuf,
    out: PathBuf,
    chromium: String,
}

impl Studio {
    /// Lets the browser walk; `task` says which way.
    async fn walk(&self, mut task: Value) -> Result<()> {
        task["chromium"] = self.chromium.as_str().into();
        task["out"] = self.out.display().to_string().into();
        task["app"] = self.hydrogen.join("dist").display().to_string().into();
        let mut node = Command::new("node")
            .arg(self.hydrogen.join("walk.js"))
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting node")?;
        let mut stdin = node.stdin.take().context("node has no input")?;
        stdin.write_all(task.to_string().as_bytes()).await?;
        drop(stdin);
        let ended = node.wait().await?;
        ensure!(ended.success(), "the walk {} ended with {ended}", task["walk"]);
        Ok(())
    }
}

async fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("usage: scene HYDROGEN OUT CHROMIUM");
    let studio = Studio { hydrogen: next()?.into(), out: next()?.into(), chromium: next()? };
    let here = std::env::current_exe()?;
    let debug = here.parent().context("this program is in no directory")?;
    let target = debug.parent().context("not in cargo's target directory")?;
    let binary = debug.join(format!("matrix-gitter{}", std::env::consts::EXE_SUFFIX));
    let mut config = WorldConfig::new(binary, target).own_synapse(|_| {});
    config.transcript = Transcript::printed();
    let world = World::start(config).await?.context("no Synapse on this machine, see above")?;
    let told = tell(&world, &studio).await;
    if told.is_err() {
        eprintln!("\n── the bridge's log ends ──\n{}", world.bridge.log_tail(60));
    }
    told
}

async fn tell(world: &World, studio: &Studio) -> Result<()> {
    let (gitter, log) = (&world.gitter, &world.transcript);
    for (user, name) in [("alice", "Alice Liddell"), ("bob", "Bob Builder"), ("carol", "Carol")] {
        gitter.add_user(user, name);
    }
    for (uri, topic) in [(ROCKETS, "Up, and sometimes down"), (TEA, "It is always tea-time")] {
        gitter.add_room(RoomSpec { topic: topic.to_owned(), ..RoomSpec::public(uri) });
    }
    for (user, room) in [("alice", ROCKETS), ("bob", ROCKETS), ("carol", ROCKETS), ("carol", TEA)] {
        gitter.join(room, user);
    }
    let alice = world.synapse.register_user("alice", PASSWORD, log).await?;
    let chat = world.start_chat(&alice).await?;
    let link = alice.last_link_in(&chat).await?;
    let home = world.bridge.login_url();
    studio
        .walk(json!({"walk": "login", "home": home, "link": link, "gitterUser": "alice"}))
        .await?;
    alice.wait_for_text(&chat, "@alice").await?;
    let portal = alice.accept_invite(ROCKETS).await?;

    for (words, part) in
        [("list", ROCKETS), ("gjon acme/tea", "gjoin"), ("why acme/rockets", "acme")]
    {
        world.ask_until(&alice, &chat, words, part).await?;
    }
    alice.send_text(&chat, &format!("gjoin {TEA}")).await?;
    let tea = alice.accept_invite(TEA).await?;
    world.ask_until(&alice, &chat, "status", "Alice").await?;
    alice.leave(&tea).await?;
    alice.wait_for_text(&chat, "You left").await.ok();
    world.ask_until(&alice, &chat, "gjoin acme/nowhere", "acme/nowhere").await?;

    from_gitter(world, &alice, &portal).await?;
    let last = from_matrix(world, &alice, &portal).await?;

    let rooms = json!([
        {"name": "control-room", "id": chat, "from": "You are logged in", "until": "acme/nowhere", "tall": 2600},
        {"name": "portal", "id": portal, "from": "Morning!", "until": last, "tall": 2400},
    ]);
    studio
        .walk(json!({
            "walk": "client", "homeserver": world.synapse.url, "user": "alice",
            "password": PASSWORD, "rooms": rooms,
        }))
        .await?;
    let web = world.gitter_server.as_ref().context("Gitter is away")?.web_url();
    studio.walk(json!({"walk": "gitter", "web": web, "until": last, "tall": 2000})).await
}

/// What people on Gitter say.
async fn from_gitter(world: &World, alice: &Person, portal: &str) -> Result<()> {
    let said = [
        (
            "bob",
            "Morning! The engine test is **on** for _today_ — see <https://example.org/plan>, ~~Friday~~ :airplane:",
        ),
        (
            "bob",
            "@alice could you look at this? It `panic`s at T-3:\n\n```rust\nfn ignite(fuel: Option<Fuel>) {\n    let fuel = fuel.expect(\"fuel\"); // <- here\n    fuel.burn();\n}\n```",
        ),
        (
            "carol",
            "## Checklist\n\n1. valves\n   - upper\n   - lower\n2. telemetry\n\n- [x] weather\n- [ ] range clear",
        ),
        (
            "carol",
            "> It must not get warm.\n\nIt won't.\n\n| tank | °C |\n|:-----|---:|\n| fuel | -183 |\n| spare | -180 |",
        ),
        (
            "bob",
            "![plume](https://example.org/plume.png) and $$v_e \\ln\\frac{m_0}{m_f}$$, as 1 < 2 & 2*3*4 said",
        ),
    ];
    for (who, text) in said {
        world.gitter.post(who, ROCKETS, text);
    }
    alice.wait_for_text(portal, "plume").await?;
    world.gitter.post_as_status("bob", ROCKETS, "fetches his goggles");
    alice.wait_for_text(portal, "goggles").await?;
    let typo = world.gitter.post("carol", ROCKETS, "Lunhc first?");
    let event = alice.wait_for_text(portal, "Lunhc").await?;
    world.gitter.edit(ROCKETS, &typo, "Lunch first?");
    alice
        .wait_in(portal, "the correction", |room| {
            (room.text_now(&event.id) == Some("Lunch first?")).then_some(())
        })
        .await?;
    world.gitter.reply("bob", ROCKETS, &typo, "After the test. (in the thread)");
    alice.wait_for_text(portal, "in the thread").await?;
    let gone = world.gitter.post("carol", ROCKETS, "never mind");
    let event = alice.wait_for_text(portal, "never mind").await?;
    world.gitter.delete(ROCKETS, &gone);
    alice
        .wait_in(portal, "the deletion", |room| room.text_now(&event.id).is_none().then_some(()))
        .await
}

/// What Alice says in her Matrix client; returns the last words, which come back from Gitter.
async fn from_matrix(world: &World, alice: &Person, portal: &str) -> Result<&'static str> {
    let bob = world.ghost("bob");
    let pill = format!("<a href=\"https://matrix.to/#/{bob}\">Bob Builder</a>");
    let question = alice.wait_for_text(portal, "could you look").await?;
    alice.reply(portal, &question.id, "It wants a match on the option.").await?;
    on_gitter(world, "It wants a match").await?;
    let html = format!(
        "<p>{pill}: <strong>try</strong> <em>this</em> <del>never</del>:</p><pre><code class=\"language-rust\">\
         let Some(fuel) = fuel else {{\n    return Err(Empty);\n}};\n</code></pre><ul><li>no panic</li><li>and \
         <code>T-3</code> is <a href=\"https://example.org/t3\">safe</a></li></ul><blockquote><p>It must not get \
         warm.</p></blockquote><table><thead><tr><th>tank</th><th>ok</th></tr></thead><tbody><tr><td>fuel</td><td>yes</td>\
         </tr></tbody></table>"
    );
    let body = "Bob Builder: **try** _this_ …";
    alice.send_html(portal, body, &html).await?;
    on_gitter(world, "no panic").await?;
    alice
        .send_message(portal, &json!({"msgtype": "m.emote", "body": "crosses her fingers"}))
        .await?;
    on_gitter(world, "@alice crosses her fingers").await?;
    let first =
        alice.send_text(portal, "Redy? 1 * 2 * 3 isn't *bold*, C:\\new_dir is no link").await?;
    on_gitter(world, "Redy?").await?;
    alice.edit(portal, &first, "Ready? 1 * 2 * 3 isn't *bold*, C:\\new_dir is no link").await?;
    on_gitter(world, "Ready?").await?;
    let place = json!({"msgtype": "m.location", "body": "The pad", "geo_uri": "geo:28.6,-80.6"});
    alice.send_message(portal, &place).await?;
    alice.wait_for_text(portal, "ocation").await.ok();
    let last = "Three, two, one";
    world.gitter.post("bob", ROCKETS, last);
    alice.wait_for_text(portal, last).await?;
    Ok(last)
}

/// Waits until a message with `part` in it is in the room on Gitter, once.
async fn on_gitter(world: &World, part: &str) -> Result<()> {
    let said = || world.gitter.messages(ROCKETS).iter().filter(|m| m.text.contains(part)).count();
    world.on_gitter(part, |_| (said() > 0).then_some(())).await?;
    if said() > 1 {
        bail!("“{part}” arrived twice");
    }
    Ok(())
}
