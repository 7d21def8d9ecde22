//! The real servers, hurt: `cargo xtask torture [--kills N] [--hurts N] [--seed S] [--json FILE]`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::storm::{Disk, Report, Storm};
use harness::{Transcript, World, WorldConfig};
use serde_json::json;

/// More in one world would only make its story longer.
const KILLS_A_WORLD: u32 = 25;
/// How often the bridge compares everything.
const RESYNC: Duration = Duration::from_secs(30);
/// Both sides are to agree within two of these. It is told and not judged: machines may be busy.
const TARGET: Duration = Duration::from_secs(2 * RESYNC.as_secs());

/// What is asked for.
struct Arguments {
    kills: u32,
    hurts: u32,
    seed: u64,
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nThe torture did not come to its end: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `cargo xtask` has checked them.
fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments { kills: 200, hurts: 200, seed: 1, json: None };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--kills" => arguments.kills = value.parse().context("--kills")?,
            "--hurts" => arguments.hurts = value.parse().context("--hurts")?,
            "--seed" => arguments.seed = value.parse().context("--seed")?,
            "--json" => arguments.json = Some(value.into()),
            _ => anyhow::bail!("{name} is not known"),
        }
    }
    Ok(arguments)
}

async fn run() -> Result<bool> {
    let Arguments { kills, hurts, seed, json } = arguments()?;
    let worlds = kills.max(hurts).div_ceil(KILLS_A_WORLD).max(1);
    let mut total = Report::default();
    let mut converged = Vec::new();
    let share = |all: u32, world: u32| all * (world + 1) / worlds - all * world / worlds;
    for world in 0..worlds {
        let seed = seed + u64::from(world);
        let (kills, hurts) = (share(kills, world), share(hurts, world));
        println!(
            "world {} of {worlds}, seed {seed}: {kills} kills, {hurts} other hurts",
            world + 1
        );
        let report = one(seed, kills, hurts).await.with_context(|| format!("seed {seed}"))?;
        for complaint in &report.complaints {
            println!("  WRONG: {complaint}");
        }
        println!("  both sides agree {:.1} s after the last hurt", report.converged.as_secs_f64());
        for (step, took) in &report.steps {
            println!("    {step} after {:.1} s", took.as_secs_f64());
        }
        for difference in &report.differed {
            println!("    then missing: {difference}");
        }
        converged.push(report.converged);
        add(&mut total, report);
    }
    converged.sort();
    tell(&total, &converged);
    if let Some(path) = json {
        let text = format!("{:#}\n", as_json(&total, &converged, (seed, kills, hurts)));
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(total.is_clean())
}

/// One world from its start to its end.
async fn one(seed: u64, kills: u32, hurts: u32) -> Result<Report> {
    let mut skipped = None;
    let disk = Disk::mount().map_err(|error| skipped = Some(format!("disk full: {error:#}"))).ok();
    let mut config = config()?;
    config.transcript = Transcript::kept_whole();
    if let Some(disk) = &disk {
        config = config.setting("database_path", &disk.database().display().to_string());
    }
    let mut world = World::start(config).await?.context("no Synapse on this machine, see above")?;
    let raged = Storm { seed, kills, hurts, recovery: true, disk }.rage(&mut world).await;
    if !raged.as_ref().is_ok_and(Report::is_clean) {
        let path = std::env::temp_dir().join(format!("torture-seed-{seed}.txt"));
        std::fs::write(&path, world.report_with(20_000))?;
        println!("  all that happened is in {}", path.display());
    }
    let mut report = raged?;
    report.skipped.extend(skipped);
    Ok(report)
}

/// The daemon is built beside this program.
fn config() -> Result<WorldConfig> {
    let here = std::env::current_exe()?;
    let debug = here.parent().context("this program is in no directory")?;
    let target = debug.parent().context("not in cargo's target directory")?;
    let binary = debug.join(format!("matrix-gitter{}", std::env::consts::EXE_SUFFIX));
    Ok(WorldConfig::new(binary, target)
        .ways()
        .setting("gitter_requests_per_minute", "100000")
        .setting("history_messages", "0")
        .setting("reconcile_interval", &format!("{}s", RESYNC.as_secs()))
        .gitter(|gitter| gitter.rate_limit = Some(100_000)))
}

fn add(total: &mut Report, report: Report) {
    for (name, count) in report.torments {
        *total.torments.entry(name).or_default() += count;
    }
    total.skipped.extend(report.skipped);
    total.written.0 += report.written.0;
    total.written.1 += report.written.1;
    total.lost += report.lost;
    total.doubled += report.doubled;
    total.disordered += report.disordered;
    total.kept_back += report.kept_back;
    total.rooms_doubled += report.rooms_doubled;
    total.complaints.extend(report.complaints);
}

fn tell(total: &Report, converged: &[Duration]) {
    println!();
    for (name, count) in &total.torments {
        println!("{count:>6}  {name}");
    }
    for skipped in &total.skipped {
        println!("  none  {skipped}");
    }
    let (matrix, gitter) = total.written;
    println!("{:>6}  messages written: {matrix} on Matrix, {gitter} on Gitter", matrix + gitter);
    println!("{:>6}  lost", total.lost);
    println!("{:>6}  doubled", total.doubled);
    println!("{:>6}  rooms with messages out of order", total.disordered);
    println!(
        "{:>6}  rooms in which the killed homeserver had kept a message back",
        total.kept_back
    );
    println!("{:>6}  rooms doubled", total.rooms_doubled);
    println!("{:>6}  other complaints", total.complaints.len());
    if let (Some(median), Some(most)) = (converged.get(converged.len() / 2), converged.last()) {
        let (median, most) = (median.as_secs_f64(), most.as_secs_f64());
        println!(
            "Both sides agreed {median:.1} s after the last hurt (median), {most:.1} s at most; in {} of {} worlds within \
             two resync intervals ({} s).",
            on_time(converged),
            converged.len(),
            TARGET.as_secs()
        );
    }
}

/// In how many worlds both sides agreed within the target.
fn on_time(converged: &[Duration]) -> usize {
    converged.iter().filter(|took| **took <= TARGET).count()
}

fn as_json(
    total: &Report,
    converged: &[Duration],
    (seed, kills, hurts): (u64, u32, u32),
) -> serde_json::Value {
    let seconds: Vec<f64> = converged.iter().map(Duration::as_secs_f64).collect();
    json!({
        "clean": total.is_clean(),
        "seed": seed,
        "asked_for": { "kills": kills, "hurts": hurts },
        "torments": total.torments,
        "skipped": total.skipped,
        "written": { "matrix": total.written.0, "gitter": total.written.1 },
        "lost": total.lost,
        "doubled": total.doubled,
        "out_of_order": total.disordered,
        "kept_back_by_the_homeserver": total.kept_back,
        "rooms_doubled": total.rooms_doubled,
        "complaints": total.complaints,
        "seconds_to_converge": seconds,
        "target_seconds_to_converge": TARGET.as_secs(),
        "worlds_on_time": on_time(converged),
    })
}
