//! How long each kind of fault is felt after its end, and what it costs: each alone, in a small world that is always the same.
//!
//! Two accounts are in three Gitter rooms with four people. While a fault lasts everybody goes on talking at a steady pace, in a
//! dozen rounds; with its end everybody says one thing more, then they fall silent. Measured is the time until the [`judge`]
//! finds nothing any more and every word is on the other side once (or its sender was told why it is not), for good; and the
//! calls made in that time beyond those of a twin: the same seed, the same talk, no fault.

use std::{fmt::Write as _, sync::Mutex, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use reconcile::model::Millis;
use store::disk::{Disk, Loss};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    director::{CALM, GITTER_LIMIT, REST, Stage, alone},
    history::History,
    judge::{self, Case},
    life::{self, Life},
    net::{Outage, Side, Trouble},
    people::{People, counted, portal_of},
};

/// How often everybody says something while a fault lasts.
const ROUNDS: u32 = 12;
/// The last round is so long before the end of the fault.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often it is looked whether all is well.
const LOOK: Duration = Duration::from_secs(1);

const MINUTE: Duration = Duration::from_secs(60);
const TEN_MINUTES: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3600);
const DAYS: Duration = Duration::from_secs(2 * 24 * 3600);
const HOUR_MS: i64 = 3_600_000;

/// What goes wrong, alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing: the twin.
    Nothing,
    /// These can't be reached.
    Away(&'static [Side]),
    /// The bridge is killed, and started at the end of the fault.
    Killed,
    /// The bridge is asked to stop, and started again at the end of the fault.
    Stopped,
    /// A server is stopped, and started at the end of the fault with nothing in its memory.
    Restarted(Side),
    /// Every second call of both sides goes wrong like this.
    Every2nd(Trouble),
    /// Gitter's live connections say nothing.
    Mute,
    /// The clock of the bridge's machine jumps by so many ms at the end of the fault, and stays there.
    Clock(i64),
    /// The disk takes no more; at the end of the fault the bridge is started with room to write.
    DiskFull,
    /// At the end of the fault the database is as it was at its beginning: `restore` puts a backup in place.
    Backup,
    /// The database is lost: `rebuild-from-matrix` is run, and people log in again.
    Rebuilt,
    /// The database is lost, and nothing is done about it: people start a new chat and log in again.
    Lost,
}

const BOTH: &[Side] = &[Side::Homeserver, Side::Gitter];

/// All kinds, in the order of the table.
const FAULTS: [(&str, Fault, Duration); 28] = [
    ("none", Fault::Nothing, MINUTE),
    ("Gitter away for a minute", Fault::Away(&[Side::Gitter]), MINUTE),
    ("Gitter away for an hour", Fault::Away(&[Side::Gitter]), HOUR),
    ("Gitter away for two days", Fault::Away(&[Side::Gitter]), DAYS),
    ("homeserver away for a minute", Fault::Away(&[Side::Homeserver]), MINUTE),
    ("homeserver away for an hour", Fault::Away(&[Side::Homeserver]), HOUR),
    ("homeserver away for two days", Fault::Away(&[Side::Homeserver]), DAYS),
    ("both away for a minute", Fault::Away(BOTH), MINUTE),
    ("both away for an hour", Fault::Away(BOTH), HOUR),
    ("both away for two days", Fault::Away(BOTH), DAYS),
    ("homeserver can't reach the bridge for an hour", Fault::Away(&[Side::Bridge]), HOUR),
    ("bridge killed, started ten seconds later", Fault::Killed, Duration::from_secs(10)),
    ("bridge killed, started an hour later", Fault::Killed, HOUR),
    ("bridge stopped, started two days later", Fault::Stopped, DAYS),
    ("homeserver restarted", Fault::Restarted(Side::Homeserver), Duration::from_secs(10)),
    ("Gitter restarted", Fault::Restarted(Side::Gitter), Duration::from_secs(10)),
    (
        "every second call answered 429 for ten minutes",
        Fault::Every2nd(Trouble::Limited),
        TEN_MINUTES,
    ),
    (
        "every second call answered 503 for ten minutes",
        Fault::Every2nd(Trouble::Status(503)),
        TEN_MINUTES,
    ),
    (
        "every second call reset after its effect for ten minutes",
        Fault::Every2nd(Trouble::ResetAfter),
        TEN_MINUTES,
    ),
    (
        "every second call carried out, never answered for ten minutes",
        Fault::Every2nd(Trouble::SilentAfter),
        TEN_MINUTES,
    ),
    (
        "every second answer up to 12 s late for ten minutes",
        Fault::Every2nd(Trouble::Slow),
        TEN_MINUTES,
    ),
    ("live connections dumb for ten minutes", Fault::Mute, TEN_MINUTES),
    ("the bridge's clock an hour ahead", Fault::Clock(HOUR_MS), MINUTE),
    ("the bridge's clock an hour behind", Fault::Clock(-HOUR_MS), MINUTE),
    ("disk full for ten minutes", Fault::DiskFull, TEN_MINUTES),
    ("backup of an hour ago put in place", Fault::Backup, HOUR),
    ("database lost, `rebuild-from-matrix`, all log in again", Fault::Rebuilt, HOUR),
    ("database lost, bridge started without, all log in again", Fault::Lost, HOUR),
];

