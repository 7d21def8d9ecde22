//! `cargo xtask screenshots`: a web client built from its package, a scene played in it, pictures of all that people see.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{root, target};

/// The web client's sources and the script that walks through it, in `tests/hydrogen`.
const SOURCES: [&str; 5] = ["package.json", "index.html", "main.js", "vite.config.js", "walk.js"];
/// Of those, what a change of which takes a new build.
const BUILT_FROM: [&str; 4] = ["package.json", "index.html", "main.js", "vite.config.js"];

/// Makes the pictures in `target/screenshots`; `false` when something this machine needs for it is missing.
pub(crate) fn run() -> Result<bool> {
    let Some(chromium) = chromium() else {
        println!(
            "No Chromium here: apt-get install -y chromium, or say where it is with CHROMIUM=/its/path"
        );
        return Ok(false);
    };
    if !works("node") || !works("npm") {
        println!("No node and npm here: apt-get install -y nodejs npm (Node.js 18 or newer)");
        return Ok(false);
    }
    let hydrogen = target()?.join("hydrogen");
    build_client(&hydrogen)?;
    println!("Building the bridge");
    let build = ["build", "--workspace", "--bins"];
    if !Command::new("cargo").args(build).current_dir(root()?).status()?.success() {
        return Ok(false);
    }
    let out = target()?.join("screenshots");
    fs::create_dir_all(&out)?;
    let mut scene = Command::new(target()?.join("debug").join("scene"));
    scene.arg(&hydrogen).arg(&out).arg(chromium).current_dir(root()?);
    let done = scene.status()?.success();
    if done {
        println!("\nThe pictures are in {}", out.display());
    }
    Ok(done)
}

/// Fetches and builds the client, unless that was done with these very sources.
fn build_client(hydrogen: &Path) -> Result<()> {
    let from = root()?.join("tests").join("hydrogen");
    fs::create_dir_all(hydrogen.join("public"))?;
    let mut sources = String::new();
    for name in SOURCES {
        let text =
            fs::read_to_string(from.join(name)).with_context(|| format!("reading {name}"))?;
        fs::write(hydrogen.join(name), &text)?;
        if BUILT_FROM.contains(&name) {
            sources += &text;
        }
    }
    let stamp = hydrogen.join("dist").join(".built-from");
    if fs::read_to_string(&stamp).is_ok_and(|built| built == sources) {
        return Ok(());
    }
    println!("Fetching and building Hydrogen, a Matrix web client, once: about a minute");
    npm(hydrogen, &["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"])?;
    let worker = hydrogen.join("node_modules/hydrogen-view-sdk/lib-build/sw.js");
    fs::copy(worker, hydrogen.join("public").join("sw.js"))
        .context("copying the client's worker")?;
    npm(hydrogen, &["npx", "vite", "build"])?;
    Ok(fs::write(stamp, sources)?)
}

fn npm(at: &Path, command: &[&str]) -> Result<()> {
    let status = Command::new(command[0]).args(&command[1..]).current_dir(at).status()?;
    ensure!(status.success(), "`{}` ended with {status}", command.join(" "));
    Ok(())
}

/// The browser: `CHROMIUM`, or one of its usual names.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let usual = ["chromium", "chromium-browser", "google-chrome"].map(PathBuf::from);
    let mut found = named.into_iter().chain(usual);
    found.find_map(|name| which(&name))
}

/// The file a command is: puppeteer asks for a whole path.
fn which(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn works(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
