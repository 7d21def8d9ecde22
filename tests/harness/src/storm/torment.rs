//! What is done to the servers while people live their lives.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::{Gate, Report, Storm};
use crate::proxy::{Hurt, Proxy};
use crate::{Daemon, Homeserver, Transcript, World};

/// Something to do to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Torment {
    /// `kill -9` of the bridge.
    Kill,
    /// `SIGTERM`: it stops in good order.
    Stop,
    /// It gets no time for a while.
    Freeze,
    /// It may open no more files or connections.
    Descriptors,
    /// The disk with its database is full.
    DiskFull,
    /// The way from the bridge to the homeserver, from there to the bridge, from the bridge to Gitter.
    ToHomeserver,
    FromHomeserver,
    ToGitter,
    /// `kill -9` of the homeserver.
    HomeserverKilled,
    /// Nobody is at Gitter's port.
    GitterAway,
    /// Gitter's clock goes forward: it and the bridge disagree on the time from then on.
    GitterClock,
}

impl Torment {
    const HURTS: [Self; 10] = [
        Self::Stop,
        Self::Freeze,
        Self::Descriptors,
        Self::DiskFull,
        Self::ToHomeserver,
        Self::FromHomeserver,
        Self::ToGitter,
        Self::HomeserverKilled,
        Self::GitterAway,
        Self::GitterClock,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "bridge killed",
            Self::Stop => "bridge stopped",
            Self::Freeze => "bridge frozen",
            Self::Descriptors => "descriptors exhausted",
            Self::DiskFull => "disk full",
            Self::ToHomeserver => "way to the homeserver hurt",
            Self::FromHomeserver => "way from the homeserver hurt",
            Self::ToGitter => "way to Gitter hurt",
            Self::HomeserverKilled => "homeserver killed",
            Self::GitterAway => "Gitter away",
            Self::GitterClock => "Gitter's clock ahead",
        }
    }

    /// Why a world can't have it.
    fn missing(self, world: &World, storm: &Storm) -> Option<&'static str> {
        match self {
            Self::ToHomeserver | Self::FromHomeserver | Self::ToGitter => {
                world.ways.is_none().then_some("the ways of this world can't be hurt")
            }
            Self::HomeserverKilled => matches!(world.synapse, Homeserver::Shared(_))
                .then_some("the homeserver is not the world's own"),
            Self::DiskFull => storm.disk.is_none().then_some("no disk to fill"),
            _ => None,
        }
    }
}

/// Does all that the storm wants done, with pauses, and lifts it again.
pub(super) async fn torment(
    world: &mut World,
    storm: &Storm,
    gate: &Gate,
    transcript: &Transcript,
) -> Result<Report> {
    let mut rng = StdRng::seed_from_u64(storm.seed ^ 0xdead);
    let mut report = Report::default();
    let mut possible = Vec::new();
    for torment in Torment::HURTS {
        match torment.missing(world, storm) {
            None => possible.push(torment),
            Some(why) if storm.hurts > 0 => {
                report.skipped.insert(format!("{}: {why}", torment.name()));
            }
            Some(_) => {}
        }
    }
    let (mut kills, mut hurts) = (storm.kills, storm.hurts);
    while kills + hurts > 0 {
        // Sometimes while it is still starting, sometimes while it catches up, sometimes in the middle of life.
        let lives = match rng.random_range(0..4) {
            0 => rng.random_range(0..300),
            1 => rng.random_range(300..1_000),
            _ => rng.random_range(1_000..5_000),
        };
        sleep(Duration::from_millis(lives)).await;
        ensure!(
            world.bridge.process_status()?.is_none(),
            "the bridge ended by itself; its log ends:\n{}",
            world.bridge.log_tail(40)
        );
        let torment = if rng.random_range(0..kills + hurts) < kills {
            kills -= 1;
            Torment::Kill
        } else {
            hurts -= 1;
            *possible.choose(&mut rng).context("nothing can be hurt")?
        };
        transcript.line("Storm", torment.name(), &format!("after {lives} ms"));
        if torment == Torment::HomeserverKilled {
            report.homeserver_killed.push(Instant::now());
        }
        *report.torments.entry(torment.name()).or_default() += 1;
        let lasts = Duration::from_millis(rng.random_range(200..4_000));
        inflict(torment, world, storm, gate, lasts, &mut rng)
            .await
            .with_context(|| torment.name())?;
        transcript.line("Storm", torment.name(), "is over");
    }
    // As an init system would, had it died on the last of these.
    revive(&mut world.bridge)?;
    Ok(report)
}

