//! One schedule: what goes wrong when, and how it ends.
//!
//! First a while in which people act and faults happen; then all faults end, and everything must come to rest within
//! [`CALM`]; then rest must last; then everybody says something once more, and it must arrive.

use std::{cell::RefCell, sync::Arc, time::Duration};

use gitter_sim::{SimClock, SimConfig};
use homeserver_sim::{Config, HomeserverSim};
use matrix_gitter::http::{self, Destination};
use rand::{
    Rng as _, SeedableRng as _,
    distr::{Distribution as _, weighted::WeightedIndex},
    rngs::StdRng,
};
use reconcile::{model::Millis, port::Clock as _};
use store::disk::{Disk, Loss};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    history::History,
    judge::{self, Case},
    life::{self, Cradle, DOMAIN, GITTER_HOST, Life, RESYNC},
    net::{Net, Outage, Side, Trouble},
    people::{People, turn, weighted},
    time::{BEGIN, Time},
};

/// Within so much time after the last fault everything is at rest: eight resyncs.
pub const CALM: Duration = RESYNC.saturating_mul(8);
/// Rest that lasts: longer than a resync with its jitter.
pub(crate) const REST: Duration = Duration::from_secs(720);
/// Within so much time after the last fault the live connections are back.
const LISTENING: Duration = Duration::from_secs(150);
/// Within so much time it is seen who has left a room on Gitter.
const MEMBERS: Duration = Duration::from_secs(4200);
/// Calls a minute that Gitter allows an account.
pub(crate) const GITTER_LIMIT: u64 = 100;
/// When everything works, what is said arrives within this.
const PROMPT: Duration = Duration::from_secs(90);
/// So often each thing is looked at during [`REST`], on average, at most: twice what 300 schedules needed, in which the resync came
/// twice. A loop without a pause has many times more.
const LOOKS: u64 = 12;
/// So many calls in a life may be refused by Gitter's own limit: those under way when a window is used up of which the bridge knows
/// nothing yet, as when it has just begun. 9 were the most in 360 schedules.
const REFUSED: u64 = 20;

/// What became of a schedule.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The promises that were broken; none is good.
    pub violations: Vec<String>,
    /// Faults by kind.
    pub faults: std::collections::BTreeMap<String, u64>,
    /// What happened.
    pub lines: Vec<String>,
    /// Equal for equal histories.
    pub digest: u64,
    /// How long it lasted, by its own clock.
    pub lasted: Duration,
    /// How long it took to come to rest after the last fault.
    pub calmed: Duration,
    /// Calls made by all sides.
    pub calls: u64,
    /// Things said.
    pub said: usize,
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Makes panics of the bridge's tasks known to the judge; call it once.
pub fn watch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let what = info.to_string().replace('\n', " ");
        eprintln!("{what}");
        PANICS.with_borrow_mut(|panics| panics.push(what));
    }));
}

/// Runs the schedule of a seed.
///
/// # Panics
///
/// When the worlds can't be made: a mistake in the simulation.
#[must_use]
pub fn run(seed: u64) -> Report {
    PANICS.with_borrow_mut(Vec::clear);
    alone(schedule(seed))
}

/// Runs something in a time of its own, which passes when everything waits.
pub(crate) fn alone<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can be made");
    runtime.block_on(what)
}

thread_local! {
    /// Reading certificates takes longer than a schedule.
    static CLIENT: reqwest::Client =
        http::client(Destination::Probe).expect("a client that makes no connection can be made");
}

/// The worlds and what is in them, before the bridge comes.
pub(crate) struct Stage {
    pub(crate) time: Time,
    pub(crate) history: History,
    pub(crate) net: Net,
    pub(crate) home: HomeserverSim,
    pub(crate) gitter: gitter_sim::World,
    pub(crate) people: People,
    pub(crate) cradle: Cradle,
}

