//! A storm: people live their lives on both sides while everything between them is broken, again and again; then both sides
//! are compared.
//!
//! The seed decides what is done and when; how it meets what the servers are just doing is up to the machine.

mod check;
mod disk;
mod life;
mod recovery;
mod torment;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use gitter_sim::{RoomSpec, World as Gitter};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, interval, sleep};

use crate::{BotEyes, Daemon, Person, World, patience, titled, until};

pub use disk::Disk;

/// Who is on Gitter only.
const OTHERS: [&str; 2] = ["dave", "erin"];
/// Rooms in which everybody is and stays.
const STEADY: [&str; 2] = ["steady/one", "steady/two"];
/// Rooms that people come into and leave.
const MOVING: [&str; 2] = ["moving/one", "moving/two"];

/// What a storm is made of.
#[derive(Debug)]
pub struct Storm {
    /// Decides what happens and when.
    pub seed: u64,
    /// How often the bridge is killed.
    pub kills: u32,
    /// How often something else is broken; what can be depends on the world: its own homeserver, ways that can be hurt.
    pub hurts: u32,
    /// Whether, in the end, an older database is put in place, and then the database is lost and rebuilt from the rooms.
    pub recovery: bool,
    /// The disk that the bridge's database is on, if it can be filled.
    pub disk: Option<Disk>,
}

/// What became of a storm.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was done to the servers, and how often.
    pub torments: BTreeMap<&'static str, u32>,
    /// What this machine did not allow, and why.
    pub skipped: BTreeSet<String>,
    /// Messages written on Matrix, and on Gitter.
    pub written: (usize, usize),
    /// Messages that are missing on the other side although nobody was told so.
    pub lost: usize,
    /// Messages that are on the other side more than once.
    pub doubled: usize,
    /// Rooms in which messages are in another order than they were written in.
    pub disordered: usize,
    /// When the homeserver was killed.
    pub homeserver_killed: Vec<Instant>,
    /// Rooms in which a message came to Gitter late, after what was written after it, because the homeserver kept it back: Synapse
    /// forgets what it had not sent yet when it is killed, and the bridge finds it in the room. Only of what was written shortly
    /// before.
    pub kept_back: usize,
    /// Portals more than there should be.
    pub rooms_doubled: usize,
    /// What else is not as it should be, in words, with what stands behind the numbers.
    pub complaints: Vec<String>,
    /// From the end of the last torment until both sides agreed.
    pub converged: Duration,
    /// From the end of the last torment until each step on the way there was done.
    pub steps: Vec<(&'static str, Duration)>,
    /// What both sides differed in after those, shortly before they agreed.
    pub differed: Vec<String>,
}

impl Report {
    /// Whether both sides agree.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.complaints.is_empty()
    }
}

/// What one person should have of one Gitter room.
struct Pair {
    who: usize,
    room: &'static str,
    portal: bool,
    member: bool,
    /// How often a portal was asked for.
    opened: usize,
    /// Since when all of it has been true.
    settled: Option<Instant>,
}

/// Where the one who logs out and in again stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Login {
    In,
    /// Said `logout`.
    Leaving,
    /// Said `login` with this event.
    Asked(String),
    /// Followed a link.
    Coming,
}

/// Keeps people from doing half a thing when the homeserver is taken away: that would be the homeserver's fault, not the
/// bridge's.
#[derive(Debug, Default)]
struct Gate {
    busy: Mutex<()>,
    away: Cell<bool>,
    /// The disk is full: a wish that has come true can't be noted, and taken back meanwhile it is carried out again.
    full: Cell<bool>,
}

/// What somebody said, as which event, and when.
#[derive(Debug, Clone)]
struct Said {
    text: String,
    event: String,
    at: Instant,
}