/// What a run cost after the fault.
#[derive(Debug, Clone)]
struct Run {
    /// From the end of the fault until all was well; `None` when that never came.
    took: Option<Duration>,
    /// Calls since the end of the fault: at each second, to the homeserver and to Gitter.
    calls: Vec<[u64; 2]>,
    /// What was not well at last, and panics.
    wrong: Vec<String>,
}

/// A row of the table: what every seed measured.
#[derive(Debug)]
pub struct Row {
    /// The fault.
    pub name: &'static str,
    /// Time to converge.
    pub took: Vec<Duration>,
    /// Calls beyond the twin's, to the homeserver and to Gitter.
    pub calls: Vec<[i64; 2]>,
    /// What was never well, with the seed.
    pub wrong: Vec<String>,
}

/// Measures all kinds of faults, or those with `only` in their name, with this many seeds each.
#[must_use]
pub fn measure(seeds: u64, threads: usize, only: &str) -> Vec<Row> {
    let faults: Vec<_> = FAULTS.iter().filter(|(name, ..)| name.contains(only)).collect();
    let jobs: Vec<(usize, u64)> =
        (0..faults.len()).flat_map(|n| (1..=seeds).map(move |seed| (n, seed))).collect();
    let (jobs, ends) = (Mutex::new(jobs.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().ok().and_then(|mut jobs| jobs.next());
                    let Some((n, seed)) = job else { return };
                    let (name, fault, lasts) = *faults[n];
                    let end = alone(run(seed, fault, lasts, CALM + REST));
                    let until = end.took.unwrap_or_default() + LOOK;
                    let twin = alone(run(seed, Fault::Nothing, lasts, until));
                    if let Ok(mut ends) = ends.lock() {
                        ends.push((n, seed, name, end, twin));
                    }
                }
            });
        }
    });
    let mut ends = ends.into_inner().unwrap_or_default();
    ends.sort_by_key(|(n, seed, ..)| (*n, *seed));
    let mut rows: Vec<Row> = Vec::new();
    for (_, seed, name, end, twin) in ends {
        if rows.last().is_none_or(|row| row.name != name) {
            rows.push(Row { name, took: Vec::new(), calls: Vec::new(), wrong: Vec::new() });
        }
        let Some(row) = rows.last_mut() else { continue };
        row.wrong.extend(end.wrong.iter().map(|wrong| format!("seed {seed}: {wrong}")));
        let Some(took) = end.took else { continue };
        let at = usize::try_from(took.as_secs()).unwrap_or(usize::MAX);
        let here = end.calls.get(at).copied().unwrap_or_default();
        let there = twin.calls.get(at).copied().unwrap_or_default();
        row.took.push(took);
        row.calls.push([0, 1].map(|side| here[side].cast_signed() - there[side].cast_signed()));
    }
    rows
}

/// The table, for `docs/reliability.md`.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| Fault, alone | Well again after, median | worst | Calls to the homeserver, median | worst | Calls to Gitter, median | worst |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for Row { name, took, calls, wrong } in rows {
        let (middle, most) = middle_and_most(took.iter().map(Duration::as_secs));
        let _ = write!(text, "| {name} | {middle} s | {most} s |");
        for side in 0..2 {
            let (middle, most) = middle_and_most(calls.iter().map(|calls| calls[side]));
            let _ = write!(text, " {middle:+} | {most:+} |");
        }
        text.push('\n');
        for wrong in wrong {
            let _ = writeln!(text, "  NEVER WELL: {wrong}");
        }
    }
    text
}