impl Stage {
    /// Makes the worlds; Gitter allows each account `limit` calls a minute, `cast` puts people and rooms into them.
    pub(crate) fn set(
        rng: &mut StdRng,
        limit: u64,
        flaws: bool,
        cast: impl FnOnce(&mut People),
    ) -> Self {
        let time = Time::new();
        let history = History::new(time.clone());
        let config = Config {
            domain: DOMAIN.to_owned(),
            seed: rng.random(),
            epoch_ms: BEGIN,
            as_token: life::AS_TOKEN.to_owned(),
            hs_token: life::HS_TOKEN.to_owned(),
            room_version: if rng.random_bool(0.5) { 10 } else { 12 },
            flaws,
            ..Config::default()
        };
        let home = HomeserverSim::start(config);
        let clock = time.clone();
        let gitter = gitter_sim::World::new(SimConfig {
            seed: rng.random(),
            rate_limit: Some(limit),
            clock: Some(SimClock(Arc::new(move || i64::try_from(clock.now()).unwrap_or(0)))),
            ..SimConfig::default()
        });
        gitter.set_origin(&format!("http://{GITTER_HOST}"));
        let (door, serve) = gitter.open_door();
        tokio::spawn(serve);
        let router = home.router();
        let net =
            Net::new(time.clone(), history.clone(), router, gitter.clone(), door, rng.random());
        home.world().connect(net.to_bridge());
        let client = CLIENT.with(Clone::clone);
        let mut people = People::new(
            rng.random(),
            time.clone(),
            history.clone(),
            net.clone(),
            home.world(),
            gitter.clone(),
            client.clone(),
        );
        cast(&mut people);
        let settings = Arc::new(life::settings().expect("the settings are in order"));
        let cradle = Cradle {
            time: time.clone(),
            history: history.clone(),
            net: net.clone(),
            settings,
            client,
        };
        Self { time, history, net, home, gitter, people, cradle }
    }
}

async fn schedule(seed: u64) -> Report {
    let mut rng = StdRng::seed_from_u64(seed);
    // Less than the bridge allows itself: it has to heed what Gitter says. Such small worlds rarely use up more.
    let limit = if seed.is_multiple_of(4) { 40 } else { GITTER_LIMIT };
    // As Synapse does.
    let flaws = seed.is_multiple_of(3);
    let Stage { time, history, net, home, gitter, people, cradle } =
        Stage::set(&mut rng, limit, flaws, People::come_at_random);
    let mut director = Director {
        rng,
        time,
        history,
        net,
        home,
        gitter,
        people,
        cradle,
        life: None,
        disk: Disk::new(),
        lives: 0,
        backups: Vec::new(),
        restores: Vec::new(),
        lost: None,
        outages: Vec::new(),
        full: false,
        flaws,
        blows: weighted(BLOWS.iter().map(|(weight, _)| *weight).collect()),
    };
    let calmed = director.play().await;
    let report = director.report(seed, calmed);
    director.end();
    report
}

/// What goes wrong, besides single requests.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Crash,
    CrashSoon,
    Restart,
    Outage(Side),
    Trouble,
    Faye,
    Clock,
    DiskFull,
    HomeserverRestart,
    GitterRestart,
    Restore,
    Lose,
}

/// How often what goes wrong.
const BLOWS: [(u32, Blow); 14] = [
    (10, Blow::Crash),
    (25, Blow::CrashSoon),
    (4, Blow::Restart),
    (5, Blow::Outage(Side::Homeserver)),
    (5, Blow::Outage(Side::Gitter)),
    (5, Blow::Outage(Side::Bridge)),
    (20, Blow::Trouble),
    (12, Blow::Faye),
    (4, Blow::Clock),
    (3, Blow::DiskFull),
    (4, Blow::HomeserverRestart),
    (3, Blow::GitterRestart),
    (4, Blow::Restore),
    (2, Blow::Lose),
];

struct Director {
    rng: StdRng,
    time: Time,
    history: History,
    net: Net,
    home: HomeserverSim,
    gitter: gitter_sim::World,
    people: People,
    cradle: Cradle,
    life: Option<Life>,
    disk: Disk,
    lives: u64,
    /// Copies of the database file, and when they were made by the bridge's clock.
    backups: Vec<(Vec<u8>, Millis)>,
    /// When another database was put in place: a backup, or one made anew.
    restores: Vec<u64>,
    /// When the database was lost for the last time.
    lost: Option<u64>,
    /// From when to when a side was away, or the bridge dead.
    outages: Vec<(u64, u64)>,
    /// The disk takes no more.
    full: bool,
    /// The homeserver loses sight of events.
    flaws: bool,
    /// How often which of [`BLOWS`] comes.
    blows: WeightedIndex<u32>,
}

