//! The database saved, put back, lost, and damaged: messages go on, none is doubled.

use std::fs;

use anyhow::{Result, ensure};
use harness::{Consent, Person, World};

use crate::scene::{
    alice_in, cast, closed, heard, is_only_in, logged, on_gitter, room, say, settled, texts_by,
    texts_on_gitter, told,
};
use crate::world;

const ROOM: &str = "acme/rockets";
const TEA: &str = "acme/tea";

/// Both sides of the room hold exactly these, each once and in order.
async fn all_once(
    world: &World,
    alice: &Person,
    portal: &str,
    mine: &[&str],
    bobs: &[&str],
) -> Result<()> {
    let on_gitter = texts_on_gitter(world, ROOM, "alice");
    ensure!(on_gitter == mine, "on Gitter by alice: {on_gitter:?} instead of {mine:?}");
    let on_matrix = texts_by(alice, portal, &world.ghost("bob")).await?;
    ensure!(on_matrix == bobs, "on Matrix by Bob's ghost: {on_matrix:?} instead of {bobs:?}");
    let own = texts_by(alice, portal, &world.ghost("alice")).await?;
    ensure!(own.is_empty(), "her own words came back to her: {own:?}");
    Ok(())
}

#[tokio::test]
async fn an_older_database_put_back_under_traffic_loses_and_doubles_nothing() -> Result<()> {
    world()
        .story(async |world| {
            cast(world, &["alice", "bob"]);
            for uri in [ROOM, TEA] {
                room(world, uri, &["alice", "bob"]);
            }
            let alice = world.person("alice").await?;
            let chat = world.log_in(&alice, "alice").await?;
            let portal = alice.accept_invite(ROOM).await?;
            let tea = alice.accept_invite(TEA).await?;
            alice.send_text(&portal, "before").await?;
            on_gitter(world, ROOM, "alice", "before").await?;
            say(world, "bob", ROOM, "bob before");
            alice.wait_for_text(&portal, "bob before").await?;
            settled(world, &alice, &chat).await?;

            let backup = world.bridge.dir().join("older.redb");
            let to = backup.display().to_string();
            let (status, said) = world.bridge.run(&["backup", "--to", &to]).await?;
            assert!(status.success(), "{said}");
            assert!(said.contains("older.redb") && said.contains("unique_secret_key"), "{said}");

            // What the older database does not know.
            let words = alice.send_text(&portal, "afterwards").await?;
            on_gitter(world, ROOM, "alice", "afterwards").await?;
            let typo = alice.send_text(&portal, "tpyo").await?;
            on_gitter(world, ROOM, "alice", "tpyo").await?;
            alice.edit(&portal, &typo, "typo").await?;
            on_gitter(world, ROOM, "alice", "typo").await?;
            say(world, "bob", ROOM, "bob afterwards");
            let bobs = alice.wait_for_text(&portal, "bob afterwards").await?;
            alice.reply(&portal, &bobs.id, "an answer").await?;
            world
                .on_gitter("the answer", |gitter| {
                    gitter
                        .messages(ROOM)
                        .iter()
                        .any(|m| m.text.ends_with("an answer"))
                        .then_some(())
                })
                .await?;
            alice.leave(&tea).await?;
            heard(world, &alice, &chat).await?;
            settled(world, &alice, &chat).await?;
            let (status, said) = world.bridge.run(&["restore", &to]).await?;
            assert!(!status.success() && said.contains("stop it first"), "{said}");
            world.bridge.kill9()?;

            alice.send_text(&portal, "while it was away").await?;
            say(world, "bob", ROOM, "bob while it was away");
            let (status, said) = world.bridge.run(&["restore", &to]).await?;
            assert!(status.success(), "{said}");
            assert!(said.contains(".aside-") && said.contains("as of 20"), "{said}");
            world.bridge.start_again()?;
            world.bridge.wait_ready().await?;

            on_gitter(world, ROOM, "alice", "while it was away").await?;
            alice.wait_for_text(&portal, "bob while it was away").await?;
            logged(world, "this database is a backup put in place").await?;
            alice.send_text(&portal, "on we go").await?;
            on_gitter(world, ROOM, "alice", "on we go").await?;
            say(world, "bob", ROOM, "bob on we go");
            alice.wait_for_text(&portal, "bob on we go").await?;
            // What was learned is good for more than not to be repeated.
            alice.redact(&portal, &words).await?;
            world
                .on_gitter("the deletion", |gitter| {
                    gitter.messages(ROOM).iter().all(|m| m.text != "afterwards").then_some(())
                })
                .await?;
            logged(world, "rooms read once more").await?;
            settled(world, &alice, &chat).await?;
            let link = texts_on_gitter(world, ROOM, "alice")[2].clone();
            assert!(link.starts_with("> [bob]") && link.ends_with("an answer"), "{link}");
            let mine = ["before", "typo", &link, "while it was away", "on we go"];
            let bobs = ["bob before", "bob afterwards", "bob while it was away", "bob on we go"];
            all_once(world, &alice, &portal, &mine, &bobs).await?;
            is_only_in(&alice, &[&chat, &portal])?;

            // Nothing of it is learned twice.
            world.bridge.restart().await?;
            say(world, "bob", ROOM, "and again");
            alice.wait_for_text(&portal, "and again").await?;
            settled(world, &alice, &chat).await?;
            let bobs = [&bobs[..], &["and again"]].concat();
            all_once(world, &alice, &portal, &mine, &bobs).await
        })
        .await
}

