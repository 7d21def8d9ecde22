//! `cargo xtask simulate --mutants`: does the simulation notice bugs?
//!
//! Each patch in `tests/simulation/mutants` is a bug that bridges typically have. One at a time is put into a copy of the
//! workspace, the simulation is built there and run: a schedule that breaks a promise has caught it. A bug that is not caught
//! is a hole in the simulation, unless its patch says so and why.

mod patch;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;

use self::patch::Patch;
use crate::{root, target};

/// Where the bugs are, below the workspace's root.
const LIST: &str = "tests/simulation/mutants";
/// A simulation that takes longer has come into a circle.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Puts typical bugs into the bridge, one at a time, and looks whether the simulation notices.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask simulate")]
struct Arguments {
    /// Runs the bugs' list.
    #[arg(long)]
    mutants: bool,
    /// At most so many schedules for each bug.
    #[arg(long, default_value_t = 60)]
    seeds: u64,
    /// Only tells which bugs there are.
    #[arg(long)]
    list: bool,
    /// Only bugs with one of these in their name.
    names: Vec<String>,
}

/// A bug.
struct Mutant {
    name: String,
    /// The first seed and the last that are tried, if the patch says so.
    seeds: Option<(u64, u64)>,
    /// Of what broken promises of which it has to lead to one speak.
    breaks: Vec<String>,
    /// Why the simulation can't catch it, and what does.
    missed: Option<String>,
    patch: Patch,
}

/// What became of a bug.
enum End {
    Caught {
        seed: u64,
        after: u64,
        promise: String,
    },
    /// The simulation never ended.
    Circles,
    Missed {
        after: u64,
    },
    /// The patch is out of date.
    Broken(anyhow::Error),
}

/// What a run of the simulation said.
struct Run {
    schedules: u64,
    /// Seeds that broke promises, and these.
    failed: BTreeMap<u64, Vec<String>>,
}

/// Whether these arguments of `simulate` ask for the list of bugs.
pub(crate) fn is_meant(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| argument == "--mutants")
}

/// Runs the bugs; `true` when each was caught that should be.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let name = String::from("simulate");
    let arguments = Arguments::try_parse_from([name].iter().chain(arguments))?;
    let mutants = load(root()?)?.into_iter().filter(|mutant| {
        let named = |name: &String| mutant.name.contains(name.as_str());
        arguments.names.is_empty() || arguments.names.iter().any(named)
    });
    let mutants: Vec<Mutant> = mutants.collect();
    ensure!(!mutants.is_empty(), "no bug has such a name");
    if arguments.list {
        for mutant in mutants {
            println!("{}\n  {}", mutant.name, mutant.patch.words.join("\n  ").trim_end());
        }
        return Ok(true);
    }
    let bench = Bench::lay()?;
    println!("The simulation as it is, by which the others are measured");
    bench.build()?;
    let reach = |mutant: &Mutant| mutant.seeds.unwrap_or((1, arguments.seeds));
    let first = mutants.iter().map(|mutant| reach(mutant).0).min().unwrap_or(1);
    let last = mutants.iter().map(|mutant| reach(mutant).1).max().unwrap_or(1);
    let Some(sound) = bench.simulate((first, last), &[], &[])? else {
        bail!("the simulation does not end, without any bug put into it")
    };
    let except: Vec<u64> = sound.failed.keys().copied().collect();
    if !except.is_empty() {
        let count = sound.schedules;
        println!("Left out of {count}, for they break promises without any bug: {except:?}");
    }
    let mut bad = 0;
    for (number, mutant) in mutants.iter().enumerate() {
        let end = bench.try_out(mutant, reach(mutant), &except);
        let end = end.unwrap_or_else(End::Broken);
        let missed = mutant.missed.as_deref();
        bad += usize::from(match &end {
            End::Caught { .. } | End::Circles => false,
            End::Missed { .. } => missed.is_none(),
            End::Broken(_) => true,
        });
        println!("[{}/{}] {:<40} {}", number + 1, mutants.len(), mutant.name, told(&end, missed));
    }
    println!("{} bugs, {bad} not as they should be", mutants.len());
    Ok(bad == 0)
}

fn told(end: &End, missed: Option<&str>) -> String {
    match (end, missed) {
        (End::Caught { seed, after, promise }, _) => {
            format!("caught    seed {seed} after {after} schedules: {promise}")
        }
        (End::Circles, _) => "caught    the simulation does not end".to_owned(),
        (End::Missed { after }, None) => format!("NOT CAUGHT in {after} schedules"),
        (End::Missed { after }, Some(why)) => format!("missed    in {after} schedules: {why}"),
        (End::Broken(error), _) => format!("OUT OF DATE: {error:#}"),
    }
}