fn middle_and_most<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> (T, T) {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    (
        values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default(),
        values.last().copied().unwrap_or_default(),
    )
}

async fn run(seed: u64, fault: Fault, lasts: Duration, watch: Duration) -> Run {
    let mut rng = StdRng::seed_from_u64(seed);
    let stage = Stage::set(&mut rng, GITTER_LIMIT, false, People::come_as_always);
    let how = [Outage::Refused, Outage::Silent, Outage::Proxy];
    let how = how[usize::try_from(seed % 3).unwrap_or(0)];
    let mut ward = Ward { rng, stage, life: None, disk: Disk::new(), lives: 0, how };
    ward.begin();
    for _ in 0..60 {
        ward.stage.people.settle_in();
        sleep(Duration::from_secs(2)).await;
    }
    sleep(REST).await;
    let before = ward.wrong();
    if !before.is_empty() {
        return Run { took: None, calls: Vec::new(), wrong: before };
    }
    let bytes = ward.life.as_ref().map(|life| life.disk().bytes()).unwrap_or_default();
    let backup = Backup { bytes, taken: ward.stage.time.now() };
    let from = Instant::now();
    ward.hurt(fault);
    for n in 1..=ROUNDS {
        ward.stage.people.round();
        sleep_until(
            from + lasts.saturating_sub(LAST_WORDS).mul_f64(f64::from(n) / f64::from(ROUNDS)),
        )
        .await;
        ward.care(fault);
    }
    sleep_until(from + lasts).await;
    ward.heal(fault, backup).await;
    // That all is well again is shown by words, too.
    ward.stage.people.round();
    ward.recovery(matches!(fault, Fault::Backup | Fault::Rebuilt | Fault::Lost), watch).await
}

/// A database as it was.
struct Backup {
    bytes: Vec<u8>,
    taken: u64,
}

/// A bridge that is hurt once.
struct Ward {
    rng: StdRng,
    stage: Stage,
    life: Option<Life>,
    disk: Disk,
    lives: u64,
    /// How a side that is away is missed.
    how: Outage,
}

impl Ward {
    fn begin(&mut self) {
        self.lives += 1;
        let seed = self.rng.random();
        match Life::start(&self.stage.cradle, self.disk.clone(), self.lives, seed) {
            Ok(life) => {
                self.stage.net.set_life(Some(life.clone()));
                self.life = Some(life);
            }
            Err(error) => self.stage.history.violation(format!("no start: {error:#}")),
        }
    }

    fn end(&mut self) {
        if let Some(life) = self.life.take() {
            life.die("here");
            self.disk = life.disk().after_crash(Loss::All);
            self.stage.net.set_life(None);
        }
    }

    fn hurt(&mut self, fault: Fault) {
        let Stage { net, gitter, home, .. } = &self.stage;
        match fault {
            Fault::Away(sides) => {
                for side in sides {
                    net.set_outage(*side, Some(self.how));
                    if *side == Side::Gitter {
                        gitter.drop_connections();
                    }
                }
            }
            Fault::Killed | Fault::Stopped => self.end(),
            Fault::Restarted(Side::Gitter) => {
                gitter.set_down(true);
                gitter.forget_clients();
            }
            Fault::Restarted(_) => home.world().stop(),
            Fault::Every2nd(trouble) => {
                net.set_plague(Side::Homeserver, trouble, 500);
                net.set_plague(Side::Gitter, trouble, 500);
            }
            Fault::Mute => gitter.stall(true),
            Fault::DiskFull => {
                if let Some(life) = &self.life {
                    life.disk().limit(life.disk().bytes().len() as u64);
                }
            }
            Fault::Nothing | Fault::Clock(_) | Fault::Backup | Fault::Rebuilt | Fault::Lost => {}
        }
    }

    /// A bridge whose disk has failed it ends; it is not started before there is room.
    fn care(&mut self, fault: Fault) {
        let broken = self.life.as_ref().is_some_and(|life| life.is_broken() || life.wants_to_end());
        if fault == Fault::DiskFull && broken {
            self.end();
        }
    }

