//! Everything around the bridge breaks, again and again; `cargo xtask torture` does it for longer.

use anyhow::{Context, Result, ensure};
use harness::storm::{Disk, Storm};

use crate::world;

#[tokio::test]
async fn a_bridge_in_a_bad_world_loses_and_doubles_nothing() -> Result<()> {
    let disk = Disk::mount().inspect_err(|error| eprintln!("no full disk here: {error:#}")).ok();
    let mut config = world();
    if let Some(disk) = &disk {
        config = config.setting("database_path", &disk.database().display().to_string());
    }
    config
        .ways()
        .setting("gitter_requests_per_minute", "100000")
        .setting("history_messages", "0")
        .setting("reconcile_interval", "30s")
        .gitter(|gitter| gitter.rate_limit = Some(100_000))
        .story(async |world| {
            let seed = std::env::var("STORY_SEED").ok().and_then(|seed| seed.parse().ok());
            let storm =
                Storm { seed: seed.unwrap_or(1), kills: 4, hurts: 12, recovery: true, disk };
            let report = storm.rage(world).await.with_context(|| format!("seed {}", storm.seed))?;
            ensure!(report.is_clean(), "seed {}: {}", storm.seed, report.complaints.join("\n"));
            Ok(())
        })
        .await
}
