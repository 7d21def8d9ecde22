//! The worst that can become of a database: an older one in its place, or none.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::Life;
use crate::{Consent, Daemon, World};

/// Messages that an older database does not know of.
const FORGOTTEN: u32 = 40;

impl Life<'_> {
    /// A backup is put in place of a database that has seen more, with the bridge killed in between.
    pub(super) async fn older_database(&mut self, world: &mut World) -> Result<()> {
        let backup = world.bridge.dir().join("older.redb").display().to_string();
        run(&world.bridge, &["backup", "--to", &backup]).await?;
        self.talk().await?;
        self.last_words("before the database is an older one").await?;
        self.kill_and_be_heard(&mut world.bridge).await?;
        world.bridge.kill9()?;
        self.talk().await?;
        run(&world.bridge, &["restore", &backup]).await?;
        world.bridge.start_again()?;
        world.bridge.wait_ready().await?;
        self.last_words("after the database became an older one").await
    }

    /// The database is gone, and made anew from the rooms; everybody logs in once more.
    pub(super) async fn lost_database(&mut self, world: &mut World) -> Result<()> {
        self.talk().await?;
        self.last_words("before the database is lost").await?;
        self.kill_and_be_heard(&mut world.bridge).await?;
        world.bridge.kill9()?;
        let database = world.bridge.database();
        fs::remove_file(&database).with_context(|| database.display().to_string())?;
        run(&world.bridge, &["rebuild-from-matrix"]).await?;
        world.bridge.start_again()?;
        world.bridge.wait_ready().await?;
        for (who, name) in self.names.into_iter().enumerate() {
            let (person, chat) = (&self.people[who], &self.chats[who]);
            person.wait_for_text(chat, "your login to Gitter is lost").await?;
            let page = world.follow_login(person, chat, name, Consent::Approve).await?;
            ensure!(page.status == 200, "logging in ended with {}: {}", page.status, page.text());
        }
        // Nobody knows any more that somebody had left a portal and not its room: a login opens it again.
        for pair in self.pairs.iter_mut().filter(|pair| pair.member && !pair.portal) {
            (pair.portal, pair.opened) = (true, pair.opened + 1);
        }
        self.come_to_rest().await?;
        self.talk().await?;
        self.last_words("after the database was lost").await
    }

    /// People talk for a while, and do nothing else.
    async fn talk(&mut self) -> Result<()> {
        for _ in 0..FORGOTTEN / 2 {
            self.speak_on_matrix().await?;
            self.speak_on_gitter();
        }
        Ok(())
    }
}

/// Runs a command of the bridge, which has to end well.
async fn run(bridge: &Daemon, arguments: &[&str]) -> Result<()> {
    let (status, said) = bridge.run(arguments).await?;
    ensure!(status.success(), "{arguments:?} ended with {status}: {said}");
    Ok(())
}
