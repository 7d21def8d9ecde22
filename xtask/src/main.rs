//! The project's chores: `cargo xtask` and `test`, `demo`, `simulate`, `torture`, `screenshots` or `fuzz`.
//!
//! Depends on next to nothing, so that it is built in seconds and the checks share one build of everything else.

mod check;
mod fuzz;
mod mutants;
mod screenshots;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Chores of this project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Runs every check: format, bans, lints, docs, tests, benchmarks, stories on a real homeserver.
    Test {
        /// Leaves out what needs a real homeserver.
        #[arg(long)]
        quick: bool,
    },
    /// Shows the bridge at work on a real homeserver and a simulated Gitter, then stays up to be played with.
    Demo {
        /// Ends after the story, with exit status 0 if all of it came true.
        #[arg(long)]
        once: bool,
    },
    /// Lets the bridge live through schedules of faults in worlds of memory, each made from a seed: `--seeds N`, `--seed S`;
    /// `--mutants` puts typical bugs into it and looks whether they are noticed.
    #[command(disable_help_flag = true)]
    Simulate {
        /// Builds with all optimisations: that takes minutes, once, and then a schedule a fraction of the time.
        #[arg(long)]
        campaign: bool,
        /// What the simulation takes; `--help` tells.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kills and hurts the real servers at random, with people talking all the while, and tells what was lost or doubled.
    Torture {
        /// How often the bridge is killed.
        #[arg(long, default_value_t = 200)]
        kills: u32,
        /// How often something else is hurt: the homeserver, Gitter, the ways between them, the disk.
        #[arg(long, default_value_t = 200)]
        hurts: u32,
        /// Decides what happens when.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Where the report goes, besides the screen.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Takes pictures of the login pages, the control room and a portal in a web client (needs Chromium and Node.js).
    Screenshots,
    /// Looks for messages that break the converters (needs cargo-fuzz).
    Fuzz {
        /// How long, for each converter.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Instead, how many texts, the same ones each time.
        #[arg(long)]
        texts: Option<u32>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Test { quick } => check::run(quick),
        Chore::Demo { once } => demo(once),
        Chore::Simulate { campaign: true, arguments } => simulate_much(&arguments),
        Chore::Simulate { arguments, .. } if mutants::is_meant(&arguments) => {
            mutants::run(&arguments)
        }
        Chore::Simulate { arguments, .. } => with_servers("simulate", arguments),
        Chore::Torture { kills, hurts, seed, json } => torture(kills, hurts, seed, json),
        Chore::Screenshots => screenshots::run(),
        Chore::Fuzz { texts: Some(texts), .. } => fuzz::run(fuzz::Length::Texts(texts)),
        Chore::Fuzz { seconds, texts: None } => fuzz::run(fuzz::Length::Seconds(seconds)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\n{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(once: bool) -> anyhow::Result<bool> {
    let once = once.then(|| "--once".to_owned());
    with_servers("demo", once)
}

fn torture(kills: u32, hurts: u32, seed: u64, json: Option<PathBuf>) -> anyhow::Result<bool> {
    let numbers = [("--kills", kills.to_string()), ("--hurts", hurts.to_string())];
    let mut arguments =
        numbers.into_iter().chain([("--seed", seed.to_string())]).collect::<Vec<_>>();
    if let Some(path) = json {
        arguments.push(("--json", std::path::absolute(path)?.display().to_string()));
    }
    let arguments = arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    with_servers("torture", arguments)
}

/// Runs the simulation, built to be quick.
fn simulate_much(arguments: &[String]) -> anyhow::Result<bool> {
    let run = ["run", "--quiet", "--profile", "campaign", "--package", "simulation", "--"];
    let status = Command::new("cargo").args(run).args(arguments).current_dir(root()?).status()?;
    Ok(status.success())
}

/// Builds everything, and runs what starts the bridge together with its worlds.
fn with_servers(name: &str, arguments: impl IntoIterator<Item = String>) -> anyhow::Result<bool> {
    println!("Building the bridge");
    let build = ["build", "--workspace", "--bins"];
    if !Command::new("cargo").args(build).current_dir(root()?).status()?.success() {
        return Ok(false);
    }
    let mut starter = Command::new(target()?.join("debug").join(name));
    Ok(starter.args(arguments).current_dir(root()?).status()?.success())
}

/// The workspace's root.
fn root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is not inside a workspace")
}

/// Where cargo builds: `CARGO_TARGET_DIR`, else `target` in the root.
fn target() -> anyhow::Result<PathBuf> {
    let set = std::env::var_os("CARGO_TARGET_DIR");
    Ok(root()?.join(set.map_or_else(|| PathBuf::from("target"), PathBuf::from)))
}
