//! A fixed number of schedules; `cargo xtask simulate` runs any other.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use simulation::{
    director::{run, watch_panics},
    outages,
};

/// So many schedules take about a minute on two cores.
const SCHEDULES: u64 = 200;

#[test]
fn every_promise_is_kept_whatever_goes_wrong() {
    watch_panics();
    let (next, failures) = (AtomicU64::new(1), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, SeqCst);
                    if seed > SCHEDULES {
                        return;
                    }
                    let report = run(seed);
                    if !report.violations.is_empty() {
                        let again = format!("cargo xtask simulate --seed {seed}");
                        let violations = report.violations.join("\n  ");
                        let failure = format!("{again}\n  {violations}");
                        failures.lock().expect("no panic").push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "broken promises:\n{}", failures.join("\n"));
}

#[test]
fn a_seed_tells_the_whole_history() {
    let busy = (1..20).map(run).find(|report| report.faults.len() > 8).expect("much goes wrong");
    let again = run(busy.seed);
    let pairs = busy.lines.iter().zip(&again.lines);
    if let Some((n, (one, other))) = pairs.enumerate().find(|(_, (one, other))| one != other) {
        panic!("seed {}, line {n}: {one}\n  is now {other}", busy.seed);
    }
    assert_eq!(busy.digest, again.digest, "seed {}", busy.seed);
}

#[test]
fn a_start_asks_what_the_homeserver_is_and_who_the_bot_is_and_pings_before_it_does_anything() {
    let about_itself = ["versions", "whoami", "/register", "/devices/", "/profile/@gitter:"];
    for seed in 1..=5 {
        let report = run(seed);
        let calls = report.lines.iter().filter_map(|line| line.split_once("r <- "));
        let calls = calls.map(|(_, call)| call).take_while(|call| !call.contains("/ping"));
        let calls: Vec<&str> = calls.collect();
        assert!(calls[0].starts_with("GET /_matrix/client/versions"), "seed {seed}: {calls:?}");
        assert!(calls[1].starts_with("GET /account/whoami"), "seed {seed}: {calls:?}");
        let is_its_own = |call: &&str| about_itself.iter().any(|part| call.contains(part));
        assert!(calls.iter().all(is_its_own), "seed {seed}: {calls:?}");
    }
}

#[test]
fn after_each_kind_of_fault_all_is_well_again_soon_and_cheaply() {
    // The whole table is `cargo xtask simulate --outages`.
    for kind in ["for a minute", "ten minutes", "killed", "backup", "database"] {
        let rows = outages::measure(1, 2, kind);
        assert!(!rows.is_empty(), "there is no {kind}");
        for row in rows {
            assert_eq!(row.wrong, Vec::<String>::new(), "{}", row.name);
            assert_eq!(row.took.len(), 1, "{}", row.name);
            assert!(row.took[0] < Duration::from_secs(600), "{row:?}");
            assert!(row.calls[0].iter().all(|calls| *calls < 400), "{row:?}");
        }
    }
}
