//! Random people doing random things, on both sides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use gitter_sim::RoomSpec;
use harness::{Browser, Carry, Consent};
use homeserver_sim::Person;
use matrix_gitter::matrix::room::PORTAL_KEY;
use rand::{
    Rng as _, SeedableRng as _,
    distr::{Distribution as _, weighted::WeightedIndex},
    rngs::StdRng,
    seq::IndexedRandom as _,
};
use reconcile::model::PortalKey;
use serde_json::json;
use tokio::time::sleep;

use crate::{history::History, life::DOMAIN, net::Net, time::Time};

/// What somebody has asked for, by word or deed, of one room or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// A login was finished.
    Login,
    /// `logout`.
    Logout,
    /// `gjoin`, `invite`; or joined in Gitter's own client.
    Open,
    /// `gpart`, or left, or was thrown out in Gitter's own client.
    Part,
    /// Left or declined the portal.
    LeftPortal,
}

/// Who asked for what, and when.
#[derive(Debug, Clone)]
pub struct Asked {
    /// When the bridge has certainly heard it.
    pub at: u64,
    /// When it was said or done.
    pub said: u64,
    /// Which account.
    pub account: usize,
    /// Of which Gitter room; `None` for all.
    pub room: Option<String>,
    /// What.
    pub word: Word,
    /// Whether it was said on Matrix, whose words come in order.
    pub on_matrix: bool,
    /// Whether its chat was left, or its room renamed, before the bridge could know.
    pub late: bool,
    /// It was told to the bot, and the bridge has taken it.
    pub heard: bool,
    /// By which event in which chat, if it was told to the bot.
    told: Option<(String, String)>,
}

/// A Matrix user.
pub struct Account {
    /// The user.
    pub person: Person,
    /// Who it is on Gitter, by name.
    pub gitter: String,
    /// The chat with the bot.
    pub chat: Option<String>,
    /// The room of which it spoke there last, by its place in the list.
    topic: Option<usize>,
    /// What it wanted of that.
    wanted: Option<Word>,
    used_links: BTreeSet<String>,
    busy: Arc<AtomicBool>,
    logged_in: Arc<AtomicBool>,
}

/// What was said in a portal.
#[derive(Debug, Clone)]
pub struct Said {
    /// The word it begins with.
    pub text: String,
    /// The word it ends with, when it is a long one.
    pub end: Option<String>,
    /// In which Matrix room.
    pub room: String,
    /// Of which portal.
    pub portal: PortalKey,
    /// As which event.
    pub event: String,
    /// When.
    pub at: u64,
    /// What it was changed to, in order.
    pub edits: Vec<String>,
    /// It was deleted.
    pub deleted: bool,
}

/// What was said on Gitter.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The only word in it, at last.
    pub text: String,
    /// In which room.
    pub room: String,
    /// As which message.
    pub message: String,
    /// When.
    pub at: u64,
    /// It was deleted.
    pub deleted: bool,
    /// It was changed.
    pub edited: bool,
}

/// A room on Gitter.
#[derive(Debug, Clone)]
pub struct GitterRoom {
    /// Its id.
    pub id: String,
    /// Its name at present.
    pub uri: String,
    /// Its names before.
    pub former: Vec<String>,
    /// Who can't be banned from it.
    admin: String,
}

/// Everybody.
pub struct People {
    rng: StdRng,
    time: Time,
    history: History,
    net: Net,
    home: homeserver_sim::World,
    gitter: gitter_sim::World,
    client: reqwest::Client,
    /// Matrix users.
    pub accounts: Vec<Account>,
    /// Everybody on Gitter, by name.
    pub gitterers: Vec<String>,
    /// Their ids, by name.
    pub ids: BTreeMap<String, String>,
    /// Rooms there.
    pub rooms: Vec<GitterRoom>,
    banned: BTreeSet<(String, String)>,
    shown: BTreeMap<String, String>,
    /// What was said on Matrix.
    pub said: Vec<Said>,
    /// What was said on Gitter.
    pub posted: Vec<Posted>,
    words: Vec<Asked>,
    /// When which chat with the bot was left.
    left: BTreeMap<String, u64>,
    /// When which Gitter room was renamed last.
    renamed: BTreeMap<String, u64>,
    logins: Arc<std::sync::Mutex<Vec<(u64, usize)>>>,
    /// When which portal was upgraded.
    pub upgraded: Vec<(u64, PortalKey)>,
    /// Rooms that somebody upgraded another to, with the bot not invited yet.
    uninvited: Vec<(usize, String)>,
    /// Rooms that an admin of the homeserver has deleted.
    pub purged: BTreeSet<String>,
    /// Which accounts have said `gpart` of which Gitter rooms without being logged in.
    pub parted: BTreeSet<(usize, String)>,
    /// Whose tokens were revoked on Gitter.
    pub revoked: BTreeSet<String>,
    number: u32,
    /// Who is about to say the contrary of what they have just said to the bot.
    wavering: Option<usize>,
    /// How often which of [`ACTS`] is done.
    habits: WeightedIndex<u32>,
    /// How often which of [`WORDS`] is said to the bot.
    talk: WeightedIndex<u32>,
}