async fn inflict(
    torment: Torment,
    world: &mut World,
    storm: &Storm,
    gate: &Gate,
    lasts: Duration,
    rng: &mut StdRng,
) -> Result<()> {
    match torment {
        Torment::Kill => {
            world.bridge.kill9()?;
            sleep(Duration::from_millis(rng.random_range(0..300))).await;
            world.bridge.start_again()?;
        }
        Torment::Stop => {
            world.bridge.terminate().await?;
            world.bridge.start_again()?;
        }
        Torment::Freeze => {
            world.bridge.process().signal("STOP").await?;
            sleep(lasts).await;
            world.bridge.process().signal("CONT").await?;
        }
        Torment::Descriptors => {
            let limit = descriptors(&world.bridge, None).await?;
            let open = std::fs::read_dir(format!("/proc/{}/fd", world.bridge.process().id()))?;
            let open = open.count() as u64;
            descriptors(&world.bridge, Some(open + rng.random_range(0..3))).await?;
            sleep(lasts).await;
            if world.bridge.process_status()?.is_none() {
                descriptors(&world.bridge, Some(limit)).await?;
            }
            revive(&mut world.bridge)?;
        }
        Torment::DiskFull => {
            let disk = storm.disk.as_ref().context("no disk")?;
            gate.full.set(true);
            disk.fill()?;
            // An init system starts it again and again.
            let pause = Duration::from_millis(500);
            let mut left = lasts;
            while !left.is_zero() {
                sleep(left.min(pause)).await;
                left = left.saturating_sub(pause);
                revive(&mut world.bridge)?;
            }
            disk.free()?;
            // What it met while the disk was full may end it only now.
            while let Err(error) = world.bridge.wait_ready().await {
                ensure!(world.bridge.process_status()?.is_some(), error);
                world.bridge.start_again()?;
            }
            sleep(pause * 4).await; // it notes what has come true
            gate.full.set(false);
        }
        Torment::ToHomeserver | Torment::FromHomeserver | Torment::ToGitter => {
            let ways = world.ways.as_ref().context("no ways")?;
            let way = match torment {
                Torment::ToHomeserver => &ways.to_homeserver,
                Torment::FromHomeserver => &ways.from_homeserver,
                _ => &ways.to_gitter,
            };
            hurt(way, lasts, rng).await;
        }
        Torment::HomeserverKilled => {
            {
                let _busy = gate.busy.lock().await;
                gate.away.set(true);
                world.own_synapse()?.kill()?;
            }
            sleep(lasts).await;
            world.own_synapse()?.restart().await?;
            gate.away.set(false);
        }
        Torment::GitterAway => {
            world.stop_gitter().await;
            sleep(lasts).await;
            world.start_gitter().await?;
        }
        Torment::GitterClock => world.gitter.advance_clock(rng.random_range(1_000..120_000)),
    }
    Ok(())
}

/// Hurts a way in one manner or two.
async fn hurt(way: &Proxy, lasts: Duration, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..3) {
        let how = match rng.random_range(0..6) {
            0 => Hurt::Slow(Duration::from_millis(rng.random_range(20..700))),
            1 => Hurt::Cut,
            2 => Hurt::Half(rng.random_range(0..400)),
            3 => Hurt::Answer([429, 500, 502, 503, 504][rng.random_range(0..5)]),
            4 => Hurt::Half(0),
            _ => Hurt::Blackhole,
        };
        way.hurt(how);
        sleep(lasts / 2).await;
    }
    way.hurt(Hurt::None);
}

/// Starts the bridge again if it has ended.
fn revive(bridge: &mut Daemon) -> Result<()> {
    if bridge.process_status()?.is_some() {
        bridge.start_again()?;
    }
    Ok(())
}

/// Tells how many files the bridge may have open, after setting it to `limit`.
async fn descriptors(bridge: &Daemon, limit: Option<u64>) -> Result<u64> {
    let pid = bridge.process().id().to_string();
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid, "--output", "SOFT", "--noheadings", "--raw"]);
    match limit {
        Some(limit) => command.arg(format!("--nofile={limit}:")),
        None => command.arg("--nofile"),
    };
    let told = command.output().await.context("running prlimit (package util-linux)")?;
    ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr).trim());
    match limit {
        Some(limit) => Ok(limit),
        None => Ok(String::from_utf8_lossy(&told.stdout).trim().parse()?),
    }
}