impl Director {
    async fn play(&mut self) -> Duration {
        // What takes many of one kind is found sooner where the others are missing.
        if self.rng.random_bool(0.5) {
            self.people.take_habits();
            let weights = BLOWS.iter().map(|(weight, _)| weight * turn(&mut self.rng));
            self.blows = weighted(weights.collect());
        }
        // There was a time before the bridge.
        for _ in 0..self.rng.random_range(0..6) {
            self.people.post();
            sleep(Duration::from_millis(self.rng.random_range(0..60_000))).await;
        }
        self.birth();
        // A world without people is no test: most schedules begin with everybody logged in.
        if self.rng.random_bool(0.9) {
            for _ in 0..40 {
                self.people.settle_in();
                sleep(Duration::from_millis(self.rng.random_range(200..3000))).await;
            }
        }
        self.hurt().await;
        self.history.note("ALL TROUBLE ENDS");
        self.net.heal();
        self.gitter.set_down(false);
        self.gitter.stall(false);
        self.gitter.lose_next_frames(0);
        self.home.world().start();
        if self.life.as_ref().is_none_or(Life::is_dead) {
            self.birth();
        } else if let Some(life) = &self.life {
            life.spare();
            if life.is_broken() || self.full {
                self.rebirth().await;
            }
        }
        // Something has to happen for a homeserver that was restarted to go on with what it could not deliver.
        self.people.round();
        let healed = Instant::now();
        let calm = self.calm(CALM).await;
        let calmed = healed.elapsed();
        if !calm {
            self.history.violation(format!(
                "not at rest {} minutes after the last fault",
                CALM.as_secs() / 60
            ));
            return calmed;
        }
        self.history.note("AT REST");
        if !self.net.is_pinged() {
            self.history.violation("the homeserver was not pinged until it reached the bridge");
        }
        // Who is in a room is read anew every hour.
        sleep(MEMBERS).await;
        // A last word of everybody, while nothing is wrong.
        let last = self.time.now();
        self.people.round();
        sleep(PROMPT).await;
        self.judge(Some(last));
        calmed
    }

    fn judge(&self, last: Option<u64>) {
        let Some(life) = &self.life else {
            self.history.violation("there is no bridge at the end");
            return;
        };
        let case = Case {
            history: &self.history,
            people: &self.people,
            home: &self.home.world(),
            gitter: &self.gitter,
            life,
            restores: &self.restores,
            lost: self.lost,
            flaws: self.flaws,
            last,
            outages: &self.outages,
            deeds: self.net.deeds(),
        };
        judge::judge(&case);
    }

    /// Waits until nothing changes any more, for no longer than `at_most`; then until that has lasted.
    async fn calm(&mut self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let now = |net: &Net| (Instant::now(), net.changes());
        let (mut since, mut looks) = (now(&self.net), None);
        loop {
            sleep(Duration::from_secs(10)).await;
            self.look();
            // What it has lost sight of it may keep for ever; the longest pause between its repeats is shorter than the rest.
            let waiting = !self.flaws && self.home.world().unpushed() > 0;
            if waiting || self.net.changes() != since.1 {
                (since, looks) = (now(&self.net), None);
            }
            // Before that Gitter's rooms are polled.
            if since.0.elapsed() >= LISTENING {
                looks.get_or_insert_with(|| self.net.looks());
            }
            if since.0.elapsed() >= REST {
                let looks = self.net.looks() - looks.unwrap_or_default();
                let most = LOOKS * self.things();
                if looks > most {
                    self.history.violation(format!(
                        "{looks} times something was looked at while nothing happened, not {most}"
                    ));
                }
                return true;
            }
            if Instant::now() >= deadline + REST {
                return false;
            }
            if self.life.as_ref().is_none_or(Life::is_dead) {
                self.history.violation("the bridge ended by itself");
                return false;
            }
        }
    }