/// What somebody does, and of a thousand acts how many are such.
type Act = (u32, fn(&mut People, usize));

const ACTS: [Act; 25] = [
    (260, People::say),
    (40, People::amend),
    (20, People::delete_said),
    (200, |people, _| people.post()),
    (40, |people, _| people.edit_posted()),
    (20, |people, _| people.delete_posted()),
    (10, |people, _| people.slip()),
    (120, People::accept),
    (10, People::decline),
    (12, People::leave_portal),
    (128, People::chat),
    (20, |people, _| people.come_on_gitter()),
    (20, |people, _| people.go_on_gitter()),
    (10, |people, _| people.ban_on_gitter()),
    (10, |people, _| people.rename()),
    (7, |people, _| people.revoke()),
    (5, People::purge),
    (6, |people, _| people.rename_person()),
    (2, |people, _| people.silence()),
    (4, People::leave_chat),
    (2, People::intrude),
    (6, People::upgrade),
    (2, People::upgrade_chat),
    (6, People::invite_late),
    (50, People::log_in),
];

/// What people say to the bot: of a hundred how many, what, whether about a room, and what is wanted by it.
const WORDS: [(u32, &str, bool, Option<Word>); 8] = [
    (20, "list", false, None),
    (25, "gjoin", true, Some(Word::Open)),
    (15, "gpart", true, Some(Word::Part)),
    (20, "invite", true, Some(Word::Open)),
    (5, "status", false, None),
    (5, "what is this", false, None),
    (3, "logout", false, Some(Word::Logout)),
    (7, "login", false, None),
];

/// By how much something is done more often than usual.
pub(crate) fn turn(rng: &mut StdRng) -> u32 {
    [0, 1, 1, 1, 5][rng.random_range(0..5)]
}

/// With nothing to do at all, everything is done equally often.
pub(crate) fn weighted(mut weights: Vec<u32>) -> WeightedIndex<u32> {
    if weights.iter().all(|weight| *weight == 0) {
        weights.fill(1);
    }
    WeightedIndex::new(weights).expect("some weight")
}