/// The bugs in order of their names.
fn load(root: &Path) -> Result<Vec<Mutant>> {
    let folder = root.join(LIST);
    let mut mutants = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension() != Some(OsStr::new("patch")) {
            continue;
        }
        let read = || -> Result<Mutant> {
            let patch = Patch::parse(&std::fs::read_to_string(&path)?)?;
            let name = path.file_stem().and_then(OsStr::to_str).context("a name")?.to_owned();
            let seeds = header(&patch, "Seeds: ").map(|text| range(&text)).transpose()?;
            let breaks = header(&patch, "Breaks: ").context("it does not say what it breaks")?;
            let breaks = breaks.split(" | ").map(|words| words.trim().to_owned()).collect();
            Ok(Mutant { name, seeds, breaks, missed: header(&patch, "Not caught: "), patch })
        };
        mutants.push(read().with_context(|| path.display().to_string())?);
    }
    mutants.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(mutants)
}

/// What the words of a patch say after `name`, up to the next line that begins with another, or the end.
fn header(patch: &Patch, name: &str) -> Option<String> {
    let mut lines = patch.words.iter().skip_while(|line| !line.starts_with(name));
    let first = lines.next()?.strip_prefix(name)?.to_owned();
    let begins = |line: &str| line.split_once(": ").is_some_and(|(name, _)| NAMES.contains(&name));
    let rest = lines.take_while(|line| !line.is_empty() && !begins(line));
    Some(rest.fold(first, |text, line| text + " " + line))
}

/// What a patch tells about itself.
const NAMES: [&str; 5] = ["Bug", "Seen in", "Breaks", "Not caught", "Seeds"];

/// `1..60`, both included.
fn range(text: &str) -> Result<(u64, u64)> {
    let (first, last) = text.trim().split_once("..").context("seeds are given as 1..60")?;
    Ok((first.parse()?, last.parse()?))
}

/// A copy of the workspace, and where it is built.
struct Bench {
    root: PathBuf,
    tree: PathBuf,
    build: PathBuf,
}

impl Bench {
    /// Copies the workspace; what has not changed since the last time stays, so that little is built again.
    fn lay() -> Result<Self> {
        let root = root()?.to_owned();
        let home = target()?.join("mutants");
        let bench = Self { root, tree: home.join("tree"), build: home.join("build") };
        let files = sources(&bench.root)?;
        for path in &files {
            let text = std::fs::read(bench.root.join(path))?;
            bench.put(path, &text).with_context(|| path.display().to_string())?;
        }
        for path in walk(&bench.tree)?.difference(&files) {
            std::fs::remove_file(bench.tree.join(path))?;
        }
        Ok(bench)
    }

    fn put(&self, path: &Path, text: &[u8]) -> Result<()> {
        let to = self.tree.join(path);
        if std::fs::read(&to).is_ok_and(|old| old == text) {
            return Ok(());
        }
        std::fs::create_dir_all(to.parent().unwrap_or(&self.tree))?;
        Ok(std::fs::write(to, text)?)
    }

    fn build(&self) -> Result<()> {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--package", "simulation", "--bin", "simulate"]);
        cargo.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.build);
        // Linking is most of what each bug costs; and what a bug leaves unused is no matter, whoever denies warnings.
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "false").env_remove("RUSTFLAGS");
        let output = cargo.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("error")).collect();
        bail!("it does not build: {}", lines.first().copied().unwrap_or_else(|| text.trim()))
    }

    /// Runs schedules, up to the first that breaks a promise of which the words are among `until`; `None` when it does not end.
    fn simulate(&self, seeds: (u64, u64), except: &[u64], until: &[String]) -> Result<Option<Run>> {
        let count = (seeds.1 + 1).saturating_sub(seeds.0);
        let mut simulation = Command::new(self.build.join("debug").join("simulate"));
        simulation.args(["--from", &seeds.0.to_string(), "--seeds", &count.to_string()]);
        simulation.args(["--tail", "0"]);
        for words in until {
            simulation.args(["--until", words]);
        }
        if !except.is_empty() {
            let except: Vec<String> = except.iter().map(u64::to_string).collect();
            simulation.args(["--except", &except.join(",")]);
        }
        simulation.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null());
        let mut child = simulation.current_dir(&self.tree).spawn()?;
        let mut output = child.stdout.take().context("it was piped")?;
        let (told, end) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = output.read_to_string(&mut text);
            // Nobody waits any more once patience has ended.
            let _ = told.send(read.map(|_| text));
        });
        let text = end.recv_timeout(PATIENCE);
        if text.is_err() {
            child.kill()?;
        }
        child.wait()?;
        text.ok().map(|text| Run::read(&text?)).transpose()
    }

    /// Puts a bug in, looks whether it is noticed, and takes it out.
    fn try_out(&self, mutant: &Mutant, seeds: (u64, u64), except: &[u64]) -> Result<End> {
        let read = |path: &str| Ok(std::fs::read_to_string(self.root.join(path))?);
        let changed = mutant.patch.apply(read)?;
        for (path, text) in &changed {
            self.put(Path::new(path), text.as_bytes())?;
        }
        let run = self.build().and_then(|()| self.simulate(seeds, except, &mutant.breaks));
        for path in changed.keys() {
            self.put(Path::new(path), &std::fs::read(self.root.join(path))?)?;
        }
        let Some(run) = run? else { return Ok(End::Circles) };
        let meant = |promise: &String| mutant.breaks.iter().any(|words| promise.contains(words));
        let mut caught = run
            .failed
            .into_iter()
            .filter_map(|(seed, promises)| Some((seed, promises.into_iter().find(meant)?)));
        Ok(match caught.next() {
            Some((seed, promise)) => End::Caught { seed, after: run.schedules, promise },
            None => End::Missed { after: run.schedules },
        })
    }
}