    async fn heal(&mut self, fault: Fault, backup: Backup) {
        self.stage.net.heal();
        self.stage.gitter.stall(false);
        match fault {
            Fault::Killed | Fault::Stopped | Fault::DiskFull => {
                self.end();
                self.begin();
            }
            Fault::Restarted(Side::Gitter) => self.stage.gitter.set_down(false),
            Fault::Restarted(_) => self.stage.home.world().start(),
            Fault::Clock(skew) => self.stage.time.set_skew(skew),
            Fault::Backup => {
                self.end();
                match store::restored_disk(backup.bytes, Millis(backup.taken)) {
                    Ok(disk) => self.disk = disk,
                    Err(error) => self.stage.history.violation(format!("no database: {error}")),
                }
                self.begin();
            }
            Fault::Lost | Fault::Rebuilt => {
                self.end();
                self.disk = Disk::new();
                let seed = self.rng.random();
                if fault == Fault::Rebuilt {
                    match life::rebuild(&self.stage.cradle, seed).await {
                        Ok(disk) => self.disk = disk,
                        Err(error) => {
                            self.stage.history.violation(format!("no database: {error:#}"));
                        }
                    }
                }
                self.begin();
                self.stage.people.lose_logins(fault == Fault::Lost);
            }
            _ => {}
        }
    }

    /// What the judge finds now, and which words are not on the other side once.
    fn wrong(&self) -> Vec<String> {
        self.judged(false)
    }

    fn judged(&self, restored: bool) -> Vec<String> {
        let Stage { time, home, gitter, people, history, .. } = &self.stage;
        let Some(life) = &self.life else { return vec!["there is no bridge".to_owned()] };
        let found = History::new(time.clone());
        let home = home.world();
        let case = Case {
            history: &found,
            people,
            home: &home,
            gitter,
            life,
            restores: if restored { &[0] } else { &[] },
            lost: None,
            flaws: false,
            last: None,
            deeds: self.stage.net.deeds(),
            outages: &[],
        };
        judge::judge(&case);
        let mut wrong = history.violations();
        wrong.extend(found.violations());
        // What is on its way will be seen to arrive.
        if home.takes_appservice_for_down() && home.unpushed() > 0 {
            wrong.push("the homeserver has not delivered everything".to_owned());
        }
        for (n, account) in people.accounts.iter().enumerate() {
            if !people.is_logged_in(n) {
                wrong.push(format!("{} is not logged in", account.person.id()));
            }
        }
        for room in &people.rooms {
            let messages = gitter.messages(&room.id);
            let on_gitter = counted(messages.iter().map(|message| message.text.as_str()));
            for said in people.said.iter().filter(|said| said.portal.room.as_str() == room.id) {
                let count = on_gitter.get(&said.text).copied().unwrap_or(0);
                // What is said without a login is answered.
                let told = || judge::told(&home.events(&said.room), &said.event);
                if count != 1 && !(count == 0 && told()) {
                    wrong.push(format!("{} is on Gitter {count} times", said.text));
                }
            }
        }
        for room in home.rooms() {
            let Some(key) = portal_of(&room) else { continue };
            let timeline = home.timeline(&room.id);
            let shown = counted(timeline.iter().map(homeserver_sim::Shown::text));
            for posted in people.posted.iter().filter(|p| p.room == key.room.as_str()) {
                let count = shown.get(&posted.text).copied().unwrap_or(0);
                if count != 1 {
                    wrong.push(format!("{} is in {key} {count} times", posted.text));
                }
            }
        }
        wrong
    }

    /// Watches until all is well and stays so, for no longer than `watch`.
    async fn recovery(mut self, restored: bool, watch: Duration) -> Run {
        let ended = Instant::now();
        let start = self.stage.net.calls_made();
        let (mut calls, mut well_since, mut seen) = (Vec::new(), None, None);
        let mut wrong = Vec::new();
        while ended.elapsed() <= watch {
            let made = self.stage.net.calls_made();
            calls.push([0, 1].map(|side| made[side] - start[side]));
            // Nobody but the bridge acts now, and people who have to log in again.
            let logged_in =
                (0..self.stage.people.accounts.len()).all(|n| self.stage.people.is_logged_in(n));
            let now = (self.stage.net.calls(), self.stage.home.world().unpushed(), logged_in);
            if seen != Some(now) {
                seen = Some(now);
                wrong = self.judged(restored);
                well_since = well_since.filter(|_| wrong.is_empty());
                if wrong.is_empty() && well_since.is_none() {
                    well_since = Some(Instant::now());
                }
            }
            if well_since.is_some_and(|since| since.elapsed() >= REST) {
                break;
            }
            sleep(LOOK).await;
            if !logged_in {
                self.stage.people.settle_in();
            }
        }
        Run { took: well_since.map(|since| since - ended), calls, wrong }
    }
}
