//! Runs schedules: `simulate --seeds 1000`, `simulate --seed 17` for one in all detail.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use clap::Parser;
use simulation::{
    director::{Report, run, watch_panics},
    outages,
};

/// An eighth of the time, as each schedule is one thread's many small things.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the bridge through schedules of faults, each made from a seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many schedules.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; all follow it.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this one, with its history.
    #[arg(long)]
    seed: Option<u64>,
    /// What of the bridge's log goes into the output, for one seed: debug, or directives.
    #[arg(long)]
    log: Option<String>,
    /// How many at the same time; by default one for each processor.
    #[arg(long)]
    threads: Option<usize>,
    /// Lines of a failing history that are shown.
    #[arg(long, default_value_t = 60)]
    tail: usize,
    /// Begins no schedule after one that broke a promise of which the words say this.
    #[arg(long)]
    until: Vec<String>,
    /// Instead, measures how long each kind of fault is felt and what it costs: a table, with --seeds for each (5 are enough).
    #[arg(long, value_name = "WORDS", num_args = 0..=1, default_missing_value = "")]
    outages: Option<String>,
    /// Seeds that are left out.
    #[arg(long, value_delimiter = ',')]
    except: Vec<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    watch_panics();
    if let Some(seed) = arguments.seed {
        if let Some(log) = &arguments.log {
            tracing_subscriber::fmt()
                .with_env_filter(log)
                .without_time()
                .with_ansi(false)
                .with_writer(std::io::stdout)
                .init();
        }
        let report = run(seed);
        for line in &report.lines {
            println!("{line}");
        }
        print!("{}", summary(std::slice::from_ref(&report), Duration::ZERO));
        return if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let threads = arguments
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    if let Some(only) = &arguments.outages {
        let rows = outages::measure(arguments.seeds, threads, only);
        print!("{}", outages::table(&rows));
        let well = rows.iter().all(|row| row.wrong.is_empty());
        return if well { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from + arguments.seeds;
    let reports = Mutex::new(Vec::new());
    let start = tokio::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, SeqCst);
                    if seed >= end {
                        return;
                    }
                    if arguments.except.contains(&seed) {
                        continue;
                    }
                    let report = run(seed);
                    if !report.violations.is_empty() {
                        print!("{}", failure(&report, arguments.tail));
                        let said = |words: &String| {
                            report.violations.iter().any(|broken| broken.contains(words))
                        };
                        if arguments.until.iter().any(said) {
                            next.store(end, SeqCst);
                        }
                    }
                    let light = Report { lines: Vec::new(), ..report };
                    if let Ok(mut reports) = reports.lock() {
                        reports.push(light);
                    }
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap_or_default();
    print!("{}", summary(&reports, start.elapsed()));
    let failed = reports.iter().any(|report| !report.violations.is_empty());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn failure(report: &Report, tail: usize) -> String {
    let from = report.lines.len().saturating_sub(tail);
    let mut text = format!("\nSeed {} breaks a promise:\n", report.seed);
    for violation in &report.violations {
        let _ = writeln!(text, "  {violation}");
    }
    for line in &report.lines[from..] {
        let _ = writeln!(text, "    {line}");
    }
    text + &format!("Again, in full: cargo xtask simulate --seed {}\n", report.seed)
}

fn summary(reports: &[Report], took: Duration) -> String {
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for report in reports {
        for (kind, count) in &report.faults {
            *faults.entry(kind).or_default() += count;
        }
    }
    let lasted: Duration = reports.iter().map(|report| report.lasted).sum();
    let calls: u64 = reports.iter().map(|report| report.calls).sum();
    let said: usize = reports.iter().map(|report| report.said).sum();
    let slowest = reports.iter().map(|report| report.calmed).max().unwrap_or_default();
    let failed: Vec<u64> =
        reports.iter().filter(|r| !r.violations.is_empty()).map(|r| r.seed).collect();
    let count = reports.len();
    let minutes = took.as_secs_f64() / 60.0;
    let mut text = format!("{count} schedules, {} hours of virtual time", lasted.as_secs() / 3600);
    if minutes > 0.0 {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = count as f64 / minutes;
        let _ = write!(text, ", in {:.0} s ({rate:.0} a minute)", took.as_secs_f64());
    }
    let _ = write!(
        text,
        "\n{calls} calls, {said} messages; at rest at most {} s after the last fault\n",
        slowest.as_secs()
    );
    for (kind, count) in &faults {
        let _ = writeln!(text, "  {count:>8} {kind}");
    }
    let _ = writeln!(text, "violations in {} schedules: {failed:?}", failed.len());
    text
}
