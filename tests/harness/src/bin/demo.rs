//! The bridge at work, told as a story: `cargo xtask demo [--once]`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use gitter_sim::RoomSpec;
use harness::{Consent, Person, Transcript, World, WorldConfig};

#[tokio::main]
async fn main() -> ExitCode {
    let once = std::env::args().skip(1).any(|argument| argument == "--once");
    match run(once).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo did not come to its end: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(once: bool) -> Result<()> {
    let mut config = config()?;
    config.transcript = Transcript::printed();
    println!("Starting Synapse, a simulated Gitter and the bridge on free ports of 127.0.0.1");
    let stop = tokio::signal::ctrl_c();
    tokio::pin!(stop);
    let mut world = tokio::select! {
        _ = &mut stop => return Ok(()),
        world = World::start(config) => world?.context("no Synapse on this machine, see above")?,
    };
    let alice = tokio::select! {
        _ = &mut stop => return Ok(()),
        told = tell(&world) => match told {
            Ok(alice) => alice,
            Err(error) => {
                eprintln!("\n── the bridge's log ends ──\n{}", world.bridge.log_tail(60));
                return Err(error);
            }
        },
    };
    let took = world.transcript.elapsed().as_secs_f64();
    println!("\nThe whole story came true in {took:.1} s.");
    if !once {
        invitation(&world, &alice);
        stop.await?;
        println!("\nStopping");
    }
    drop(alice);
    let ended = world.bridge.terminate().await?;
    ensure!(ended.success(), "the bridge ended with {ended}");
    Ok(())
}

/// The daemon is built beside this program.
fn config() -> Result<WorldConfig> {
    let here = std::env::current_exe()?;
    let debug = here.parent().context("this program is in no directory")?;
    let target = debug.parent().context("not in cargo's target directory")?;
    let binary: PathBuf = debug.join(format!("matrix-gitter{}", std::env::consts::EXE_SUFFIX));
    ensure!(binary.exists(), "{} is not built: use `cargo xtask demo`", binary.display());
    Ok(WorldConfig::new(binary, target).own_synapse(|_| {}))
}

/// How to play on.
fn invitation(world: &World, alice: &Person) {
    println!(
        "
Now it is your turn.

  Matrix   homeserver {hs}
           user       {user}, password {PASSWORD}
           bot        {bot}   (say “login” to come back to Gitter)
  Gitter   {gitter}   read any room, write as anybody
  Login    {login}
  Logs     {logs}

For example with a terminal client:  gomuks, or any web client that lets you name a homeserver.
Ctrl-C ends all of it.",
        hs = world.synapse.url,
        user = alice.id,
        bot = world.bridge.bot(),
        gitter =
            world.gitter_server.as_ref().map_or_else(String::new, gitter_sim::GitterSim::web_url),
        login = world.bridge.login_url(),
        logs = world.bridge.dir().display(),
    );
}

const PASSWORD: &str = "wonderland";
const ROCKETS: &str = "acme/rockets";
const TEA: &str = "acme/tea";

/// The whole story; every step is awaited as the people in it would see it.
async fn tell(world: &World) -> Result<Person> {
    let (gitter, log) = (&world.gitter, &world.transcript);

    log.heading("Gitter has two rooms; Alice and Bob are in one of them");
    gitter.add_user("alice", "Alice Liddell");
    gitter.add_user("bob", "Bob Builder");
    gitter.add_user("carol", "Carol");
    for (uri, topic) in [(ROCKETS, "Up, and sometimes down"), (TEA, "It is always tea-time")] {
        gitter.add_room(RoomSpec { topic: topic.to_owned(), ..RoomSpec::public(uri) });
    }
    for (user, room) in [("alice", ROCKETS), ("bob", ROCKETS), ("carol", TEA)] {
        gitter.join(room, user);
        log.line(&format!("Gitter {room}"), user, "is a member");
    }

    log.heading("Alice opens her Matrix client and starts a chat with the bot");
    let alice = world.synapse.register_user("alice", PASSWORD, log).await?;
    let chat = world.start_chat(&alice).await?;

    log.heading("She follows the link and allows the bridge on Gitter");
    let page = world.follow_login(&alice, &chat, "alice", Consent::Approve).await?;
    ensure!(page.status == 200, "logging in ended with {}: {}", page.status, page.text());
    alice.wait_for_text(&chat, "@alice").await?;

    log.heading("Her Gitter room becomes a Matrix room");
    let portal = alice.accept_invite(ROCKETS).await?;
    let (bob, carol) = (world.ghost("bob"), world.ghost("carol"));
    alice.wait_in(&portal, "Bob's ghost", |room| room.has(&bob).then_some(())).await?;

    log.heading("They talk");
    alice.send_text(&portal, "Is the fuel here yet?").await?;
    wait_on_gitter(world, ROCKETS, "alice", "Is the fuel here yet?").await?;
    say(world, "bob", ROCKETS, "Tomorrow. It **must** not get warm.");
    let answer = alice.wait_for_text(&portal, "Tomorrow").await?;
    ensure!(answer.sender == bob, "Bob's words came from {}", answer.sender);
    alice.send_html(&portal, "How *cold*?", "How <em>cold</em>?").await?;
    wait_on_gitter(world, ROCKETS, "alice", "How _cold_?").await?;

    log.heading("Somebody new speaks on Gitter");
    gitter.join(ROCKETS, "carol");
    say(world, "carol", ROCKETS, "Hello from the tea room!");
    let hello = alice.wait_for_text(&portal, "Hello from the tea room!").await?;
    ensure!(hello.sender == carol, "Carol's words came from {}", hello.sender);

    log.heading("She asks for her rooms, and joins another");
    world.ask_until(&alice, &chat, "list", ROCKETS).await?;
    alice.send_text(&chat, &format!("gjoin {TEA}")).await?;
    let tea_portal = alice.accept_invite(TEA).await?;
    world
        .on_gitter("Alice in the tea room", |gitter| is_member(gitter, "alice", TEA).then_some(()))
        .await?;
    say(world, "carol", TEA, "Have some wine.");
    alice.wait_for_text(&tea_portal, "Have some wine.").await?;

    log.heading("She leaves a portal; on Gitter she stays");
    alice.leave(&portal).await?;
    world.ask_until(&alice, &chat, "status", "alice").await?;
    ensure!(is_member(gitter, "alice", ROCKETS), "leaving the portal left the Gitter room");

    log.heading("She wants it back");
    alice.send_text(&chat, &format!("invite {ROCKETS}")).await?;
    let portal = alice.accept_invite(ROCKETS).await?;
    say(world, "bob", ROCKETS, "Welcome back!");
    alice.wait_for_text(&portal, "Welcome back!").await?;

    log.heading("She leaves the tea room for good, on Gitter too");
    alice.send_text(&chat, &format!("gpart {TEA}")).await?;
    wait_removed(&alice, &tea_portal).await?;
    world
        .on_gitter("Alice gone from the tea room", |gitter| {
            (!is_member(gitter, "alice", TEA)).then_some(())
        })
        .await?;
    alice.wait_for_text(&chat, &format!("You are no longer in {TEA}")).await?;

    log.heading("She logs out");
    alice.send_text(&chat, "logout").await?;
    wait_removed(&alice, &portal).await?;
    alice.wait_for_text(&chat, "You are logged out").await?;
    ensure!(is_member(gitter, "alice", ROCKETS), "logging out left the Gitter room");
    Ok(alice)
}

async fn wait_removed(person: &Person, room: &str) -> Result<()> {
    let gone = |view: &harness::View| view.joined_room(room).is_none().then_some(());
    person.wait_for("the portal closed", gone).await
}

fn say(world: &World, who: &str, room: &str, text: &str) {
    world.transcript.line(&format!("Gitter {room}"), who, &format!("says: {text}"));
    world.gitter.post(who, room, text);
}

fn is_member(gitter: &gitter_sim::World, user: &str, room: &str) -> bool {
    gitter.members(room).iter().any(|member| member == user)
}

/// Waits until `who` has said `text` in a room on Gitter, once.
async fn wait_on_gitter(world: &World, room: &str, who: &str, text: &str) -> Result<()> {
    let said = || {
        let messages = world.gitter.messages(room);
        messages.iter().filter(|message| message.from == who && message.text == text).count()
    };
    world.on_gitter(text, |_| (said() > 0).then_some(())).await?;
    world.transcript.line(&format!("Gitter {room}"), who, &format!("says: {text}"));
    if said() > 1 {
        bail!("“{text}” arrived twice");
    }
    Ok(())
}