impl People {
    /// Nobody yet, in worlds without rooms; `seed` decides what they will do.
    #[must_use]
    pub fn new(
        seed: u64,
        time: Time,
        history: History,
        net: Net,
        home: homeserver_sim::World,
        gitter: gitter_sim::World,
        client: reqwest::Client,
    ) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            time,
            history,
            net,
            home,
            gitter,
            client,
            accounts: Vec::new(),
            gitterers: Vec::new(),
            ids: BTreeMap::new(),
            rooms: Vec::new(),
            banned: BTreeSet::new(),
            shown: BTreeMap::new(),
            said: Vec::new(),
            posted: Vec::new(),
            words: Vec::new(),
            left: BTreeMap::new(),
            renamed: BTreeMap::new(),
            logins: Arc::default(),
            upgraded: Vec::new(),
            uninvited: Vec::new(),
            purged: BTreeSet::new(),
            parted: BTreeSet::new(),
            revoked: BTreeSet::new(),
            number: 0,
            wavering: None,
            habits: weighted(ACTS.iter().map(|(weight, _)| *weight).collect()),
            talk: weighted(WORDS.iter().map(|(weight, ..)| *weight).collect()),
        }
    }

    /// Puts some people and rooms into the worlds.
    pub fn come_at_random(&mut self) {
        let names = ["alice", "bob", "carol", "dave", "erin", "frank"];
        // Most of what can go wrong does so between a few; and such worlds are run in no time.
        let (some, rooms, accounts) =
            if self.rng.random_bool(0.6) { (2..=3, 1..=1, 1..=1) } else { (3..=6, 1..=4, 1..=3) };
        let count = self.rng.random_range(some);
        self.come_on_gitter_first(&names[..count]);
        for n in 0..self.rng.random_range(rooms) {
            let uri = format!("acme/room{n}");
            let private = self.rng.random_bool(0.25);
            let spec = if private { RoomSpec::private(&uri) } else { RoomSpec::public(&uri) };
            let admin = self.gitterers[self.rng.random_range(0..self.gitterers.len())].clone();
            let id = self.gitter.add_room(RoomSpec { admins: vec![admin.clone()], ..spec });
            for name in &self.gitterers {
                if self.rng.random_bool(0.7) {
                    self.gitter.join(&id, name);
                }
            }
            self.rooms.push(GitterRoom { id, uri, former: Vec::new(), admin });
        }
        for n in 0..self.rng.random_range(accounts) {
            // Some are the same person on Gitter.
            let who = self.rng.random_range(0..self.gitterers.len().min(3));
            self.join_matrix(n, who);
        }
    }

    /// Puts the same people and rooms into the worlds each time: two accounts, four people on Gitter, three rooms.
    pub fn come_as_always(&mut self) {
        self.come_on_gitter_first(&["alice", "bob", "carol", "dave"]);
        for (n, members) in [&[0, 1, 2, 3][..], &[0, 1, 2], &[0, 3]].into_iter().enumerate() {
            let uri = format!("acme/room{n}");
            let admin = self.gitterers[members[members.len() - 1]].clone();
            let spec = RoomSpec { admins: vec![admin.clone()], ..RoomSpec::public(&uri) };
            let id = self.gitter.add_room(spec);
            for member in members {
                self.gitter.join(&id, &self.gitterers[*member]);
            }
            self.rooms.push(GitterRoom { id, uri, former: Vec::new(), admin });
        }
        self.join_matrix(0, 0);
        self.join_matrix(1, 1);
    }

    fn come_on_gitter_first(&mut self, names: &[&str]) {
        for name in names {
            let id = self.gitter.add_user(name, &name.to_uppercase());
            self.ids.insert((*name).to_owned(), id);
            self.gitterers.push((*name).to_owned());
        }
        let secret = crate::life::OAUTH_SECRET;
        self.gitter.add_oauth_client("key", secret, "http://bridge.test/callback");
    }

    fn join_matrix(&mut self, n: usize, gitterer: usize) {
        self.accounts.push(Account {
            person: self.home.person(&format!("u{n}")),
            gitter: self.gitterers[gitterer].clone(),
            chat: None,
            topic: None,
            wanted: None,
            used_links: BTreeSet::new(),
            busy: Arc::default(),
            logged_in: Arc::default(),
        });
    }

    /// The name under which somebody is shown on Gitter.
    #[must_use]
    pub fn shown_name(&self, who: &str) -> String {
        self.shown.get(who).cloned().unwrap_or_else(|| who.to_uppercase())
    }

    fn text(&mut self) -> String {
        self.number += 1;
        format!("word{:05}x", self.number)
    }

    fn word(&mut self, account: usize, room: Option<String>, word: Word) {
        let at = self.time.now();
        let (said, on_matrix, late, heard, told) = (at, true, false, false, None);
        self.words.push(Asked { at, said, account, room, word, on_matrix, late, heard, told });
    }

    /// As [`Self::word`], for all accounts of somebody on Gitter.
    fn word_of(&mut self, gitter: &str, room: &str, word: &Word) {
        for n in 0..self.accounts.len() {
            if self.accounts[n].gitter == gitter {
                self.word(n, Some(room.to_owned()), word.clone());
                self.words.last_mut().expect("just said").on_matrix = false;
            }
        }
    }

    /// When the bridge was told of an event.
    #[must_use]
    pub fn heard(&self, event: &str) -> Option<u64> {
        self.net.delivered(event)
    }

    /// What was asked for, finished logins included, in order.
    #[must_use]
    pub fn words(&self) -> Vec<Asked> {
        let logins = self.logins.lock().map(|logins| logins.clone()).unwrap_or_default();
        let logins = logins.into_iter().map(|(at, account)| {
            let (room, word) = (None, Word::Login);
            let (said, on_matrix, late, heard, told) = (at, false, false, false, None);
            Asked { at, said, account, room, word, on_matrix, late, heard, told }
        });
        let mut words: Vec<_> = self.words.iter().cloned().chain(logins).collect();
        for word in &mut words {
            let Some((event, chat)) = &word.told else { continue };
            // A command is said when it is heard.
            let heard = self.net.delivered(event);
            let passed = |at: Option<&u64>| {
                at.is_some_and(|at| word.at < *at && heard.is_none_or(|heard| heard > *at))
            };
            let renamed = word.room.as_ref().and_then(|room| self.renamed.get(room));
            // In a chat that was upgraded the bot hears nothing before it is invited.
            let deaf = || {
                let events = self.home.events(chat).into_iter();
                let before = events.take_while(|event| event.came <= word.at);
                let of_bot = before.filter(|e| e.state_key.as_deref() == Some(bot().as_str()));
                of_bot.last().is_none_or(|event| event.membership() != "join")
            };
            word.heard = heard.is_some();
            word.late = passed(self.left.get(chat)) || passed(renamed) || heard.is_none() && deaf();
            word.at = heard.unwrap_or(word.at);
        }
        words.sort_by_key(|word| word.at);
        words
    }

    /// The portals' rooms that an account is in or invited to.
    #[must_use]
    pub fn portals(&self, account: usize, membership: &str) -> Vec<(String, PortalKey)> {
        let id = self.accounts[account].person.id();
        let rooms = self.home.rooms().into_iter();
        let rooms = rooms.filter(|room| room.members.get(id).is_some_and(|m| m == membership));
        let keyed = rooms.filter_map(|room| Some((room.id.clone(), portal_of(&room)?)));
        keyed.filter(|(_, key)| key.account.as_str() == id).collect()
    }

    /// Somebody does something.
    pub fn step(&mut self) {
        if let Some(account) = self.wavering.take() {
            return self.change_mind(account);
        }
        let account = self.rng.random_range(0..self.accounts.len());
        let drawn = self.habits.sample(&mut self.rng);
        ACTS[drawn].1(self, account);
    }

    /// Everything that should be pleasant: everybody has a chat, is logged in, and accepts invites.
    pub fn settle_in(&mut self) {
        for account in 0..self.accounts.len() {
            if self.accounts[account].chat.is_none() {
                self.chat(account);
            }
            self.log_in(account);
            self.accept(account);
        }
    }

    /// Accounts say something in all portals that they are in, and members in all rooms of Gitter; what was begun is done.
    pub fn round(&mut self) {
        for (account, _) in self.uninvited.clone() {
            self.invite_late(account);
        }
        if (0..self.accounts.len()).all(|account| self.portals(account, "join").is_empty()) {
            // A homeserver that was restarted hears of nothing else that is the bridge's affair.
            self.leave_chat(0);
            self.chat(0);
        }
        for account in 0..self.accounts.len() {
            for (room, key) in self.portals(account, "join") {
                self.say_in(account, &room, key);
            }
        }
        for room in self.rooms.clone() {
            let members = self.gitter.members(&room.id);
            if let Some(who) = members.choose(&mut self.rng).cloned() {
                self.post_by(&who, &room.id);
            }
        }
    }

    fn say(&mut self, account: usize) {
        let portals = self.portals(account, "join");
        if let Some((room, key)) = portals.choose(&mut self.rng).cloned() {
            self.say_in(account, &room, key);
        }
    }

    fn say_in(&mut self, account: usize, room: &str, portal: PortalKey) {
        let text = self.text();
        // Gitter takes 4096 characters; what is longer goes there in parts.
        let end = self.rng.random_bool(0.05).then(|| self.text());
        let body = match &end {
            Some(end) => format!("{text} {}{end}", "and so on ".repeat(600)),
            None => text.clone(),
        };
        let person = &self.accounts[account].person;
        match person.say(room, &body) {
            Ok(event) => {
                let long = if end.is_some() { ", at length," } else { "" };
                let id = person.id();
                self.history
                    .note(format!("{id} says {text}{long} in {room} ({portal}) as {event}"));
                let (room, at) = (room.to_owned(), self.time.now());
                let (edits, deleted) = (Vec::new(), false);
                self.said.push(Said { text, end, room, portal, event, at, edits, deleted });
            }
            Err(error) => self.history.note(format!("{} can't say: {error:?}", person.id())),
        }
    }

    /// One of the last things an account said that is still there, if the bot hears of a change: it leaves rooms that are replaced.
    fn some_said(&mut self, account: usize) -> Option<usize> {
        let id = self.accounts[account].person.id();
        let mine = |said: &Said| said.portal.account.as_str() == id && !said.deleted;
        let mine: Vec<usize> =
            (0..self.said.len()).rev().filter(|n| mine(&self.said[*n])).take(5).collect();
        let n = mine.choose(&mut self.rng).copied()?;
        (self.home.membership(&self.said[n].room, &bot()) == "join").then_some(n)
    }

    fn amend(&mut self, account: usize) {
        let Some(n) = self.some_said(account) else { return };
        let id = self.accounts[account].person.id().to_owned();
        let text = self.text();
        let (room, event) = (self.said[n].room.clone(), self.said[n].event.clone());
        if self.accounts[account].person.edit(&room, &event, &text).is_ok() {
            self.history.note(format!("{id} changes {} to {text}", self.said[n].text));
            self.said[n].edits.push(text);
        }
    }

    fn delete_said(&mut self, account: usize) {
        let Some(n) = self.some_said(account) else { return };
        let id = self.accounts[account].person.id().to_owned();
        let (room, event) = (self.said[n].room.clone(), self.said[n].event.clone());
        if self.accounts[account].person.redact(&room, &event).is_ok() {
            self.history.note(format!("{id} deletes {}", self.said[n].text));
            self.said[n].deleted = true;
        }
    }

    /// Somebody says something on Gitter.
    pub fn post(&mut self) {
        let Some(room) = self.rooms.choose(&mut self.rng).cloned() else { return };
        let members = self.gitter.members(&room.id);
        if let Some(who) = members.choose(&mut self.rng).cloned() {
            self.post_by(&who, &room.id);
        }
    }

    fn post_by(&mut self, who: &str, room: &str) {
        let text = self.text();
        let parents: Vec<_> =
            self.posted.iter().rev().filter(|p| p.room == room && !p.deleted).take(5).collect();
        let parent = parents.choose(&mut self.rng).map(|parent| parent.message.clone());
        let known = self.gitter.messages(room);
        let parent = parent
            .filter(|id| known.iter().any(|message| message.id == *id && message.parent.is_none()));
        let parent = parent.filter(|_| self.rng.random_bool(0.15));
        let message = match &parent {
            Some(parent) => self.gitter.reply(who, room, parent, &text),
            None => self.gitter.post(who, room, &text),
        };
        self.history.note(format!("{who} posts {text} in {room} as {message}"));
        let (room, at) = (room.to_owned(), self.time.now());
        let (deleted, edited) = (false, false);
        self.posted.push(Posted { text, room, message, at, deleted, edited });
    }

    /// One of the last messages on Gitter that is still there.
    fn some_posted(&mut self) -> Option<usize> {
        let last: Vec<usize> =
            (0..self.posted.len()).rev().filter(|n| !self.posted[*n].deleted).take(5).collect();
        let n = last.choose(&mut self.rng).copied()?;
        self.is_there(n).then_some(n)
    }

    /// Whether what was posted is on Gitter: what the silenced say is not.
    fn is_there(&self, n: usize) -> bool {
        let Posted { room, message, .. } = &self.posted[n];
        self.gitter.messages(room).iter().any(|m| m.id == *message)
    }

    fn edit_posted(&mut self) {
        let Some(n) = self.some_posted() else { return };
        let text = self.text();
        let posted = &mut self.posted[n];
        self.gitter.edit(&posted.room, &posted.message, &text);
        self.history.note(format!("{} on Gitter becomes {text}", posted.text));
        (posted.text, posted.edited) = (text, true);
    }

    fn delete_posted(&mut self) {
        let Some(n) = self.some_posted() else { return };
        let posted = &mut self.posted[n];
        self.gitter.delete(&posted.room, &posted.message);
        self.history.note(format!("{} on Gitter is deleted", posted.text));
        posted.deleted = true;
    }

    /// Somebody posts what was not meant for others, and deletes it.
    fn slip(&mut self) {
        let n = self.posted.len();
        self.post();
        if self.posted.len() == n || !self.is_there(n) {
            return;
        }
        let posted = &mut self.posted[n];
        posted.deleted = true;
        let (gitter, history, posted) = (self.gitter.clone(), self.history.clone(), posted.clone());
        let wait = Duration::from_millis(self.rng.random_range(0..2_000));
        tokio::spawn(async move {
            sleep(wait).await;
            gitter.delete(&posted.room, &posted.message);
            history.note(format!("{} on Gitter is deleted", posted.text));
        });
    }

    fn accept(&mut self, account: usize) {
        let person = &self.accounts[account].person;
        for room in person.invites() {
            let done = person.join(&room).is_ok();
            self.history.note(format!("{} joins {room}: {done}", person.id()));
        }
    }

    fn decline(&mut self, account: usize) {
        let Some((room, key)) = self.portals(account, "invite").pop() else { return };
        self.go(account, &room, &key);
    }

    fn leave_portal(&mut self, account: usize) {
        let mut portals = self.portals(account, "join");
        // Whoever leaves the room that was replaced has not left the portal.
        portals.retain(|(room, _)| self.home.room(room).is_some_and(|r| r.replaced_by.is_none()));
        if let Some((room, key)) = portals.choose(&mut self.rng).cloned() {
            self.go(account, &room, &key);
        }
    }

    fn go(&mut self, account: usize, room: &str, key: &PortalKey) {
        let person = &self.accounts[account].person;
        if person.leave(room).is_ok() {
            self.history.note(format!("{} leaves {room} ({key})", person.id()));
            self.word(account, Some(key.room.to_string()), Word::LeftPortal);
        }
    }

    /// Talks to the bot, after starting a chat.
    fn chat(&mut self, account: usize) {
        let person = &self.accounts[account].person;
        let Some(chat) = self.accounts[account].chat.clone() else {
            if let Ok(room) = person.start_chat(&bot(), false) {
                self.history.note(format!("{} starts a chat with the bot: {room}", person.id()));
                self.accounts[account].chat = Some(room);
            }
            return;
        };
        let again = self.accounts[account].topic.filter(|_| self.rng.random_bool(0.3));
        let about = again.unwrap_or_else(|| self.rng.random_range(0..self.rooms.len()));
        let (_, text, named, word) = WORDS[self.talk.sample(&mut self.rng)].clone();
        let text =
            if named { format!("{text} {}", self.rooms[about].uri) } else { text.to_owned() };
        if named {
            let who = &mut self.accounts[account];
            (who.topic, who.wanted) = (Some(about), word.clone());
            self.wavering = self.rng.random_bool(0.2).then_some(account);
        }
        self.tell(account, &chat, about, &text, word);
    }

    /// Says the contrary of what it said last.
    fn change_mind(&mut self, account: usize) {
        let Account { chat, topic, wanted, .. } = &self.accounts[account];
        let (Some(chat), Some(about)) = (chat.clone(), *topic) else { return };
        let (verb, word) = match wanted {
            Some(Word::Open) => ("gpart", Word::Part),
            _ => ("gjoin", Word::Open),
        };
        let text = format!("{verb} {}", self.rooms[about].uri);
        self.accounts[account].wanted = Some(word.clone());
        self.tell(account, &chat, about, &text, Some(word));
    }

    fn tell(&mut self, account: usize, chat: &str, about: usize, text: &str, word: Option<Word>) {
        let room = self.rooms[about].clone();
        let logged_in = self.accounts[account].logged_in.load(SeqCst);
        let person = &self.accounts[account].person;
        let Ok(event) = person.say(chat, text) else { return };
        self.history.note(format!("{} tells the bot: {text}", person.id()));
        let before = self.words.len();
        match word {
            Some(Word::Logout) => {
                self.accounts[account].logged_in.store(false, SeqCst);
                self.word(account, None, Word::Logout);
            }
            // The bridge may know of a login that its person believes to have failed. What happens on Gitter happens to all
            // accounts of the same person there.
            Some(word) if logged_in || word == Word::Open => {
                let gitter = self.accounts[account].gitter.clone();
                self.word_of(&gitter, &room.id, &word);
            }
            // Should it be heard after the next login, it is done.
            Some(_) => drop(self.parted.insert((account, room.id))),
            None => {}
        }
        for word in &mut self.words[before..] {
            word.told = Some((event.clone(), chat.to_owned()));
        }
    }

    /// Follows the newest login link, if it was not used; asks for one now and then.
    fn log_in(&mut self, account: usize) {
        let Account { person, chat, used_links, busy, logged_in, gitter, .. } =
            &mut self.accounts[account];
        let Some(chat) = chat.clone() else { return };
        if busy.load(SeqCst) || logged_in.load(SeqCst) && self.rng.random_bool(0.9) {
            return;
        }
        let timeline = self.home.timeline(&chat);
        let links = timeline.iter().rev().filter(|message| message.sender != person.id());
        let link = links.filter_map(|message| link_in(message.text()));
        let link = link.take(1).last();
        let Some(link) = link.filter(|link| used_links.insert(link.clone())) else {
            if self.rng.random_bool(0.3) && person.say(&chat, "login").is_ok() {
                self.history.note(format!("{} tells the bot: login", person.id()));
            }
            return;
        };
        busy.store(true, SeqCst);
        let (busy, logged_in, gitter) = (busy.clone(), logged_in.clone(), gitter.clone());
        let (history, id, time) = (self.history.clone(), person.id().to_owned(), self.time.clone());
        let logins = self.logins.clone();
        let mut browser = Browser::carried(self.client.clone(), carry(self.net.clone()));
        history.note(format!("{id} follows a login link as {gitter}"));
        tokio::spawn(async move {
            let end = browser.log_in(&link, &gitter, Consent::Approve).await;
            match end {
                Ok(page) => {
                    history.note(format!("{id} ends at a page: {} {}", page.status, page.text()));
                    if page.status == 200 {
                        logged_in.store(true, SeqCst);
                        if let Ok(mut logins) = logins.lock() {
                            logins.push((time.now(), account));
                        }
                    }
                }
                Err(error) => {
                    // A link is another each time.
                    let why = format!("{error:#}").replace(&link, "the link");
                    history.note(format!("{id} does not get through: {why}"));
                }
            }
            busy.store(false, SeqCst);
        });
    }

    /// Everybody does some things more often than usual, and others never.
    pub fn take_habits(&mut self) {
        let weights: Vec<u32> = ACTS.iter().map(|(w, _)| w * turn(&mut self.rng)).collect();
        self.habits = weighted(weights);
        let words: Vec<u32> = WORDS.iter().map(|(w, ..)| w * turn(&mut self.rng)).collect();
        self.talk = weighted(words);
    }

    /// Whether an account believes to be logged in.
    #[must_use]
    pub fn is_logged_in(&self, account: usize) -> bool {
        self.accounts[account].logged_in.load(SeqCst)
    }

    /// The bridge has lost all logins. With `chats` it does not know its chats either, and people begin new ones.
    pub fn lose_logins(&mut self, chats: bool) {
        for account in &mut self.accounts {
            account.logged_in.store(false, SeqCst);
            account.chat = account.chat.take().filter(|_| !chats);
        }
    }

    fn pair(&mut self) -> Option<(String, String)> {
        let room = self.rooms.choose(&mut self.rng)?.id.clone();
        Some((room, self.gitterers.choose(&mut self.rng)?.clone()))
    }

    fn come_on_gitter(&mut self) {
        let Some((room, who)) = self.pair() else { return };
        let was_in = self.gitter.members(&room).contains(&who);
        if was_in || self.banned.contains(&(room.clone(), who.clone())) {
            return;
        }
        self.gitter.join(&room, &who);
        self.history.note(format!("{who} joins {room} on Gitter"));
        self.word_of(&who, &room, &Word::Open);
    }

    fn go_on_gitter(&mut self) {
        let Some((room, who)) = self.pair() else { return };
        if self.gitter.members(&room).contains(&who) {
            self.gitter.leave(&room, &who);
            self.history.note(format!("{who} leaves {room} on Gitter"));
            self.word_of(&who, &room, &Word::Part);
        }
    }

    fn ban_on_gitter(&mut self) {
        let Some((room, who)) = self.pair() else { return };
        let pair = (room.clone(), who.clone());
        if self.banned.remove(&pair) {
            self.gitter.unban(&room, &who);
            self.history.note(format!("{who} is welcome in {room} on Gitter again"));
        } else if self.gitter.members(&room).len() > 2
            && !self.rooms.iter().any(|known| known.id == room && known.admin == who)
        {
            self.gitter.ban(&room, &who);
            self.banned.insert(pair);
            self.history.note(format!("{who} is banned from {room} on Gitter"));
            self.word_of(&who, &room, &Word::Part);
        }
    }

    fn rename(&mut self) {
        let n = self.rng.random_range(0..self.rooms.len());
        let number = self.rng.random_range(0..100_000);
        let room = &mut self.rooms[n];
        if number % 2 == 0 {
            self.gitter.set_topic(&room.id, &format!("topic {number}"));
            self.history.note(format!("topic {number} in {}", room.id));
        } else {
            let before = std::mem::replace(&mut room.uri, format!("acme/renamed{number}"));
            room.former.push(before);
            self.gitter.rename_room(&room.id, &room.uri);
            self.renamed.insert(room.id.clone(), self.time.now());
            self.history.note(format!("{} is now called {}", room.id, room.uri));
        }
    }

    fn rename_person(&mut self) {
        let Some(who) = self.gitterers.choose(&mut self.rng).cloned() else { return };
        let number = self.rng.random_range(0..100_000);
        let shown = format!("{} {number}", who.to_uppercase());
        self.gitter.rename_user(&who, &who, &shown);
        self.history.note(format!("{who} is now shown as {shown}"));
        self.shown.insert(who, shown);
    }

    fn revoke(&mut self) {
        let Some(who) = self.gitterers.choose(&mut self.rng).cloned() else { return };
        let count = self.gitter.revoke_tokens_of(&who);
        if count > 0 {
            self.history.note(format!("{who}'s tokens are revoked"));
            for account in self.accounts.iter().filter(|account| account.gitter == who) {
                account.logged_in.store(false, SeqCst);
            }
            self.revoked.insert(who);
        }
    }

    /// Gitter takes somebody for a spammer: what they send looks sent and is thrown away.
    fn silence(&mut self) {
        let Some(who) = self.gitterers.choose(&mut self.rng).cloned() else { return };
        self.gitter.hellban(&who);
        self.history.note(format!("Gitter silences {who}"));
    }

    fn leave_chat(&mut self, account: usize) {
        let Account { person, chat, .. } = &mut self.accounts[account];
        if let Some(chat) = chat.take() {
            let done = person.leave(&chat).is_ok();
            self.left.insert(chat, self.time.now());
            self.history.note(format!("{} leaves the chat with the bot: {done}", person.id()));
        }
    }

    fn purge(&mut self, account: usize) {
        let portals = self.portals(account, "join");
        if let Some((room, key)) = portals.choose(&mut self.rng).cloned() {
            self.home.purge_room(&room);
            self.purged.insert(room.clone());
            self.history.note(format!("an admin of the homeserver deletes {room} ({key})"));
        }
    }

    /// A portal's room is replaced by another: by an admin of the homeserver in the bot's name, who may take one that does not go on
    /// for it; or by its account, whom that admin gave the power.
    fn upgrade(&mut self, account: usize) {
        let portals = self.portals(account, "join");
        let Some((room, key)) = portals.choose(&mut self.rng).cloned() else { return };
        let (admin, person) = (self.home.person("gitter"), &self.accounts[account].person);
        let version = if self.rng.random_bool(0.5) { 11 } else { 12 };
        let how = self.rng.random_range(0..5);
        let made = match how {
            0..3 => admin.upgrade(&room, version),
            3 => {
                let level = self.home.state(&room, "m.room.power_levels", "");
                let mut level = level.unwrap_or_default();
                level["users"][person.id()] = 100.into();
                level["events"]["m.room.tombstone"] = 100.into();
                let given = admin.set_state(&room, "m.room.power_levels", "", level);
                given.and_then(|_| person.upgrade(&room, version))
            }
            _ => admin.create_room(&json!({"name": "astray"})).and_then(|astray| {
                let end = json!({"body": "gone", "replacement_room": astray});
                admin.set_state(&room, "m.room.tombstone", "", end).map(|_| astray)
            }),
        };
        let who = if how == 3 { person.id() } else { "an admin" };
        match made {
            Ok(new) => {
                let what = format!("{who} upgrades {room} ({key}) to {new}");
                self.history.fault("portal upgraded", what);
                self.upgraded.push((self.time.now(), key));
                if how == 3 {
                    self.uninvited.push((account, new));
                }
            }
            Err(error) => self.history.note(format!("{who} can't upgrade {room}: {error:?}")),
        }
    }

    /// The chat with the bot is replaced by another.
    fn upgrade_chat(&mut self, account: usize) {
        let Account { person, chat, .. } = &mut self.accounts[account];
        let Some(old) = chat.clone() else { return };
        if let Ok(new) = person.upgrade(&old, 11) {
            let what = format!("{} upgrades the chat {old} to {new}", person.id());
            self.history.fault("chat upgraded", what);
            self.left.insert(old, self.time.now());
            self.uninvited.push((account, new.clone()));
            *chat = Some(new);
        }
    }

    /// Whoever upgraded a room invites the bot into the new one.
    fn invite_late(&mut self, account: usize) {
        let mine = self.uninvited.iter().position(|(whose, _)| *whose == account);
        if let Some(n) = mine {
            let (_, room) = self.uninvited.remove(n);
            let person = &self.accounts[account].person;
            let done = person.invite(&room, &bot()).is_ok();
            self.history.note(format!("{} invites the bot to {room}: {done}", person.id()));
        }
    }

    /// An admin of the homeserver lets somebody into a portal who has no business there.
    fn intrude(&mut self, account: usize) {
        let portals = self.portals(account, "join");
        if let Some((room, key)) = portals.choose(&mut self.rng) {
            let stranger = self.home.person("stranger");
            self.home.put_in(room, stranger.id());
            self.history.note(format!("{} gets into {room} ({key})", stranger.id()));
        }
    }
}