/// Two people who stay, one who logs out and in, and what they have done so far.
struct Life<'a> {
    gitter: &'a Gitter,
    gate: &'a Gate,
    bot: String,
    people: Vec<Person>,
    names: [&'static str; 3],
    chats: Vec<String>,
    pairs: Vec<Pair>,
    login: Login,
    /// What each said in which Gitter room, from Matrix.
    said: BTreeMap<(usize, &'static str), Vec<Said>>,
    steady: BTreeMap<(usize, &'static str), String>,
    count: u32,
    faults: u32,
    rng: StdRng,
}

impl Storm {
    /// Lets it rage in a world that has just been started, and compares both sides when it is over.
    ///
    /// # Errors
    /// When a server can't be handled, the bridge ends by itself without a reason, or people's wishes never come true.
    pub async fn rage(&self, world: &mut World) -> Result<Report> {
        let (gitter, transcript) = (world.gitter.clone(), world.transcript.clone());
        let (gate, eyes, done) = (Gate::default(), BotEyes::of(world)?, Cell::new(false));
        let mut life = Life::begin(world, &gitter, &gate, self.seed).await?;
        let tormented = async {
            let tormented = torment::torment(world, self, &gate, &transcript).await;
            done.set(true);
            tormented
        };
        let lived = async {
            while !done.get() {
                let pause = Duration::from_millis(life.rng.random_range(40..250));
                sleep(pause).await; // the seed's own pace, no waiting for anything
                life.act().await?;
            }
            Ok(())
        };
        let (mut report, ()) = tokio::try_join!(tormented, lived)?;
        gitter.clear_faults();
        let over = Instant::now();
        let mut steps = Vec::new();
        let mut reached = |step| steps.push((step, over.elapsed()));
        life.kill_and_be_heard(&mut world.bridge).await?;
        reached("bridge heard again");
        life.come_to_rest().await?;
        reached("wishes come true");
        life.last_words("before a last kill").await?;
        reached("last words carried");
        life.kill_and_be_heard(&mut world.bridge).await?;
        life.last_words("after a last kill").await?;
        reached("words carried after a last kill");
        report.differed = life.agree(&eyes, &mut report).await?;
        (report.converged, report.steps) = (over.elapsed(), steps);
        if self.recovery && report.is_clean() {
            life.older_database(world).await?;
            *report.torments.entry("older database put in place").or_default() += 1;
            life.agree(&eyes, &mut report).await?;
        }
        if self.recovery && report.is_clean() {
            life.lost_database(world).await?;
            *report.torments.entry("database lost and rebuilt").or_default() += 1;
            life.agree(&eyes, &mut report).await?;
        }
        Ok(report)
    }
}

impl<'a> Life<'a> {
    /// People, rooms, and everybody logged in.
    async fn begin(
        world: &World,
        gitter: &'a Gitter,
        gate: &'a Gate,
        seed: u64,
    ) -> Result<Life<'a>> {
        for user in ["alice", "bob", "carol"].into_iter().chain(OTHERS) {
            world.gitter.add_user(user, user);
        }
        for room in STEADY.into_iter().chain(MOVING) {
            world.gitter.add_room(RoomSpec::public(room));
            for user in OTHERS {
                world.gitter.join(room, user);
            }
        }
        let names = ["alice", "bob", "carol"];
        let (mut people, mut chats, mut steady) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (who, name) in names.into_iter().enumerate() {
            for room in STEADY {
                world.gitter.join(room, name);
            }
            let person = world.person(name).await?;
            chats.push(world.log_in(&person, name).await?);
            for room in STEADY {
                steady.insert((who, room), person.accept_invite(&titled(room)).await?);
            }
            people.push(person);
        }
        let pairs = MOVING.iter().flat_map(|room| [0, 1].map(|who| (who, *room)));
        let pairs = pairs.map(|(who, room)| Pair {
            who,
            room,
            portal: false,
            member: false,
            opened: 0,
            settled: None,
        });
        Ok(Life {
            gitter,
            gate,
            bot: world.bridge.bot(),
            people,
            names,
            chats,
            pairs: pairs.collect(),
            login: Login::In,
            said: BTreeMap::new(),
            steady,
            count: 0,
            faults: 0,
            rng: StdRng::seed_from_u64(seed),
        })
    }

    /// A last death, after which the homeserver has nothing left to tell.
    ///
    /// An event that comes in the moment in which Synapse finds a bridge up again can be left behind: it is put aside as for a
    /// bridge that is down, after the last look at what was put aside (`_Recoverer.retry` and `_TransactionController.send` in
    /// `synapse/appservice/scheduler.py`). It is sent when the bridge comes back the next time. So somebody speaks while
    /// the bridge is away, and nobody while it comes back.
    async fn kill_and_be_heard(&self, bridge: &mut Daemon) -> Result<()> {
        bridge.kill9()?;
        let asked = self.people[0].send_text(&self.chats[0], "help").await?;
        bridge.start_again()?;
        bridge.wait_ready().await?;
        self.people[0].wait_for_answer(&self.chats[0], &self.bot, Some(&asked)).await?;
        let (mut last, mut same) = (None, 0);
        let mut look = interval(Duration::from_millis(100));
        while same < 10 {
            look.tick().await;
            let metrics = bridge.metrics().await?;
            let heard = metrics.iter().filter(|(name, _)| name.contains("_transactions_total"));
            let heard: Vec<String> = heard.map(|(name, n)| format!("{name} {n}")).collect();
            same = if last.as_ref() == Some(&heard) { same + 1 } else { 0 };
            last = Some(heard);
        }
        Ok(())
    }

    /// Waits until every wish has come true and the third person is logged in.
    async fn come_to_rest(&mut self) -> Result<()> {
        let deadline = Instant::now() + patience();
        let mut look = interval(Duration::from_millis(100));
        loop {
            look.tick().await;
            self.accept_invites().await?;
            if self.login != Login::In {
                self.log_in_or_out().await?;
            } else if self.pairs.iter().all(|pair| self.is_settled(pair)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let open = self.pairs.iter().filter(|pair| !self.is_settled(pair));
                let open: Vec<_> =
                    open.map(|p| (self.names[p.who], p.room, p.portal, p.member)).collect();
                bail!(
                    "not come to rest: login {:?}, (who, room, portal, member) {open:?}\n{}",
                    self.login,
                    self.people.iter().map(|p| p.look(crate::View::tail)).collect::<String>()
                );
            }
        }
    }

    /// Whoever is in a room says something in it, and waits until it has arrived: what was said before it has too.
    async fn last_words(&mut self, when: &str) -> Result<()> {
        for (who, name) in self.names.into_iter().enumerate() {
            for room in STEADY.into_iter().chain(MOVING) {
                let Some(at) = self.portal(who, room) else { continue };
                let text = format!("{name} is here {when}");
                let event = self.people[who].send_text(&at, &text).await?;
                self.has_said(who, room, text.clone(), event);
                let there = || self.gitter.messages(room).iter().any(|m| m.text == text);
                until(&format!("“{text}” in {room}"), async || {
                    ensure!(there(), "not there");
                    Ok(())
                })
                .await?;
            }
        }
        for room in STEADY.into_iter().chain(MOVING) {
            let text = format!("dave is here {when}");
            self.gitter.post("dave", room, &text);
            for who in 0..self.people.len() {
                let Some(at) = self.portal(who, room) else { continue };
                self.people[who].wait_for_text(&at, &text).await?;
            }
        }
        Ok(())
    }
}