    /// How many things there are that the bridge may have to look after: accounts, ghosts, rooms, and what each account has of
    /// each room.
    fn things(&self) -> u64 {
        let People { accounts, gitterers, rooms, .. } = &self.people;
        let (accounts, rooms) = (accounts.len(), rooms.len());
        (accounts + gitterers.len() + rooms + accounts * rooms) as u64
    }

    /// What waits inside the bridge is bounded, whatever happens: each thing is there once. And so is what Gitter refuses.
    fn look(&self) {
        let refused = self.net.limited();
        if refused > REFUSED {
            self.history.violation(format!("Gitter's limit refused {refused} calls in one life"));
        }
        let Some(bridge) = self.life.as_ref().and_then(Life::bridge) else { return };
        let waiting: usize =
            reconcile::queue::Class::ALL.iter().map(|class| bridge.queue.depth(*class)).sum();
        let busy = self.life.as_ref().and_then(Life::relay).map_or(0, |relay| relay.busy());
        // Portals have two keys, and two lanes; each room of the bot, chats and old portals among them, has a key or a lane for words.
        let most = 2 * usize::try_from(self.things()).unwrap_or(usize::MAX / 4)
            + self.home.world().rooms().len();
        if waiting.max(busy) > most {
            self.history
                .violation(format!("{waiting} keys wait and {busy} lanes are at work, of {most}"));
        }
    }

    /// People act, and everything goes wrong.
    async fn hurt(&mut self) {
        let minutes = [3, 10, 30, 90][self.rng.random_range(0..4)];
        let end = Instant::now() + Duration::from_secs(60 * minutes);
        let pace: u64 = [300, 2_000, 10_000, 40_000][self.rng.random_range(0..4)];
        let blows: u64 = [10, 30, 120, 600][self.rng.random_range(0..4)];
        let mut blow_at = Instant::now();
        // Short schedules find what goes wrong at one moment sooner; long ones, what takes several troubles.
        let most = [10, 30, 90, 300][self.rng.random_range(0..4)];
        let mut acts = 0;
        while Instant::now() < end && acts < most {
            let pause = Duration::from_millis(self.rng.random_range(0..2 * pace));
            sleep_until((Instant::now() + pause).min(end)).await;
            self.people.step();
            acts += 1;
            self.look();
            if Instant::now() >= blow_at {
                blow_at =
                    Instant::now() + Duration::from_secs(self.rng.random_range(1..=2 * blows));
                self.blow().await;
            }
            self.care().await;
        }
    }

    /// Somebody looks after the machine: what is dead is started again, now or later.
    async fn care(&mut self) {
        let Some(life) = self.life.clone() else { return };
        if life.is_dead() {
            let pause = self.rng.random_range(0..5);
            let pause = [50, 3_000, 60_000, 900_000, 7_200_000][pause];
            let pause = Duration::from_millis(self.rng.random_range(0..=pause));
            self.net.set_life(None);
            let begin = self.time.now();
            // Life goes on without it.
            let steps = self.rng.random_range(1..=6);
            for _ in 0..steps {
                sleep(pause / steps).await;
                self.people.step();
            }
            self.outages.push((begin, self.time.now()));
            self.birth();
        } else if life.is_broken() || life.wants_to_end() {
            self.history.note("the bridge is started anew, for it can't go on");
            self.rebirth().await;
        }
    }

    fn birth(&mut self) {
        self.full = false;
        let old = self.life.take();
        if let Some(old) = old {
            old.die("at last");
            let loss = match self.rng.random_range(0..5) {
                0 => Loss::All,
                1 => Loss::Nothing,
                _ => Loss::Some(self.rng.random()),
            };
            if loss == Loss::All {
                // As when the power fails.
                self.time.boot();
            }
            self.disk = old.disk().after_crash(loss);
        }
        for attempt in 0..3 {
            self.lives += 1;
            let disk = self.disk.clone();
            let born = Life::start(&self.cradle, disk, self.lives, self.rng.random());
            match born {
                Ok(life) => {
                    self.history.note(format!("the bridge begins life {}", self.lives));
                    self.net.set_life(Some(life.clone()));
                    self.life = Some(life);
                    return;
                }
                Err(error) => {
                    self.history.violation(format!("start {attempt} failed: {error:#}"));
                }
            }
        }
    }

