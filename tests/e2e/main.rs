//! Stories: what people live through with the bridge, on a real Synapse, with the real daemon and a simulated Gitter.
//!
//! One Synapse serves all stories of a run; each story has a daemon, a Gitter and an appservice registration of its own
//! (`@gitter1`, `@gitter2`, …), so stories run side by side and may kill what is theirs. A story that stops the
//! homeserver asks for its own. A failed story prints a transcript of all that happened and the ends of the logs;
//! `STORY_KEEP=1` keeps the directories with databases and logs, `STORY_PATIENCE=10` makes waits end after 10 s;
//! `STORY_TELL=1` with `--nocapture` shows what people saw in good stories too.

mod admin;
mod amend;
mod calm;
mod commands;
mod control_room;
mod elsewhere;
mod fates;
mod files;
mod first_contact;
mod history;
mod kill;
mod leaving;
mod outages;
mod people;
mod pictures;
mod put_back;
mod recovery;
mod renames;
mod scene;
mod session;
mod settings;
mod sharing;
mod stopping;
mod talking;
mod torture;
mod upgrades;

use std::path::Path;

use harness::WorldConfig;

/// The world of most stories: a shared homeserver, default settings.
fn world() -> WorldConfig {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = tmp.parent().expect("cargo's directory for tests is inside its target directory");
    WorldConfig::new(env!("CARGO_BIN_EXE_matrix-gitter"), target)
}
