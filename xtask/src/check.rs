//! `cargo xtask test`: every check, cheapest first, each with its duration and how to repeat it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::root;

/// One check: a name for the summary, the environment it adds, and the words of its command.
struct Step {
    name: &'static str,
    environment: &'static [(&'static str, &'static str)],
    command: &'static [&'static str],
}

impl Step {
    /// How to repeat it from a shell in the workspace's root.
    fn shown(&self) -> String {
        let environment = self.environment.iter().map(|(key, value)| format!("{key}='{value}' "));
        environment.collect::<String>() + &self.command.join(" ").replace('*', "'*'")
    }
}

enum Outcome {
    Passed,
    Failed,
    Skipped(&'static str),
}

/// Lints and documentation must be clean; all steps name the whole workspace, so that they share one build.
const STEPS: &[Step] = &[
    Step { name: "format", environment: &[], command: &["cargo", "fmt", "--all", "--check"] },
    Step {
        name: "bans",
        environment: &[],
        command: &["cargo", "deny", "--workspace", "check", "bans", "licenses", "sources"],
    },
    Step {
        name: "lints",
        environment: &[],
        command: &["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    },
    Step {
        name: "docs",
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
        command: &["cargo", "doc", "--workspace", "--no-deps", "--document-private-items"],
    },
    // Stories wait more than they work: one more at a time than two cores would have.
    Step {
        name: "tests",
        environment: &[("RUST_TEST_THREADS", "3")],
        command: &["cargo", "test", "--workspace", "--no-fail-fast"],
    },
    // The converters under a fuzzer, for a minute or two with its building.
    Step {
        name: "fuzz",
        environment: &[],
        command: &["cargo", "xtask", "fuzz", "--texts", "10000"],
    },
    // Each benchmark once, unoptimised: that it builds and works. `cargo bench` measures.
    Step {
        name: "benches",
        environment: &[],
        command: &["cargo", "test", "--workspace", "--bench", "*"],
    },
];

/// Runs all steps, also after one has failed; `true` when none did.
pub(crate) fn run(quick: bool) -> Result<bool> {
    let mut done = Vec::new();
    for (number, step) in STEPS.iter().enumerate() {
        println!("\n[{}/{}] {}: {}", number + 1, STEPS.len(), step.name, step.shown());
        let start = now();
        let outcome = perform(step, quick)?;
        let took = start.elapsed();
        println!("{}", line(step, &outcome, took));
        done.push((step, outcome, took));
    }
    println!("\nSummary");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (step, outcome, took) in &done {
        println!("{}", line(step, outcome, *took));
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed => failed += 1,
            Outcome::Skipped(_) => skipped += 1,
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0)
}

fn perform(step: &Step, quick: bool) -> Result<Outcome> {
    if step.name == "bans" && !has_cargo_deny() {
        return Ok(Outcome::Skipped("no cargo-deny here: cargo install cargo-deny --locked"));
    }
    if step.name == "fuzz" && !crate::fuzz::is_possible() {
        return Ok(Outcome::Skipped("no cargo-fuzz here: cargo install cargo-fuzz --locked"));
    }
    let [program, arguments @ ..] = step.command else { return Ok(Outcome::Passed) };
    let mut command = Command::new(program);
    command.args(arguments).envs(step.environment.iter().copied()).current_dir(root()?);
    if quick {
        command.env("STORY_SKIP", "1");
    } else {
        // Without a homeserver to tell them on, stories fail instead of being left out.
        command.env("CI", "true");
    }
    Ok(if command.status()?.success() { Outcome::Passed } else { Outcome::Failed })
}

#[expect(clippy::disallowed_methods, reason = "tells people how long commands really took")]
fn now() -> Instant {
    Instant::now()
}

fn has_cargo_deny() -> bool {
    let mut command = Command::new("cargo");
    command.args(["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn line(step: &Step, outcome: &Outcome, took: Duration) -> String {
    let (word, hint) = match outcome {
        Outcome::Passed => ("passed ", String::new()),
        Outcome::Failed => ("FAILED ", format!("  repeat with: {}", step.shown())),
        Outcome::Skipped(why) => ("skipped", format!("  {why}")),
    };
    format!("  {word} {:<8} {:6.1} s{hint}", step.name, took.as_secs_f64())
}