    async fn rebirth(&mut self) {
        if let Some(life) = &self.life {
            life.stop().await;
        }
        self.birth();
    }

    async fn blow(&mut self) {
        let kind = BLOWS[self.blows.sample(&mut self.rng)].1;
        let history = self.history.clone();
        match kind {
            Blow::Crash => {
                history.fault("crash", "now");
                if let Some(life) = &self.life {
                    life.die("suddenly");
                }
            }
            Blow::CrashSoon => {
                let fuse = self.rng.random_range(0..60);
                history.fault("crash at a call or commit", format!("the {fuse}th from now"));
                if let Some(life) = &self.life {
                    life.light(fuse);
                }
            }
            Blow::Restart => {
                history.fault("graceful restart", "");
                self.rebirth().await;
            }
            Blow::Outage(side) => self.outage(side).await,
            Blow::Trouble => self.trouble(),
            Blow::Faye => self.blow_to_faye(),
            Blow::Clock => {
                if self.rng.random_bool(0.5) {
                    let jump = self.rng.random_range(-7_200_000..7_200_000);
                    history.fault("clock jump", format!("the bridge is {jump} ms off"));
                    self.time.set_skew(jump);
                } else {
                    // Where people write the time is kept better.
                    let jump = self.rng.random_range(-50_000..50_000);
                    history.fault("clock jump", format!("the homeserver's, by {jump} ms"));
                    self.home.world().jump_clock(jump);
                }
            }
            Blow::DiskFull => {
                if let Some(life) = &self.life {
                    history.fault("disk full", "");
                    let size = life.disk().bytes().len();
                    life.disk().limit(size as u64);
                    self.full = true;
                }
            }
            Blow::HomeserverRestart => {
                history.fault("restart of the homeserver", "");
                self.home.world().stop();
                sleep(Duration::from_millis(self.rng.random_range(0..20_000))).await;
                self.home.world().start();
            }
            Blow::GitterRestart => {
                history.fault("restart of Gitter", "");
                self.gitter.set_down(true);
                self.gitter.forget_clients();
                sleep(Duration::from_millis(self.rng.random_range(0..20_000))).await;
                self.gitter.set_down(false);
            }
            Blow::Restore => self.restore().await,
            Blow::Lose => self.lose().await,
        }
        if self.rng.random_bool(0.1)
            && let Some(life) = self.life.as_ref().filter(|life| !life.is_broken())
        {
            let taken = self.time.clocks().now();
            self.backups.push((life.disk().bytes(), taken));
            history.note("a backup is made");
        }
    }

    async fn outage(&mut self, side: Side) {
        let how = [Outage::Refused, Outage::Silent, Outage::Proxy];
        let how = how[self.rng.random_range(0..3)];
        let seconds = [10, 10, 100, 100, 600, 600, 3_600, 200_000];
        let seconds = seconds[self.rng.random_range(0..seconds.len())];
        let seconds: u64 = self.rng.random_range(1..=seconds);
        self.history.fault("outage", format!("of the {side:?}, {how:?}, for {seconds} s"));
        self.net.set_outage(side, Some(how));
        let begin = self.time.now();
        if side == Side::Gitter {
            self.gitter.drop_connections();
        }
        // Life goes on meanwhile, more slowly when it takes days.
        let steps = 1 + seconds.min(20);
        for _ in 0..steps {
            sleep(Duration::from_millis(seconds * 1000 / steps)).await;
            self.people.step();
            self.care().await;
        }
        self.net.set_outage(side, None);
        self.outages.push((begin, self.time.now()));
        self.history.note(format!("the outage of the {side:?} ends"));
    }

    fn trouble(&mut self) {
        let share = [0, 20, 100, 400][self.rng.random_range(0..4)];
        let side = [Side::Homeserver, Side::Gitter, Side::Bridge][self.rng.random_range(0..3)];
        if self.rng.random_bool(0.15) {
            let troubles = [Trouble::Status(500), Trouble::Status(503), Trouble::ResetAfter];
            let trouble = troubles[self.rng.random_range(0..3)];
            self.history.fault("changes fail", format!("at the {side:?}: {trouble:?}"));
            self.net.set_paralysis(side, trouble);
            return;
        }
        if self.rng.random_bool(0.3) {
            let kinds = Trouble::kinds(503);
            let trouble = kinds[self.rng.random_range(0..kinds.len())];
            self.history.note(format!("{share} of 1000 requests to the {side:?}: {trouble:?}"));
            self.net.set_plague(side, trouble, share);
            return;
        }
        self.history.note(format!("{share} of 1000 requests to the {side:?} go wrong now"));
        self.net.set_trouble(side, share);
    }