impl Run {
    /// What the simulation prints: see `failure` and `summary` there.
    fn read(text: &str) -> Result<Self> {
        let mut run = Self { schedules: 0, failed: BTreeMap::new() };
        let mut complete = false;
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(seed) = line.strip_prefix("Seed ").and_then(|l| l.split(' ').next()) {
                let mut broken = Vec::new();
                while let Some(promise) = lines.next_if(|line| line.starts_with("  ")) {
                    broken.push(promise.trim().to_owned());
                }
                run.failed.insert(seed.parse().context("a seed")?, broken);
            } else if let Some((count, _)) = line.split_once(" schedules, ") {
                (run.schedules, complete) = (count.trim().parse().context("a count")?, true);
            }
        }
        ensure!(complete, "the simulation has ended early");
        Ok(run)
    }
}

/// The files that git knows or would, or without it all that is not made by building, below `root`.
fn sources(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listed = git.stderr(Stdio::null()).output().ok().filter(|output| output.status.success());
    let Some(listed) = listed else { return walk(root) };
    let names = String::from_utf8(listed.stdout)?;
    let files = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    Ok(files.filter(|path| root.join(path).is_file()).collect())
}

fn walk(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let (mut files, mut folders) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
            let name = path.file_name().unwrap_or_default();
            if entry.as_ref().is_ok_and(std::fs::FileType::is_file) {
                files.insert(path.strip_prefix(root)?.to_owned());
            } else if entry?.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_of_the_list_still_fits_the_program_and_says_what_it_is() {
        let root = root().expect("a workspace");
        let mutants = load(root).expect("a list");
        assert!(mutants.len() >= 15, "only {} bugs", mutants.len());
        let about = root.join(LIST).join("README.md");
        let about = std::fs::read_to_string(about).expect("words about the list");
        let mut numbers = BTreeSet::new();
        for mutant in &mutants {
            let name = &mutant.name;
            let read = |path: &str| Ok(std::fs::read_to_string(root.join(path))?);
            let changed = mutant.patch.apply(read).unwrap_or_else(|error| {
                panic!("{name} is out of date, put it in anew by hand: {error:#}")
            });
            for (path, text) in changed {
                let old = std::fs::read_to_string(root.join(&path)).expect("it was read before");
                assert_ne!(text, old, "{name} changes nothing in {path}");
            }
            for said in ["Bug: ", "Seen in: "] {
                assert!(header(&mutant.patch, said).is_some(), "{name} does not say {said:?}");
            }
            let number = name.split('-').next().unwrap_or_default();
            assert!(numbers.insert(number.to_owned()), "two bugs are number {number}");
            assert!(about.contains(name.as_str()), "the README does not list {name}");
        }
    }

    #[test]
    fn the_words_of_the_simulation_are_understood() {
        let text = "\nSeed 17 breaks a promise:\n  word00013x is on Gitter 2 times\n  more\nAgain, in \
                    full: x\n30 schedules, 226 hours of virtual time, in 61 s (30 a minute)\n";
        let run = Run::read(text).expect("it is complete");
        assert_eq!(run.schedules, 30);
        assert_eq!(run.failed[&17], ["word00013x is on Gitter 2 times", "more"]);
        assert!(Run::read("Seed 1 breaks a promise:\n  x\n").is_err(), "it has crashed");
    }
}
