//! `cargo xtask fuzz`: both converters under libFuzzer, each for a while, starting from the cases of their tables.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{root, target};

const TARGETS: [&str; 2] = ["markdown_to_matrix", "html_to_markdown"];

/// How long a target is fuzzed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    /// So many seconds, each time with other texts.
    Seconds(u32),
    /// So many texts, the same each time: for checks, which must not fail by chance.
    Texts(u32),
}

/// Whether cargo-fuzz is here.
pub(crate) fn is_possible() -> bool {
    answers("cargo", &["fuzz", "--version"])
}

/// Fuzzes each target; `false` when one broke, or when the tools are missing.
pub(crate) fn run(length: Length) -> Result<bool> {
    if !is_possible() {
        println!("No cargo-fuzz here: cargo install cargo-fuzz --locked");
        return Ok(false);
    }
    let nightly = answers("cargo", &["+nightly", "--version"]);
    let (shown, again, bounds) = match length {
        Length::Seconds(seconds) => {
            (format!("{seconds} s"), "", vec![format!("-max_total_time={seconds}")])
        }
        Length::Texts(texts) => {
            let runs = format!("-runs={texts}");
            let bounds = vec![runs, "-seed=1".to_owned(), "-verbosity=0".to_owned()];
            (format!("{texts} texts"), "-checks", bounds)
        }
    };
    let fuzz = root()?.join("tests").join("fuzz");
    for name in TARGETS {
        let corpus = target()?.join("fuzz-corpus").join(format!("{name}{again}"));
        if matches!(length, Length::Texts(_)) && corpus.exists() {
            // What an earlier run found would make this one another.
            fs::remove_dir_all(&corpus)?;
        }
        seed(&corpus)?;
        println!("\n{name}: {shown}");
        let mut command = Command::new("cargo");
        if nightly {
            command.arg("+nightly");
        } else {
            // Instrumentation is not stable, and this makes a stable compiler do it.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command.args(["fuzz", "run", "--fuzz-dir"]).arg(&fuzz);
        command.arg("--target-dir").arg(target()?.join("fuzz")).arg(name).arg(&corpus);
        command.args(["--", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]);
        command.args(&bounds);
        command.arg(format!("-dict={}", fuzz.join("markup.dict").display()));
        if !command.current_dir(root()?).status()?.success() {
            println!("{name} broke: what broke it is in {}", fuzz.join("artifacts").display());
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes each case of the tables into the corpus.
fn seed(corpus: &Path) -> Result<()> {
    fs::create_dir_all(corpus)?;
    for name in TARGETS {
        let cases = root()?.join("src/render").join(format!("{name}_cases.txt"));
        let cases =
            fs::read_to_string(&cases).with_context(|| format!("reading {name}'s cases"))?;
        for (number, case) in cases.split("\n\n").enumerate() {
            let value = |line: &str| Some(line.split_once('|')?.1.trim_start().to_owned());
            let text: Vec<String> = case.lines().filter_map(value).collect();
            fs::write(corpus.join(format!("{name}-{number:03}")), text.join("\n"))?;
        }
    }
    Ok(())
}

fn answers(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