#[tokio::test]
async fn a_logout_after_the_backup_is_not_undone_by_it() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, chat, portal) = alice_in(world, ROOM, &["alice", "bob"]).await?;
            settled(world, &alice, &chat).await?;
            let backup = world.bridge.dir().join("older.redb").display().to_string();
            world.bridge.terminate().await?;
            let (status, said) = world.bridge.run(&["backup", "--to", &backup]).await?;
            assert!(status.success(), "of a stopped bridge: {said}");
            world.bridge.start_again()?;
            alice.send_text(&chat, "logout").await?;
            closed(&alice, &portal).await?;
            alice.wait_for_text(&chat, "all your Gitter rooms here are closed").await?;
            world.bridge.kill9()?;
            let (status, said) = world.bridge.run(&["restore", &backup]).await?;
            assert!(status.success(), "{said}");
            world.bridge.start_again()?;
            logged(world, "this database is a backup put in place").await?;
            let answer = world.ask_until(&alice, &chat, "status", "Log in here").await?;
            assert!(!answer.body().contains("@alice"), "{}", answer.body());
            is_only_in(&alice, &[&chat])
        })
        .await
}

/// Alice with some talk in her portal, and the bridge's database gone.
async fn loses_its_database(world: &mut World) -> Result<(Person, String, String)> {
    cast(world, &["alice", "bob"]);
    room(world, ROOM, &["alice", "bob"]);
    say(world, "bob", ROOM, "long ago");
    let alice = world.person("alice").await?;
    let chat = world.log_in(&alice, "alice").await?;
    let portal = alice.accept_invite(ROOM).await?;
    for n in 1..=3 {
        alice.send_text(&portal, &format!("mine {n}")).await?;
        on_gitter(world, ROOM, "alice", &format!("mine {n}")).await?;
        say(world, "bob", ROOM, &format!("his {n}"));
        alice.wait_for_text(&portal, &format!("his {n}")).await?;
    }
    settled(world, &alice, &chat).await?;
    world.bridge.kill9()?;
    fs::remove_file(world.bridge.dir().join("database.redb"))?;
    Ok((alice, chat, portal))
}

