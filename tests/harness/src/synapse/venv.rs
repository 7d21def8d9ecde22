//! The virtual environment Synapse runs in.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result, bail};

const VERSION: &str = "1.163.2";
/// What was installed beside it when the stories were written, so that they do not change by themselves.
const CONSTRAINTS: &str = include_str!("../../synapse-constraints.txt");
/// Written last: without it the directory is half made.
const MARKER: &str = "ready";

pub(super) fn prepare(target: &Path) -> Result<Option<PathBuf>> {
    if std::env::var_os("STORY_SKIP").is_some_and(|value| !value.is_empty()) {
        say_once("Skipped, as STORY_SKIP is set: what needs a real homeserver");
        return Ok(None);
    }
    let venv = target.join("synapse-venv");
    if is_ready(&venv) {
        return Ok(Some(python_of(&venv)));
    }
    fs::create_dir_all(target)?;
    let lock = File::create(target.join("synapse-venv.lock"))?;
    lock.lock().context("waiting for whoever is making Synapse's environment")?;
    if is_ready(&venv) {
        return Ok(Some(python_of(&venv)));
    }
    match make(&venv) {
        Ok(()) => Ok(Some(python_of(&venv))),
        Err(error) if std::env::var("CI").is_ok_and(|value| value == "true") => Err(error),
        Err(error) => {
            say_once(&format!(
                "Skipped: what needs a real homeserver, as there is none here: {error:#}"
            ));
            Ok(None)
        }
    }
}

/// Says something once, past the test runner: it shows what tests print only when they fail.
fn say_once(text: &str) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let _ = writeln!(std::io::stderr(), "{text}");
    });
}

fn python_of(venv: &Path) -> PathBuf {
    venv.join("bin").join("python")
}

fn is_ready(venv: &Path) -> bool {
    fs::read_to_string(venv.join(MARKER)).is_ok_and(|text| text.trim() == VERSION)
}

fn make(venv: &Path) -> Result<()> {
    let doing =
        format!("Setting up Synapse {VERSION} in {} (about a minute, once)", venv.display());
    writeln!(std::io::stderr(), "{doing}")?;
    if venv.exists() {
        fs::remove_dir_all(venv).context("removing a half-made environment")?;
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(venv))
        .context("making a virtual environment; it needs python3 with venv and pip (on Debian: python3-venv)")?;
    let constraints = venv.join("constraints.txt");
    fs::write(&constraints, CONSTRAINTS)?;
    let package = format!("matrix-synapse=={VERSION}");
    let install = || {
        let mut pip = Command::new(python_of(venv));
        pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check"])
            .args(["--progress-bar", "off", "--only-binary", ":all:"])
            .arg(&package);
        pip
    };
    if let Err(error) = run(install().arg("--constraint").arg(&constraints)) {
        eprintln!("{error:#}; trying with whatever versions fit this Python");
        run(&mut install()).context("installing Synapse from PyPI")?;
    }
    run(Command::new(python_of(venv)).args(["-c", "import synapse.app.homeserver"]))?;
    fs::write(venv.join(MARKER), VERSION)?;
    Ok(())
}

/// Runs a command with its output on stderr, where progress belongs.
fn run(command: &mut Command) -> Result<()> {
    let shown = command.get_program().display().to_string();
    let status =
        command.stdout(std::io::stderr()).status().with_context(|| format!("starting {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}