    fn blow_to_faye(&mut self) {
        let (history, gitter) = (&self.history, &self.gitter);
        match self.rng.random_range(0..5) {
            0 => {
                history.fault("live connections cut", "");
                gitter.drop_connections();
            }
            1 => {
                history.fault("live events lost", "");
                gitter.lose_next_frames(self.rng.random_range(1..6));
            }
            2 => {
                history.fault("live sessions forgotten", "");
                gitter.forget_clients();
            }
            3 => {
                history.fault("gap in live counters", "");
                gitter.skip_counter();
            }
            _ => {
                history.fault("live connections silent", "");
                let gitter = gitter.clone();
                let seconds = self.rng.random_range(1..400);
                gitter.stall(true);
                tokio::spawn(async move {
                    sleep(Duration::from_secs(seconds)).await;
                    gitter.stall(false);
                });
            }
        }
    }

    async fn restore(&mut self) {
        if self.backups.is_empty() {
            return;
        }
        let n = self.rng.random_range(0..self.backups.len());
        let (backup, taken) = self.backups[n].clone();
        self.history.fault("older backup put in place", format!("backup {n}"));
        if let Some(life) = self.life.take() {
            life.stop().await;
        }
        match store::restored_disk(backup, taken) {
            Ok(disk) => self.disk = disk,
            Err(error) => self.history.violation(format!("backup {n} can't be restored: {error}")),
        }
        self.restores.push(self.time.now());
        self.birth();
    }

    /// The database is gone. A new one is made of what the rooms say, or the bridge begins with none.
    async fn lose(&mut self) {
        let rebuilt = self.rng.random_bool(0.7);
        let kind = if rebuilt { "database lost, and rebuilt" } else { "database lost" };
        self.history.fault(kind, "");
        if let Some(life) = self.life.take() {
            if self.rng.random_bool(0.5) {
                life.stop().await;
            } else {
                life.die("with its database");
            }
        }
        self.net.set_life(None);
        self.lost = Some(self.time.now());
        self.restores.push(self.time.now());
        self.disk = if rebuilt { self.rebuild().await } else { Disk::new() };
        self.birth();
        self.people.lose_logins(!rebuilt);
        // They are asked to log in again; most do.
        if self.rng.random_bool(0.8) {
            for _ in 0..40 {
                self.people.settle_in();
                sleep(Duration::from_millis(self.rng.random_range(200..3000))).await;
                self.care().await;
            }
        }
    }

    async fn rebuild(&mut self) -> Disk {
        loop {
            match life::rebuild(&self.cradle, self.rng.random()).await {
                Ok(disk) => return disk,
                Err(error) => self.history.note(format!("no new database: {error:#}")),
            }
            // It is told why, and somebody sees to it.
            self.net.set_trouble(Side::Homeserver, 0);
            sleep(Duration::from_secs(10)).await;
            self.people.step();
        }
    }

    /// Cuts what holds the worlds and the bridge to each other, so that nothing of them is left.
    fn end(&mut self) {
        self.home.world().disconnect();
        self.net.set_life(None);
        if let Some(life) = self.life.take() {
            life.die("with its world");
        }
    }

    fn report(&self, seed: u64, calmed: Duration) -> Report {
        for panic in PANICS.with_borrow(Clone::clone) {
            self.history.violation(format!("panic: {panic}"));
        }
        Report {
            seed,
            violations: self.history.violations(),
            faults: self.history.faults(),
            lines: self.history.lines(),
            digest: self.history.digest(),
            lasted: Duration::from_millis(self.time.now() - BEGIN),
            calmed: calmed.saturating_sub(REST),
            calls: self.net.calls(),
            said: self.people.said.len() + self.people.posted.len(),
        }
    }
}