#[tokio::test]
async fn a_lost_database_is_made_anew_from_the_rooms() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, chat, portal) = loses_its_database(world).await?;
            let (status, said) = world.bridge.run(&["rebuild-from-matrix"]).await?;
            assert!(status.success(), "{said}");
            assert!(said.contains("Found 1 portals and 1 chats"), "{said}");
            let (status, said) = world.bridge.run(&["rebuild-from-matrix"]).await?;
            assert!(!status.success() && said.contains("--replace"), "{said}");
            world.bridge.start_again()?;
            world.bridge.wait_ready().await?;
            alice.wait_for_text(&chat, "your login to Gitter is lost").await?;
            let unheard = alice.send_text(&portal, "unheard").await?;
            let is_answer = |room: &harness::Room| {
                room.notices().find(|n| n.replies_to() == Some(&unheard)).cloned()
            };
            alice.wait_in(&portal, "a word why not", is_answer).await?;
            say(world, "bob", ROOM, "meanwhile");

            let page = world.follow_login(&alice, &chat, "alice", Consent::Approve).await?;
            assert_eq!(page.status, 200, "{}", page.text());
            alice.wait_for_text(&portal, "meanwhile").await?;
            alice.send_text(&portal, "on we go").await?;
            on_gitter(world, ROOM, "alice", "on we go").await?;
            say(world, "bob", ROOM, "indeed");
            alice.wait_for_text(&portal, "indeed").await?;
            settled(world, &alice, &chat).await?;
            is_only_in(&alice, &[&chat, &portal])?;
            let mine = ["mine 1", "mine 2", "mine 3", "on we go"];
            let his = ["long ago", "his 1", "his 2", "his 3", "meanwhile", "indeed"];
            all_once(world, &alice, &portal, &mine, &his).await?;
            assert_eq!(told(&alice, &chat, "your login to Gitter is lost"), 1);
            // An old message can be changed again: the rooms told which one it is.
            let old = texts_by(&alice, &portal, &alice.id).await?;
            assert!(old.iter().any(|text| text == "mine 3"));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_new_database_among_old_rooms_says_so_and_doubles_none() -> Result<()> {
    world()
        .story(async |world| {
            let (alice, _, portal) = loses_its_database(world).await?;
            world.bridge.start_again()?;
            world.bridge.wait_ready().await?;
            logged(world, "was a database lost?").await?;
            let chat = world.log_in(&alice, "alice").await?;
            say(world, "bob", ROOM, "hello again");
            alice.wait_for_text(&portal, "hello again").await?;
            alice.send_text(&portal, "here I am").await?;
            on_gitter(world, ROOM, "alice", "here I am").await?;
            settled(world, &alice, &chat).await?;
            let invites = alice.look(|view| view.invited().count());
            assert_eq!(invites, 0);
            let mine = ["mine 1", "mine 2", "mine 3", "here I am"];
            let his = ["long ago", "his 1", "his 2", "his 3", "hello again"];
            all_once(world, &alice, &portal, &mine, &his).await
        })
        .await
}

#[tokio::test]
async fn a_database_that_cannot_be_used_names_the_way_out() -> Result<()> {
    world()
        .story(async |world| {
            let path = world.bridge.dir().join("database.redb");
            world.bridge.terminate().await?;
            let whole = fs::read(&path)?;
            let runs = async |world: &World, bytes: &[u8]| -> Result<String> {
                fs::write(&path, bytes)?;
                let (status, said) = world.bridge.run(&["run"]).await?;
                ensure!(!status.success(), "it started: {said}");
                ensure!(said.contains("database.redb"), "the file's name is not in: {said}");
                ensure!(!said.contains("panicked"), "{said}");
                Ok(said)
            };
            let half = &whole[..whole.len() / 2];
            let said = runs(world, half).await?;
            assert!(said.contains("is damaged"), "{said}");
            assert!(said.contains("rebuild-from-matrix --replace"), "no backup yet: {said}");
            fs::write(&path, &whole)?;
            let (status, said) = world.bridge.run(&["backup"]).await?;
            assert!(status.success(), "{said}");
            for (bytes, what) in
                [(half, "is damaged"), (b"no database", "is no database"), (b"", "is empty")]
            {
                let said = runs(world, bytes).await?;
                assert!(said.contains(what), "{what}: {said}");
                let command = said.split("run: matrix-gitter restore ").nth(1);
                let file = command.and_then(|rest| rest.split([' ', ':', '\n']).next());
                let file = file.unwrap_or_else(|| panic!("no command in: {said}")).to_owned();
                let (status, said) = world.bridge.run(&["restore", &file]).await?;
                assert!(status.success(), "{said}");
                let aside = fs::read_dir(world.bridge.dir())?.filter_map(Result::ok);
                let aside = aside.filter(|f| f.file_name().to_string_lossy().contains(".aside-"));
                for file in aside {
                    assert_eq!(fs::read(file.path())?, bytes, "kept as it was");
                    fs::remove_file(file.path())?;
                }
            }
            world.bridge.start_again()?;
            world.bridge.wait_ready().await
        })
        .await
}
