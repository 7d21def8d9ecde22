//! The homeserver, Gitter, the store and the clock, in memory, each call of which may fail before or after its effect.
//!
//! What was sent has its effect even when the sender is killed meanwhile, as a server goes on with a request whose client
//! is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    future::{Future, pending},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use reconcile::{
    breaker::{Side, Sides},
    driver::{Driver, Key},
    model::{
        ChatStage, Condition, GitterRoom, GitterRoomId, GitterUserId, Millis, Notice, Person,
        PortalKey, Profile, Refusal, Uptime,
    },
    port::{
        ActionError, Clock, Gitter, Matrix, NewRoom, Origin, PeopleSeen, PersonSeen, Presence,
        Resolved, RoomSeen, Rows, State, TableError, Tables, Tombstone, Who,
    },
    queue::Class,
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, owned_event_id, user_id};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::rows::Data;

pub(crate) type Reconciler = Driver<Handle, Handle, Handle, Handle>;

/// A room on the homeserver.
#[derive(Debug, Clone, Default)]
pub(crate) struct MatrixRoom {
    pub(crate) marker: Option<String>,
    pub(crate) people: BTreeMap<OwnedUserId, Presence>,
    pub(crate) shows: Option<GitterRoom>,
    /// Its tombstone: where it goes on.
    pub(crate) end: Option<(OwnedRoomId, Millis)>,
    /// Nobody is to say anything in it any more.
    pub(crate) hushed: bool,
    /// The room it says it goes on for.
    pub(crate) before: Option<OwnedRoomId>,
}

impl MatrixRoom {
    pub(crate) fn presence(&self, user: &UserId) -> Presence {
        self.people.get(user).copied().unwrap_or(Presence::Out)
    }
    pub(crate) fn joined(&self) -> impl Iterator<Item = &OwnedUserId> {
        self.people.iter().filter(|(_, p)| **p == Presence::In).map(|(user, _)| user)
    }
}

/// A room on Gitter.
#[derive(Debug, Clone)]
pub(crate) struct GitterSide {
    pub(crate) looks: GitterRoom,
    pub(crate) members: BTreeSet<GitterUserId>,
    pub(crate) banned: BTreeSet<GitterUserId>,
}

/// What the driver did, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) writes: usize,
    /// Calls to either side that change something, or would if it were not so already.
    pub(crate) changes: usize,
    /// Everything that passes a gate: the points at which the driver may be killed.
    pub(crate) gates: usize,
}