/// Which portal a room is, by what it was made with, or by what the bot says of it where it replaces another.
#[must_use]
pub fn portal_of(room: &homeserver_sim::RoomView) -> Option<PortalKey> {
    let said = room.marks.get(PORTAL_KEY).filter(|(sender, _)| *sender == bot());
    let mark = said.map_or(&room.creation, |(_, content)| content);
    mark[PORTAL_KEY].as_str()?.parse().ok()
}

/// The bridge's bot.
#[must_use]
pub fn bot() -> String {
    format!("@gitter:{DOMAIN}")
}

fn link_in(text: &str) -> Option<String> {
    let from = text.find("http://bridge.test/login?link=")?;
    let link: String =
        text[from..].chars().take_while(|c| !c.is_whitespace() && !"<>)\"".contains(*c)).collect();
    Some(link)
}

fn carry(net: Net) -> Carry {
    Arc::new(move |request| {
        let net = net.clone();
        Box::pin(async move {
            let answer = net.browse(crate::net::http_request(&request)).await;
            let answer = answer.ok_or_else(|| anyhow::anyhow!("no answer"))?;
            Ok(reqwest::Response::from(answer))
        })
    })
}

/// How often each thing was said.
#[must_use]
pub fn counted<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for text in texts {
        for word in words_in(text) {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// The words of people in a text: `word00001x`.
pub fn words_in(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("word").filter_map(|(at, _)| {
        let word = text.get(at..at + 10)?;
        let good = word.ends_with('x') && word[4..9].bytes().all(|b| b.is_ascii_digit());
        good.then_some(word)
    })
}