/// Everything there is.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) data: Data,
    pub(crate) matrix: BTreeMap<OwnedRoomId, MatrixRoom>,
    pub(crate) dressed: BTreeMap<OwnedUserId, Profile>,
    /// Pictures can't be had.
    pub(crate) no_pictures: bool,
    pub(crate) gitter: BTreeMap<GitterRoomId, GitterSide>,
    pub(crate) persons: BTreeMap<GitterUserId, PersonSeen>,
    pub(crate) who: BTreeMap<OwnedUserId, Person>,
    pub(crate) good_tokens: BTreeSet<u64>,
    pub(crate) rng: StdRng,
    /// How many calls in a hundred go wrong.
    pub(crate) faults: u32,
    /// Whether what was sent may take effect only after its sender is gone.
    pub(crate) slow: bool,
    /// Sides that are down.
    pub(crate) down: BTreeSet<Side>,
    /// How many calls reached out to each side, also in vain.
    pub(crate) reached: BTreeMap<Side, usize>,
    /// What was called about what, in order.
    pub(crate) calls: Vec<(&'static str, String)>,
    /// Calls during which the driver itself fails, and how often.
    pub(crate) panics: BTreeMap<&'static str, usize>,
    /// Calls that never work.
    pub(crate) always: BTreeSet<&'static str>,
    /// Users whom the homeserver does not let be invited.
    pub(crate) refuses: BTreeSet<OwnedUserId>,
    /// The next such call is answered with a pause.
    pub(crate) limited: Option<(&'static str, Duration)>,
    /// The gate at which the driver is killed.
    pub(crate) kill_at: Option<usize>,
    /// The call at which it is killed, and whether after its effect.
    pub(crate) kill_in: Option<(&'static str, bool)>,
    pub(crate) counts: Counts,
    /// Portals that their account has closed, to which nothing may invite it.
    pub(crate) barred: BTreeSet<PortalKey>,
    /// Rooms that the account has left on Gitter, which nothing may join again.
    pub(crate) gone: BTreeSet<PortalKey>,
    /// Portals that their account has asked for since: they are to be open.
    pub(crate) wanted: BTreeSet<PortalKey>,
    /// What was said so far.
    pub(crate) said: Vec<Notice>,
    /// What must never happen, and did.
    pub(crate) broken: Vec<String>,
    /// What happened, for reading after a failure.
    pub(crate) log: Vec<String>,
    next_room: u32,
}

/// The world, shared; it is all four ports of the driver.
#[derive(Clone)]
pub(crate) struct Handle {
    world: Arc<Mutex<World>>,
    start: Instant,
    /// By how much the clock was put back.
    back: Arc<Mutex<Duration>>,
    /// When the machine was started.
    booted: Arc<Mutex<Instant>>,
    pub(crate) killed: Arc<Notify>,
    pub(crate) sides: Sides,
    driver: Arc<Mutex<Option<Arc<Reconciler>>>>,
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
}

/// A call, whether after its effect, and what happens at that moment.
type Meanwhile = (&'static str, bool, Box<dyn FnOnce(&Handle) + Send>);

impl Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

pub(crate) fn bot() -> &'static UserId {
    user_id!("@gitter:hs")
}

fn later(doing: &'static str) -> ActionError {
    ActionError::Later { doing, retry_after: None, source: "injected".into() }
}

fn refused(doing: &'static str, why: Refusal) -> ActionError {
    ActionError::Refused { doing, why, source: "refused".into() }
}

/// What becomes of a call.
enum Fate {
    Fine,
    Before(ActionError),
    After(ActionError),
}

/// What kind of call it is: what may go wrong with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Look,
    Change,
    /// Not safe to repeat: even a refusal may leave something behind.
    Make,
}

impl Handle {
    pub(crate) fn new(seed: u64) -> Self {
        let world = World {
            data: Data::default(),
            matrix: BTreeMap::new(),
            dressed: BTreeMap::new(),
            no_pictures: false,
            gitter: BTreeMap::new(),
            persons: BTreeMap::new(),
            who: BTreeMap::new(),
            good_tokens: BTreeSet::new(),
            rng: StdRng::seed_from_u64(seed),
            faults: 0,
            slow: false,
            down: BTreeSet::new(),
            reached: BTreeMap::new(),
            calls: Vec::new(),
            panics: BTreeMap::new(),
            always: BTreeSet::new(),
            refuses: BTreeSet::new(),
            limited: None,
            kill_at: None,
            kill_in: None,
            counts: Counts::default(),
            barred: BTreeSet::new(),
            gone: BTreeSet::new(),
            wanted: BTreeSet::new(),
            said: Vec::new(),
            broken: Vec::new(),
            log: Vec::new(),
            next_room: 0,
        };
        Self {
            world: Arc::new(Mutex::new(world)),
            start: Instant::now(),
            back: Arc::default(),
            booted: Arc::new(Mutex::new(Instant::now())),
            killed: Arc::default(),
            sides: Sides::default(),
            driver: Arc::default(),
            meanwhile: Arc::default(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Has something happen once, while the next such call is on its way.
    pub(crate) fn meanwhile(
        &self,
        call: &'static str,
        after: bool,
        f: impl FnOnce(&Self) + Send + 'static,
    ) {
        *self.meanwhile.lock().expect("not poisoned") = Some((call, after, Box::new(f)));
    }

    /// Puts the clock back.
    pub(crate) fn put_clock_back(&self, by: Duration) {
        *self.back.lock().expect("not poisoned") += by;
    }

    /// Puts the clock forward again that was put back.
    pub(crate) fn put_clock_forward(&self, by: Duration) {
        *self.back.lock().expect("not poisoned") -= by;
    }

    /// Starts the machine anew.
    pub(crate) fn boot(&self) {
        *self.booted.lock().expect("not poisoned") = Instant::now();
    }

    /// The driver that runs now, if one does.
    pub(crate) fn driver(&self) -> Option<Arc<Reconciler>> {
        self.driver.lock().expect("not poisoned").clone()
    }

    pub(crate) fn set_driver(&self, driver: Option<Arc<Reconciler>>) {
        *self.driver.lock().expect("not poisoned") = driver;
    }

    pub(crate) fn hint(&self, key: Key) {
        if let Some(driver) = self.driver() {
            driver.hint(key, Class::Waiting);
        }
    }

    pub(crate) fn log(&self, line: impl Into<String>) {
        let at = self.start.elapsed().as_secs_f64();
        self.lock().log.push(format!("{at:9.3} {}", line.into()));
    }

    /// A point at which the driver may be killed: then what was going on never goes on.
    async fn gate(&self, name: &'static str, after: bool) {
        let its = |m: &mut Meanwhile| (m.0, m.1) == (name, after);
        let happens = self.meanwhile.lock().expect("not poisoned").take_if(its);
        if let Some((_, _, f)) = happens {
            f(self);
        }
        let die = {
            let mut world = self.lock();
            world.counts.gates += 1;
            let here = world.kill_in.is_some_and(|at| at == (name, after));
            if here {
                world.kill_in = None;
            }
            here || world.kill_at == Some(world.counts.gates)
        };
        if die {
            self.log(format!("killed {} {name}", if after { "after" } else { "before" }));
            self.killed.notify_one();
            pending::<()>().await;
        }
    }

    fn fate(&self, name: &'static str, kind: Kind, gitter: bool) -> (Fate, Duration, Duration) {
        let mut world = self.lock();
        world.counts.changes += usize::from(kind != Kind::Look);
        // Looks can't be read back: two of them that cross would stay wrong until the next change. And a ghost that comes
        // long after the bridge was killed, into a room that another bridge has emptied meanwhile, is seen by nobody.
        let crosses = kind != Kind::Look && !matches!(name, "dress" | "show" | "enter");
        let longest = if world.slow && crosses { 4000 } else { 100 };
        let waits = [world.rng.random_range(1..=longest), world.rng.random_range(0..=50)];
        let [before, after] = waits.map(Duration::from_millis);
        if world.always.contains(name) {
            return (Fate::Before(later(name)), before, after);
        }
        if let Some((_, wait)) = world.limited.take_if(|(limited, _)| *limited == name) {
            let (retry_after, source) = (Some(wait), "429".into());
            let error = ActionError::Later { doing: name, retry_after, source };
            return (Fate::Before(error), before, after);
        }
        if world.rng.random_range(0..100) >= world.faults {
            return (Fate::Fine, before, after);
        }
        let why = Refusal::Homeserver;
        let fate = match world.rng.random_range(0..12) {
            0 if gitter => Fate::Before(ActionError::TokenRejected { doing: name }),
            // Leaving is never refused: who is not in is as good as left; nor is coming to who is in already.
            1 if kind == Kind::Change && name != "leave" && name != "come" => {
                Fate::Before(refused(name, why))
            }
            1 if kind == Kind::Make => Fate::After(refused(name, why)),
            2..=6 => Fate::After(later(name)),
            7 => {
                let retry_after = Some(Duration::from_secs(world.rng.random_range(1..20)));
                Fate::Before(ActionError::Later { doing: name, retry_after, source: "429".into() })
            }
            _ => Fate::Before(later(name)),
        };
        (fate, before, after)
    }

    /// Gets through to a side, as the clients do: not at all while it is known to be away, in vain while it is down.
    async fn reach(&self, name: &'static str, about: &str, side: Side) -> Result<(), ActionError> {
        let breaker = self.sides.get(side);
        let away = |away: reconcile::breaker::Away| ActionError::Later {
            doing: name,
            retry_after: None,
            source: away.into(),
        };
        breaker.ask().await.map_err(away)?;
        let (down, panics) = {
            let mut world = self.lock();
            *world.reached.entry(side).or_default() += 1;
            world.calls.push((name, about.to_owned()));
            let left = world.panics.get_mut(name).filter(|left| **left > 0);
            let panics = left.map(|left| *left -= 1).is_some();
            (world.down.contains(&side), panics)
        };
        assert!(!panics, "on purpose, in {name}");
        if down {
            sleep(Duration::from_millis(50)).await;
        }
        breaker.note(!down);
        if down { Err(later(name)) } else { Ok(()) }
    }

    /// Keeps asking whether a side is there, while it is not.
    pub(crate) fn watch(&self) {
        for side in [Side::Homeserver, Side::Gitter] {
            let world = self.clone();
            tokio::spawn(async move {
                let probe = || async {
                    let mut world = world.lock();
                    *world.reached.entry(side).or_default() += 1;
                    if world.down.contains(&side) { Err(later("probe")) } else { Ok(()) }
                };
                world.sides.get(side).watch(probe, || {}, StdRng::seed_from_u64(1)).await;
            });
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        about: String,
        (kind, gitter): (Kind, bool),
        effect: impl FnOnce(&mut World) -> Result<T, ActionError> + Send + 'static,
    ) -> Result<T, ActionError> {
        let side = if gitter { Side::Gitter } else { Side::Homeserver };
        self.reach(name, &about, side).await?;
        self.gate(name, false).await;
        let (fate, before, after) = self.fate(name, kind, gitter);
        if let Fate::Before(error) = fate {
            sleep(before.min(Duration::from_millis(100))).await;
            if matches!(error, ActionError::Refused { .. }) {
                self.log(format!("{name} {about}: refused"));
            }
            return Err(error);
        }
        let world = self.clone();
        let (sent, answer) = tokio::sync::oneshot::channel();
        let task = async move {
            sleep(before).await;
            let result = effect(&mut world.lock());
            if kind != Kind::Look {
                world.log(format!("{name} {about}: {}", result.is_ok()));
            }
            // Nobody listens any more when the driver was killed.
            let _ = sent.send(result);
        };
        tokio::spawn(task);
        let result = answer.await.expect("the other side never goes away without an answer");
        self.gate(name, true).await;
        sleep(after).await;
        match fate {
            Fate::After(error) => Err(error),
            Fate::Fine | Fate::Before(_) => result,
        }
    }

    /// Whose token is used, if it is any good.
    fn login(world: &World, user: &UserId, doing: &'static str) -> Result<Person, ActionError> {
        let token = world.data.tokens.get(user).filter(|t| world.good_tokens.contains(t));
        let person = token.and_then(|_| world.who.get(user));
        person.cloned().ok_or(ActionError::TokenRejected { doing })
    }
}

impl World {
    /// Writes as the intake does: at once, or not at all.
    pub(crate) fn intake<R>(
        &mut self,
        f: impl FnOnce(&mut dyn Tables) -> Result<R, TableError>,
    ) -> R {
        f(&mut self.data).expect("maps don't fail")
    }

    fn inside(
        &mut self,
        room: &RoomId,
        doing: &'static str,
    ) -> Result<&mut MatrixRoom, ActionError> {
        match self.matrix.get_mut(room).filter(|r| r.presence(bot()) == Presence::In) {
            Some(room) => Ok(room),
            None => Err(refused(doing, Refusal::Homeserver)),
        }
    }

    /// How many rooms carry a marker, those not counted that are being left.
    fn marked(&self, marker: &str) -> usize {
        let left = |id| self.data.chats.get(id).is_some_and(|c| c.stage != ChatStage::Control);
        let rooms = self.matrix.iter().filter(|(id, _)| !left(*id)).map(|(_, room)| room);
        let here = rooms.filter(|room| room.presence(bot()) == Presence::In);
        here.filter(|room| room.marker.as_deref() == Some(marker)).count()
    }

    pub(crate) fn new_room(&mut self, room: MatrixRoom) -> OwnedRoomId {
        self.next_room += 1;
        let id: OwnedRoomId = format!("!{:04}:hs", self.next_room).try_into().expect("valid");
        self.matrix.insert(id.clone(), room);
        id
    }

    pub(crate) fn seen(&self, id: &GitterRoomId) -> RoomSeen {
        let room = self.gitter[id].looks.clone();
        let active = u64::from_str_radix(&id.as_str()[16..], 16).expect("hex");
        RoomSeen { id: id.clone(), room, unread: 0, mentions: 0, active }
    }

    pub(crate) fn conditions(&self) -> impl Iterator<Item = (&PortalKey, &Condition)> {
        self.data.portals.iter().filter_map(|(k, p)| Some((k, p.condition.as_ref()?)))
    }
}

impl Clock for Handle {
    fn now(&self) -> Millis {
        let millis = |time: Duration| u64::try_from(time.as_millis()).expect("not that long");
        let back = *self.back.lock().expect("not poisoned");
        Millis(1_700_000_000_000 + millis(self.start.elapsed()) - millis(back))
    }

    fn uptime(&self) -> Uptime {
        let booted = *self.booted.lock().expect("not poisoned");
        let ms = u64::try_from(booted.elapsed().as_millis()).expect("not that long");
        Uptime { boot: format!("{:?}", booted - self.start), ms }
    }
}

impl State for Handle {
    async fn read<R: Send + 'static>(
        &self,
        f: impl FnOnce(&dyn Rows) -> Result<R, TableError> + Send + 'static,
    ) -> Result<R, TableError> {
        f(&self.lock().data)
    }

    async fn write<R: Send + 'static>(
        &self,
        f: impl Fn(&mut dyn Tables) -> Result<R, TableError> + Send + 'static,
    ) -> Result<R, TableError> {
        self.gate("write", false).await;
        sleep(Duration::from_millis(2)).await;
        let result = {
            let mut world = self.lock();
            world.counts.writes += 1;
            if world.rng.random_range(0..400) < world.faults {
                return Err(TableError("the disk is full".into()));
            }
            if world.rng.random_bool(0.1) {
                // A run that does not count.
                f(&mut world.data.clone())?;
            }
            let mut copy = world.data.clone();
            let result = f(&mut copy)?;
            world.data = copy;
            result
        };
        self.gate("write", true).await;
        sleep(Duration::from_millis(1)).await;
        Ok(result)
    }
}

impl Matrix for Handle {
    fn bot(&self) -> &UserId {
        bot()
    }
    fn is_ghost(&self, user: &UserId) -> bool {
        user.localpart().starts_with("gitter_")
    }
    fn ghost_id(&self, username: &str, id: &GitterUserId, suffix: bool) -> OwnedUserId {
        let end = if suffix { format!("=2d{id}") } else { String::new() };
        let name = format!("@gitter_{}{end}:hs", username.to_lowercase());
        name.try_into().expect("test names are plain")
    }

    async fn rooms(&self) -> Result<BTreeSet<OwnedRoomId>, ActionError> {
        let of = |world: &mut World| {
            let its = |r: &MatrixRoom| r.presence(bot()) == Presence::In;
            Ok(world.matrix.iter().filter(|(_, r)| its(r)).map(|(id, _)| id.clone()).collect())
        };
        self.call("rooms", String::new(), (Kind::Look, false), of).await
    }
    async fn marker(&self, room: &RoomId) -> Result<Option<String>, ActionError> {
        let id = room.to_owned();
        let of = move |world: &mut World| Ok(world.inside(&id, "marker")?.marker.clone());
        self.call("marker", room.to_string(), (Kind::Look, false), of).await
    }
    async fn members(&self, room: &RoomId) -> Result<Option<BTreeSet<OwnedUserId>>, ActionError> {
        let id = room.to_owned();
        let of = move |world: &mut World| {
            Ok(world.inside(&id, "members").ok().map(|room| room.joined().cloned().collect()))
        };
        self.call("members", room.to_string(), (Kind::Look, false), of).await
    }
    async fn presence(&self, room: &RoomId, user: &UserId) -> Result<Presence, ActionError> {
        let (id, who) = (room.to_owned(), user.to_owned());
        let of = move |world: &mut World| Ok(world.inside(&id, "presence")?.presence(&who));
        self.call("presence", room.to_string(), (Kind::Look, false), of).await
    }

    async fn tombstone(&self, room: &RoomId) -> Result<Option<Tombstone>, ActionError> {
        let id = room.to_owned();
        let of = move |world: &mut World| {
            let end = world.inside(&id, "tombstone").ok().and_then(|room| room.end.clone());
            let event = owned_event_id!("$end");
            Ok(end.map(|(end, since)| Tombstone {
                event,
                since,
                entitled: true,
                replacement: Some(end),
            }))
        };
        self.call("tombstone", room.to_string(), (Kind::Look, false), of).await
    }
    async fn origin(&self, room: &RoomId) -> Result<Option<Origin>, ActionError> {
        let id = room.to_owned();
        let of = move |world: &mut World| {
            let Ok(room) = world.inside(&id, "origin") else { return Ok(None) };
            let predecessor = room.before.clone().map(|before| (before, None));
            Ok(Some(Origin { predecessor, able: true }))
        };
        self.call("origin", room.to_string(), (Kind::Look, false), of).await
    }
    async fn mark(&self, room: &RoomId, is: &NewRoom) -> Result<(), ActionError> {
        let (id, marker) = (room.to_owned(), is.marker());
        let of = move |world: &mut World| {
            world.inside(&id, "mark")?.marker = Some(marker);
            Ok(())
        };
        self.call("mark", format!("{room} {}", is.marker()), (Kind::Change, false), of).await
    }

    async fn hush(&self, room: &RoomId) -> Result<(), ActionError> {
        let id = room.to_owned();
        let of = move |world: &mut World| {
            if let Ok(room) = world.inside(&id, "hush") {
                room.hushed = true;
            }
            Ok(())
        };
        self.call("hush", room.to_string(), (Kind::Change, false), of).await
    }

    async fn create(&self, room: &NewRoom) -> Result<OwnedRoomId, ActionError> {
        let (marker, shows) = (
            room.marker(),
            match room {
                NewRoom::Portal { shows, .. } => Some(shows.clone()),
                NewRoom::Control(_) => None,
            },
        );
        let about = marker.clone();
        let of = move |world: &mut World| {
            if world.marked(&marker) > 0 {
                world.broken.push(format!("a second room for {marker}"));
            }
            let people = BTreeMap::from([(bot().to_owned(), Presence::In)]);
            let marker = Some(marker);
            Ok(world.new_room(MatrixRoom { marker, people, shows, ..MatrixRoom::default() }))
        };
        self.call("create", about, (Kind::Make, false), of).await
    }
    async fn invite(&self, room: &RoomId, user: &UserId) -> Result<(), ActionError> {
        {
            let mut world = self.lock();
            let marker = world.matrix.get(room).and_then(|r| r.marker.clone());
            let key = marker.and_then(|marker| marker.parse::<PortalKey>().ok());
            if let Some(key) = key.filter(|k| k.account == user && world.barred.contains(k)) {
                world.broken.push(format!("{key}: invited although the account had closed it"));
            }
        }
        let (id, who) = (room.to_owned(), user.to_owned());
        let of = move |world: &mut World| {
            if world.refuses.contains(&who) {
                return Err(refused("invite", Refusal::Homeserver));
            }
            let room = world.inside(&id, "invite")?;
            match room.presence(&who) {
                Presence::Banned => return Err(refused("invite", Refusal::BannedFromPortal)),
                Presence::In | Presence::Invited => {}
                Presence::Out => drop(room.people.insert(who, Presence::Invited)),
            }
            Ok(())
        };
        self.call("invite", format!("{user} to {room}"), (Kind::Change, false), of).await
    }
    async fn remove(&self, room: &RoomId, user: &UserId, _: &str) -> Result<(), ActionError> {
        let (id, who) = (room.to_owned(), user.to_owned());
        let of = move |world: &mut World| {
            let room = world.inside(&id, "remove")?;
            if room.presence(&who) != Presence::Banned {
                room.people.remove(&who);
            }
            Ok(())
        };
        self.call("remove", format!("{user} from {room}"), (Kind::Change, false), of).await
    }
    async fn enter(&self, room: &RoomId, who: Who<'_>) -> Result<(), ActionError> {
        let called = if who == Who::Bot { "come" } else { "enter" };
        let (id, who) = (room.to_owned(), name(who));
        let about = format!("{who} {room}");
        let of = move |world: &mut World| {
            let room = world.matrix.get_mut(&id).ok_or(refused("enter", Refusal::NoSuchRoom))?;
            if !matches!(room.presence(&who), Presence::Invited | Presence::In) {
                return Err(refused("enter", Refusal::NotAllowed));
            }
            room.people.insert(who, Presence::In);
            Ok(())
        };
        self.call(called, about, (Kind::Change, false), of).await
    }
    async fn leave(&self, room: &RoomId, who: Who<'_>) -> Result<(), ActionError> {
        let called = if who == Who::Bot { "leave" } else { "take out" };
        let (id, who) = (room.to_owned(), name(who));
        let about = format!("{who} {room}");
        let of = move |world: &mut World| {
            if let Some(room) = world.matrix.get_mut(&id) {
                room.people.remove(&who);
            }
            Ok(())
        };
        self.call(called, about, (Kind::Change, false), of).await
    }
    async fn has_picture(&self, _: &str) -> bool {
        !self.lock().no_pictures
    }
    async fn show(
        &self,
        room: &RoomId,
        new: &GitterRoom,
        _: Option<&GitterRoom>,
    ) -> Result<(), ActionError> {
        let (id, new) = (room.to_owned(), new.clone());
        let of = move |world: &mut World| {
            world.inside(&id, "show")?.shows = Some(new);
            Ok(())
        };
        self.call("show", room.to_string(), (Kind::Change, false), of).await
    }
    async fn dress(
        &self,
        ghost: &UserId,
        new: &Profile,
        _: Option<&Profile>,
    ) -> Result<(), ActionError> {
        let (who, new) = (ghost.to_owned(), new.clone());
        let of = move |world: &mut World| {
            world.dressed.insert(who, new);
            Ok(())
        };
        self.call("dress", ghost.to_string(), (Kind::Change, false), of).await
    }
}

fn name(who: Who<'_>) -> OwnedUserId {
    match who {
        Who::Bot => bot().to_owned(),
        Who::Ghost(ghost) => ghost.to_owned(),
    }
}

impl Gitter for Handle {
    async fn rooms(&self, account: &UserId) -> Result<Vec<RoomSeen>, ActionError> {
        let user = account.to_owned();
        let of = move |world: &mut World| {
            let me = Self::login(world, &user, "gitter rooms")?;
            let mine = world.gitter.iter().filter(|(_, room)| room.members.contains(&me.id));
            Ok(mine.map(|(id, _)| world.seen(id)).collect())
        };
        self.call("gitter rooms", account.to_string(), (Kind::Look, true), of).await
    }
    async fn resolve(&self, account: &UserId, name: &str) -> Result<Resolved, ActionError> {
        let (user, wanted) = (account.to_owned(), name.to_lowercase());
        let of = move |world: &mut World| {
            let me = Self::login(world, &user, "resolve")?;
            let found = world.gitter.iter().find(|(_, r)| r.looks.uri.to_lowercase() == wanted);
            let (id, room) = found.ok_or(refused("resolve", Refusal::NoSuchRoom))?;
            Ok(Resolved { room: world.seen(id), member: room.members.contains(&me.id) })
        };
        self.call("resolve", name.to_owned(), (Kind::Look, true), of).await
    }
    async fn join(&self, account: &UserId, room: &GitterRoomId) -> Result<(), ActionError> {
        {
            let mut world = self.lock();
            let key = PortalKey::new(account.to_owned(), room.clone());
            if world.gone.contains(&key) {
                world.broken.push(format!("{key}: joined again although the account had left"));
            }
        }
        let (user, id) = (account.to_owned(), room.clone());
        let of = move |world: &mut World| {
            let me = Self::login(world, &user, "join")?;
            let room = world.gitter.get_mut(&id).ok_or(refused("join", Refusal::NoSuchRoom))?;
            if room.banned.contains(&me.id) {
                return Err(refused("join", Refusal::NotAllowed));
            }
            room.members.insert(me.id);
            Ok(())
        };
        let result = self.call("join", format!("{account} {room}"), (Kind::Change, true), of).await;
        if let Err(ActionError::Refused { .. }) = &result {
            self.lock().wanted.remove(&PortalKey::new(account.to_owned(), room.clone()));
        }
        result
    }
    async fn leave(&self, account: &UserId, room: &GitterRoomId) -> Result<(), ActionError> {
        let (user, id) = (account.to_owned(), room.clone());
        let of = move |world: &mut World| {
            let me = Self::login(world, &user, "part")?;
            if let Some(room) = world.gitter.get_mut(&id) {
                room.members.remove(&me.id);
            }
            Ok(())
        };
        let result = self.call("part", format!("{account} {room}"), (Kind::Change, true), of).await;
        if let Err(ActionError::Refused { .. }) = &result {
            // Taken back, and the user is told: nothing is promised any more.
            self.lock().gone.remove(&PortalKey::new(account.to_owned(), room.clone()));
        }
        result
    }
    fn people(
        &self,
        account: &UserId,
        room: &GitterRoomId,
        at_most: usize,
    ) -> impl Future<Output = Result<PeopleSeen, ActionError>> + Send {
        let (user, id) = (account.to_owned(), room.clone());
        let of = move |world: &mut World| {
            let me = Self::login(world, &user, "people")?;
            let room = &world.gitter[&id];
            if !room.members.contains(&me.id) {
                return Err(refused("people", Refusal::NotAllowed));
            }
            let all = room.members.iter().map(|id| world.persons[id].clone());
            let people = all.take(at_most).collect();
            Ok(PeopleSeen { people, all: room.members.len() <= at_most })
        };
        self.call("people", room.to_string(), (Kind::Look, true), of)
    }
    async fn is_member(
        &self,
        account: &UserId,
        room: &GitterRoomId,
        person: &GitterUserId,
        _: &str,
    ) -> Result<Option<bool>, ActionError> {
        let (user, id, person) = (account.to_owned(), room.clone(), person.clone());
        let of = move |world: &mut World| {
            Self::login(world, &user, "member")?;
            Ok(Some(world.gitter[&id].members.contains(&person)))
        };
        self.call("member", room.to_string(), (Kind::Look, true), of).await
    }
}
