//! What was promised, and whether it was kept: looked at when everything is at rest.

use std::collections::{BTreeMap, BTreeSet};

use homeserver_sim::{Event, RoomView};
use reconcile::{
    driver::Key,
    model::{Portal, PortalKey, Session, Target},
};

use crate::{
    history::History,
    life::Life,
    net::Deed,
    people::{Account, Asked, GitterRoom, People, Said, Word, bot, counted, portal_of, words_in},
    time::shown,
};

/// Words about the same thing, said in different places within this time, are a race, and either may win, in ms.
const RACE: u64 = 15 * 60_000;
/// The same, of words that come one after the other.
const IN_ORDER: u64 = 60_000;

/// What is said while a call is about to be made may come too late for it, in ms.
const AT_ONCE: u64 = 100;

/// An invite waits longer for what was said before, in ms: ten seconds from when the room is noted.
const HISTORY: u64 = 9_000;

/// So many of a room's messages are looked at for changes after the bridge was away.
const FOLLOWED: usize = 90;

/// Everything there is to look at.
pub struct Case<'a> {
    /// The record.
    pub history: &'a History,
    /// Who said what.
    pub people: &'a People,
    /// The homeserver.
    pub home: &'a homeserver_sim::World,
    /// Gitter.
    pub gitter: &'a gitter_sim::World,
    /// The bridge.
    pub life: &'a Life,
    /// When another database was put in place: the bridge has forgotten what came after a backup. Who has left a room since may be
    /// let in again.
    pub restores: &'a [u64],
    /// When the bridge's rows were lost, all of them: of what was said before nobody knows whether it still has to be done.
    pub lost: Option<u64>,
    /// The homeserver has lost sight of events. What it did not tell was read from the rooms, later than what was said after it; of
    /// an invite nobody knows who is not in the room.
    pub flaws: bool,
    /// What was said from then on was said while nothing was wrong.
    pub last: Option<u64>,
    /// From when to when a side was away, or the bridge dead.
    pub outages: &'a [(u64, u64)],
    /// What the bridge began to do to memberships, and when.
    pub deeds: Vec<(u64, Deed)>,
}

impl Case<'_> {
    fn restored(&self) -> bool {
        !self.restores.is_empty()
    }
}

struct Rows {
    sessions: BTreeMap<String, (Session, bool)>,
    portals: Vec<(PortalKey, Portal)>,
    /// What waits to go to Gitter, in words, by portal.
    outgoing: Vec<(PortalKey, String)>,
    /// What the bot still has to say, and to whom.
    waiting_words: Vec<String>,
    /// To whom it has something to say, and no chat to say it in.
    deaf: BTreeSet<String>,
}

/// Looks whether every promise was kept; those that were not go into the history.
pub fn judge(case: &Case<'_>) {
    let Some(bridge) = case.life.bridge() else {
        case.history.violation("there is no bridge at the end");
        return;
    };
    let rows = bridge.state.store().read(|t| {
        let mut sessions = BTreeMap::new();
        for (user, account) in t.accounts()? {
            sessions.insert(user.to_string(), (account.session, t.has_token(&user)?));
        }
        let mut portals = Vec::new();
        let mut outgoing = Vec::new();
        for key in t.portal_keys()? {
            if let Some((_, first)) = t.first_outgoing(&key)? {
                outgoing.push((key.clone(), format!("{first:?}")));
            }
            if let Some(portal) = t.portal(&key)? {
                portals.push((key, portal));
            }
        }
        let (mut waiting_words, mut deaf) = (Vec::new(), BTreeSet::new());
        for target in t.notices_waiting()? {
            // Who has no chat with the bot is told when there is one.
            if let Target::Account(user) = &target
                && t.account(user)?.is_none_or(|account| account.control_room().is_none())
            {
                deaf.insert(user.to_string());
                continue;
            }
            let first = t.first_notice(&target)?;
            waiting_words.push(format!("{target:?}: {:?}", first.map(|(_, notice)| notice.say)));
        }
        Ok(Rows { sessions, portals, outgoing, waiting_words, deaf })
    });
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            case.history.violation(format!("the rows can't be read: {error}"));
            return;
        }
    };
    let rooms = case.home.rooms();
    one_portal_each(case, &rows, &rooms);
    no_strangers(case, &rows, &rooms);
    as_wished(case, &rows, &rooms);
    as_said(case, &rows, &rooms);
    asked_back(case, &rooms);
    heeded(case, &rooms);
    put_out(case, &rooms);
    as_shown(case, &rows, &rooms);
    as_asked(case);
    to_gitter(case, &rows, &rooms);
    to_matrix(case, &rows, &rooms);
    history_first(case, &rooms);
    for (key, portal) in &rows.portals {
        for key in [Key::Portal(key.clone()), Key::Populate(key.clone())] {
            if let Some((failure, _)) = bridge.trouble(&key)
                && portal.condition.is_none()
            {
                case.history.violation(format!("{key} still fails: {}", failure.error));
            }
        }
    }
}

/// At most one portal for each account and Gitter room, now and at every time.
fn one_portal_each(case: &Case<'_>, rows: &Rows, rooms: &[RoomView]) {
    let mut by_key: BTreeMap<PortalKey, Vec<&RoomView>> = BTreeMap::new();
    for room in rooms {
        if let Some(key) = portal_of(room) {
            by_key.entry(key).or_default().push(room);
        }
    }
    for (key, rooms) in by_key {
        let with_bot: Vec<_> =
            rooms.iter().filter(|room| has_bot(room)).map(|room| room.id.as_str()).collect();
        if with_bot.len() > 1 && !is_forgotten(case, rows, &key) {
            case.history.violation(format!("{key} has {} rooms: {with_bot:?}", with_bot.len()));
        }
        // The account in two of them at the same time. Out of some the bot can't throw it.
        let rooms: Vec<_> = rooms
            .into_iter()
            .filter(|room| room.replaced_by.is_some() || !is_kept(case, room, key.account.as_str()))
            // Nor out of one that it left before its rows were lost.
            .filter(|room| case.lost.is_none() || has_bot(room))
            .collect();
        let mut moves: Vec<(usize, u64, &str, bool)> = Vec::new();
        let events: Vec<Vec<Event>> = rooms.iter().map(|room| case.home.events(&room.id)).collect();
        for (room, events) in rooms.iter().zip(&events) {
            for event in events {
                // A room that was replaced may be kept.
                if event.kind == "m.room.tombstone" {
                    moves.push((0, event.came, &room.id, false));
                    break;
                }
                let member = event.state_key.as_deref() == Some(key.account.as_str());
                if event.kind == "m.room.member" && member {
                    let inside = matches!(event.membership(), "join" | "invite");
                    moves.push((0, event.came, &room.id, inside));
                }
            }
        }
        moves.sort_by_key(|(_, came, _, inside)| (*came, *inside));
        let mut inside = BTreeSet::new();
        for (_, came, room, is_in) in moves {
            if is_in {
                inside.insert(room)
            } else {
                inside.remove(room)
            };
            if inside.len() > 1 {
                let at = shown(came);
                case.history.violation(format!("{key}: in {inside:?} at the same time, {at}"));
                break;
            }
        }
    }
}

/// Nobody but the account, the bot and ghosts is in a portal.
fn no_strangers(case: &Case<'_>, rows: &Rows, rooms: &[RoomView]) {
    for room in rooms {
        let Some(key) = portal_of(room) else { continue };
        if is_forgotten(case, rows, &key) {
            continue;
        }
        // Nobody looks after a room any more that the bot has left to its account.
        if !has_bot(room) && is_kept(case, room, key.account.as_str()) {
            continue;
        }
        for (user, membership) in &room.members {
            let ours = user == key.account.as_str() || user.starts_with("@gitter");
            // Who was put in by an admin of the homeserver has been thrown out by now.
            if !ours && matches!(membership.as_str(), "join" | "invite") {
                case.history.violation(format!("{user} is in {} ({membership})", room.id));
            }
        }
    }
}

/// Whether a lost database knew a portal that is not known again before its account logs in.
fn is_forgotten(case: &Case<'_>, rows: &Rows, key: &PortalKey) -> bool {
    case.lost.is_some() && rows.portals.iter().all(|(portal, _)| portal != key)
}

/// What the rows want is what is.
fn as_wished(case: &Case<'_>, rows: &Rows, rooms: &[RoomView]) {
    let history = case.history;
    for waiting in &rows.waiting_words {
        history.violation(format!("the bot still has something to say to {waiting}"));
    }
    for (user, (session, token)) in &rows.sessions {
        if *token != session.is_active() {
            history.violation(format!("{user} has a token: {token}, with {session:?}"));
        }
    }
    let room_of = |id: &str| rooms.iter().find(|room| room.id == id);
    for (key, portal) in &rows.portals {
        let account = key.account.as_str();
        let Some((session, _)) = rows.sessions.get(account) else {
            history.violation(format!("{key} belongs to nobody"));
            continue;
        };
        if portal.condition.is_some() {
            continue;
        }
        if session.is_active() && (portal.open.pending() || portal.member.pending()) {
            history.violation(format!("{key} is still pending: {portal:?}"));
            continue;
        }
        let place = portal.place.room().map(|room| room.as_str());
        let inside = place
            .and_then(room_of)
            .and_then(|room| room.members.get(account))
            .is_some_and(|membership| matches!(membership.as_str(), "join" | "invite"));
        // Without a login nothing is made; what there was stays.
        let kept = session.is_active() || session.person().is_some() && place.is_some();
        if portal.open.desired && !inside && kept {
            history.violation(format!("{key} should be open, and {account} is not in {place:?}"));
        }
        if !portal.open.desired {
            for room in rooms.iter().filter(|room| portal_of(room).as_ref() == Some(key)) {
                // An invite of a ghost that never came in is seen by nobody.
                let invited = room.with("invite").filter(|user| !user.starts_with("@gitter_"));
                let is_left = |user: &&str| {
                    !is_kept(case, room, account) || has_bot(room) && *user != account
                };
                let left: Vec<_> = room.with("join").chain(invited).filter(is_left).collect();
                if !left.is_empty() {
                    history.violation(format!("{key} is closed, and {left:?} are in {}", room.id));
                }
            }
        }
        if let (true, Some(person)) = (session.is_active(), session.person()) {
            let members = case.gitter.members(key.room.as_str());
            let member = members.contains(&person.username);
            if member != portal.member.desired {
                history.violation(format!("{key}: on Gitter {member}, wanted {portal:?}"));
            }
        }
    }
    for (key, waiting) in &rows.outgoing {
        let active =
            rows.sessions.get(key.account.as_str()).is_some_and(|(session, _)| session.is_active());
        if active {
            history.violation(format!("messages of {key} still wait: {waiting}"));
        }
    }
}

/// Who has left stays out: nobody is invited or joined again without having asked for it.
fn as_said(case: &Case<'_>, rows: &Rows, rooms: &[RoomView]) {
    if case.restored() {
        return;
    }
    let words = case.people.words();
    for (n, account) in case.people.accounts.iter().enumerate() {
        let id = account.person.id();
        let Some((session, token)) = rows.sessions.get(id) else { continue };
        for room in &case.people.rooms {
            let mut about: Vec<&Asked> = words
                .iter()
                .filter(|asked| {
                    asked.account == n && asked.room.as_ref().is_none_or(|what| *what == room.id)
                })
                .collect();
            let Some(Asked { at, word: last, late, on_matrix, .. }) = about.pop() else { continue };
            // Who leaves a chat may take back what was not heard in it yet.
            if *late {
                continue;
            }
            // Who leaves once more what they were let into again has said nothing else.
            let race = |before: &Asked| {
                let in_order = *on_matrix && before.on_matrix && !case.flaws;
                let window = if in_order { IN_ORDER } else { RACE };
                awake(case.outages, before.at, *at) < window
            };
            if about.iter().any(|before| race(before) && before.word != *last) {
                continue;
            }
            // Who was about to leave a room that was replaced may not have been heard.
            let upgraded = |(when, key): &(u64, PortalKey)| {
                let same = key.account.as_str() == id && key.room.as_str() == room.id;
                same && when >= at && awake(case.outages, *at, *when) < RACE
            };
            if *last == Word::LeftPortal && case.people.upgraded.iter().any(upgraded) {
                continue;
            }
            let inside = rooms.iter().filter(|room| !is_kept(case, room, id)).any(|r| {
                portal_of(r).is_some_and(|k| k.account.as_str() == id && k.room.as_str() == room.id)
                    && r.members.get(id).is_some_and(|m| m == "join" || m == "invite")
            });
            let at = shown(*at);
            match last {
                Word::LeftPortal | Word::Logout | Word::Part if inside => {
                    let active = session.is_active() || *last != Word::Part;
                    if active {
                        case.history.violation(format!(
                            "{id}'s last word on {} was {last:?} at {at}, and it is in its portal",
                            room.id
                        ));
                    }
                }
                Word::Logout if *token => {
                    case.history.violation(format!("{id} has logged out at {at}: token is there"));
                }
                Word::Part if session.is_active() => {
                    let shared =
                        case.people.accounts.iter().filter(|a| a.gitter == account.gitter).count();
                    let member = case.gitter.members(&room.id).contains(&account.gitter);
                    if member && shared == 1 {
                        case.history.violation(format!(
                            "{} has left {} at {at}, and is a member",
                            account.gitter, room.id
                        ));
                    }
                }
                _ => {}
            }
        }
    }
}

/// At every time: who has left a portal, having been in it for a while, is invited again only after having asked for it.
fn asked_back(case: &Case<'_>, rooms: &[RoomView]) {
    if case.restored() || case.flaws {
        return;
    }
    let words = case.people.words();
    for room in rooms {
        let Some(key) = portal_of(room) else { continue };
        let account = key.account.as_str();
        let asked = |from: u64, to: u64| {
            words.iter().any(|asked| {
                case.people.accounts[asked.account].person.id() == account
                    && asked.room.as_ref().is_none_or(|what| *what == key.room.as_str())
                    && matches!(asked.word, Word::Open | Word::Login)
                    && (from..=to).contains(&asked.at)
            })
        };
        let events = case.home.events(&room.id);
        let moves: Vec<&Event> = events
            .iter()
            .filter(|e| e.kind == "m.room.member" && e.state_key.as_deref() == Some(account))
            .collect();
        for three in moves.windows(3) {
            let [came, left, next] = three else { continue };
            // An invite that was on its way when they came may arrive after they left.
            let settled = came.membership() == "join"
                && awake(case.outages, came.came, left.came) >= 2 * IN_ORDER;
            let by_themselves = left.membership() == "leave" && left.sender == account;
            let invited = next.membership() == "invite" && next.sender == bot();
            let heard = case.people.heard(&left.id).is_some_and(|heard| heard < next.came);
            if settled && by_themselves && invited && heard && !asked(came.came, next.came) {
                case.history.violation(format!(
                    "{key} was left at {}, and its account was asked back at {}",
                    shown(left.came),
                    shown(next.came)
                ));
            }
        }
    }
}

/// At every time: what was taken back by a command is not begun any more.
fn heeded(case: &Case<'_>, rooms: &[RoomView]) {
    if case.restored() || case.flaws {
        return;
    }
    let words = case.people.words();
    for (at, deed) in &case.deeds {
        let (account, room, wanted) = match deed {
            Deed::Invite { room, user } => {
                let room = rooms.iter().find(|known| known.id == *room);
                let Some(key) = room.and_then(portal_of) else { continue };
                (user.clone(), key.room.to_string(), Word::Open)
            }
            Deed::Leave { room, user } => {
                let theirs = |a: &&Account| case.people.ids.get(&a.gitter) == Some(user);
                let mut accounts = case.people.accounts.iter().filter(theirs);
                // Of two accounts either may have asked for it.
                let (Some(account), None) = (accounts.next(), accounts.next()) else { continue };
                (account.person.id().to_owned(), room.clone(), Word::Part)
            }
        };
        let about = words.iter().filter(|asked| {
            case.people.accounts[asked.account].person.id() == account
                && asked.room.as_ref().is_none_or(|what| *what == room)
                && asked.at < *at
        });
        let (told, elsewhere): (Vec<_>, Vec<_>) = about.partition(|asked| asked.heard);
        let Some(last) = told.last() else { continue };
        let against = match wanted {
            Word::Open => matches!(last.word, Word::Part | Word::Logout),
            _ => last.word == Word::Open,
        };
        // What was done elsewhere may be heard of later.
        let recent =
            |asked: &&Asked| asked.at > last.at || awake(case.outages, asked.at, last.at) < RACE;
        let races = elsewhere.iter().any(recent);
        if against && !last.late && !races && last.at + AT_ONCE < *at {
            case.history.violation(format!(
                "{deed:?} was begun at {}, although it was taken back by {:?} at {}",
                shown(*at),
                last.word,
                shown(last.at)
            ));
        }
    }
}

/// At every time: nobody is put out of a portal who has not left, here or on Gitter.
fn put_out(case: &Case<'_>, rooms: &[RoomView]) {
    if case.restored() {
        return;
    }
    let words = case.people.words();
    for room in rooms.iter().filter(|room| room.replaced_by.is_none()) {
        let Some(key) = portal_of(room) else { continue };
        let account = key.account.as_str();
        let is_own = |n: &usize| case.people.accounts[*n].person.id() == account;
        if case.people.parted.iter().any(|(n, room)| is_own(n) && *room == key.room.as_str()) {
            continue;
        }
        let events = case.home.events(&room.id);
        let mut invited = 0;
        let of_account = |e: &&Event| e.state_key.as_deref() == Some(account);
        for event in events.iter().filter(of_account) {
            if event.membership() == "invite" {
                invited = event.came;
            }
            if event.membership() != "leave" || event.sender != bot() {
                continue;
            }
            let asked = words.iter().any(|asked| {
                case.people.accounts[asked.account].person.id() == account
                    && asked.room.as_ref().is_none_or(|what| *what == key.room.as_str())
                    && matches!(asked.word, Word::Part | Word::LeftPortal | Word::Logout)
                    && asked.said <= event.came
                    && awake(case.outages, asked.at, invited) < RACE
            });
            if !asked {
                case.history.violation(format!(
                    "{key}: its account was put out at {}, and nobody had asked for it",
                    shown(event.came)
                ));
            }
        }
    }
}

/// Whether an account may stay in a portal's room that is closed: one that was replaced; or one that the bot has left, since it is
/// the account's own or the account has as much power there.
fn is_kept(case: &Case<'_>, room: &RoomView, account: &str) -> bool {
    let power = || {
        let levels = case.home.state(&room.id, "m.room.power_levels", "").unwrap_or_default();
        levels["users"][account].as_i64().unwrap_or(0)
    };
    room.replaced_by.is_some() || !has_bot(room) && (room.creator == account || power() >= 100)
}

/// Whether the bot is in a room.
fn has_bot(room: &RoomView) -> bool {
    room.members.get(&bot()).is_some_and(|m| m == "join")
}

/// What happened in the room in which something was said, and in the portal's other rooms.
fn events_of(case: &Case<'_>, rooms: &[RoomView], said: &Said) -> Vec<Event> {
    let mut events = case.home.events(&said.room);
    let others = rooms.iter().filter(|room| portal_of(room).as_ref() == Some(&said.portal));
    for other in others.filter(|other| other.id != said.room) {
        events.extend(case.home.events(&other.id));
    }
    events
}

/// Whether tokens of a portal's account were revoked on Gitter, at any time.
fn was_revoked(case: &Case<'_>, key: &PortalKey) -> bool {
    let mut accounts = case.people.accounts.iter();
    let own = accounts.find(|account| account.person.id() == key.account.as_str());
    own.is_some_and(|account| case.people.revoked.contains(&account.gitter))
}

/// How long between two times no side was away, in ms: only then is a word heeded before the next one.
fn awake(outages: &[(u64, u64)], from: u64, to: u64) -> u64 {
    let mut outages = outages.to_vec();
    outages.sort_unstable();
    let (mut awake, mut at) = (0, from);
    for (begin, end) in outages {
        awake += begin.min(to).saturating_sub(at);
        at = at.max(end);
    }
    awake + to.saturating_sub(at)
}

/// What the bot said about an event.
fn answers<'a>(events: &'a [Event], event: &'a str) -> impl Iterator<Item = &'a str> {
    let about = move |e: &&Event| {
        e.sender == bot() && e.content["m.relates_to"]["m.in_reply_to"]["event_id"] == event
    };
    events.iter().filter(about).map(|e| e.text("body"))
}

/// The bot said in the room that this is not on Gitter, and will not be: that it waits is no last word, nor is a warning.
pub(crate) fn told(events: &[Event], event: &str) -> bool {
    let not_yet =
        |words: &&str| words.contains("is not on Gitter yet") || words.starts_with("Careful");
    answers(events, event).any(|words| !not_yet(&words))
}

/// What senders were told in chats with the bot, where a portal was closed when it turned out. There it is not said of which
/// message, so each word is good for one.
struct Elsewhere {
    /// Of which account, when, what.
    words: Vec<(String, u64, String)>,
    used: BTreeSet<usize>,
    /// Accounts that the bot can't tell anything until they have a chat with it.
    deaf: BTreeSet<String>,
}

impl Elsewhere {
    fn new(case: &Case<'_>, rows: &Rows, rooms: &[RoomView]) -> Self {
        let mut words = Vec::new();
        for chat in rooms.iter().filter(|room| portal_of(room).is_none()) {
            let events = case.home.events(&chat.id);
            let theirs = case.people.accounts.iter().map(|account| account.person.id());
            // Of a chat that was left, too.
            for account in theirs.filter(|id| chat.members.contains_key(*id)) {
                let said = events.iter().filter(|event| event.sender == bot());
                words.extend(said.map(|e| (account.to_owned(), e.came, e.text("body").to_owned())));
            }
        }
        // Each message takes the first word after it that none before it took.
        words.sort_by_key(|(_, came, _)| *came);
        Self { words, used: BTreeSet::new(), deaf: rows.deaf.clone() }
    }

    /// Whether there is a word about this one, said in a portal of this Gitter room.
    fn told(&mut self, said: &Said, of: Option<&GitterRoom>) -> bool {
        let account = said.portal.account.as_str();
        // A room is called by the name that the bridge knew then, or by its id.
        let here = |name: &str| {
            let called =
                |of: &GitterRoom| name == of.uri || of.former.iter().any(|old| name == old);
            name == said.portal.room.as_str() || of.is_some_and(called)
        };
        let words = self.words.iter().enumerate();
        let mut words = words.filter(|(_, (whose, came, _))| whose == account && *came >= said.at);
        let of_this = |body: &str| {
            let rest = body.split_once(" of yours in ").map(|(_, rest)| rest);
            let all = rest.and_then(|rest| rest.split_once(" may not have "));
            let mut words = said.edits.iter().chain([&said.text]);
            let named =
                body.contains("had closed the room") && words.any(|word| body.contains(word));
            named || all.is_some_and(|(name, _)| here(name))
        };
        if self.deaf.contains(account) || words.clone().any(|(_, (.., body))| of_this(body)) {
            return true;
        }
        let one = words.find(|(n, (.., body))| {
            let rest = body.strip_prefix("In ");
            let name = rest.and_then(|rest| rest.split_once(": This message "));
            !self.used.contains(n) && name.is_some_and(|(name, _)| here(name))
        });
        one.map(|(n, _)| n).is_some_and(|n| self.used.insert(n))
    }
}

/// What is shown of a Gitter room is as it is there: the portal's name and topic, and who is in it under which name.
fn as_shown(case: &Case<'_>, rows: &Rows, rooms: &[RoomView]) {
    let history = case.history;
    for (key, portal) in &rows.portals {
        let active =
            rows.sessions.get(key.account.as_str()).is_some_and(|(session, _)| session.is_active());
        let place = portal.place.room().map(|room| room.as_str());
        let view = rooms.iter().find(|room| Some(room.id.as_str()) == place);
        let Some(room) = view.filter(|_| active && portal.open.desired) else { continue };
        let known = case.people.rooms.iter().find(|room| room.id == key.room.as_str());
        let Some(known) = known.filter(|_| portal.condition.is_none()) else { continue };
        let name = case.home.state(&room.id, "m.room.name", "").unwrap_or_default();
        if name["name"] != format!("{} (Gitter)", known.uri).as_str() {
            history.violation(format!("{key} is called {name}, and its room {}", known.uri));
        }
        let own = case.people.accounts.iter().find(|a| a.person.id() == key.account.as_str());
        let own = own.map(|account| account.gitter.as_str()).unwrap_or_default();
        let ghost_of = |name: &String| format!("@gitter_{name}:{}", crate::life::DOMAIN);
        let members = case.gitter.members(&known.id);
        let should: BTreeSet<String> =
            members.iter().filter(|name| *name != own).map(ghost_of).collect();
        let is: BTreeSet<String> = room
            .with("join")
            .filter(|user| user.starts_with("@gitter_") && **user != *ghost_of(&own.to_owned()))
            .map(str::to_owned)
            .collect();
        if !is.is_superset(&should) {
            history.violation(format!("{key}: {is:?} are in its portal, not {should:?}"));
        }
        for name in members.iter().filter(|name| *name != own) {
            let profile = case.home.profile(&ghost_of(name));
            let shown = profile.get("displayname").map(String::as_str).unwrap_or_default();
            if !shown.starts_with(&case.people.shown_name(name)) {
                history.violation(format!("{name} is shown as {shown}"));
            }
        }
    }
}

/// Everything said to the bot was answered.
fn as_asked(case: &Case<'_>) {
    for account in &case.people.accounts {
        let Some(chat) = &account.chat else { continue };
        // That the bot is invited, nobody heard, or only a bridge whose rows are lost; or a newer chat was begun by inviting it to a
        // room that a closed portal's was upgraded to.
        let rooms = case.home.rooms();
        let view = rooms.iter().find(|room| room.id == *chat);
        let events = case.home.events(chat);
        let begun = events.first().map_or(0, |event| event.came);
        let is_newer = |event: &Event| {
            event.state_key.as_deref() == Some(bot().as_str())
                && event.membership() == "invite"
                && event.sender == account.person.id()
                && event.came > begun
        };
        let others = rooms.iter().filter(|room| room.id != *chat && portal_of(room).is_none());
        let moved = others
            .filter(|room| room.creator == account.person.id())
            .any(|room| has_bot(room) || case.home.events(&room.id).iter().any(is_newer));
        if (case.restored() || case.flaws || moved) && view.is_none_or(|room| !has_bot(room)) {
            continue;
        }
        let is_text = |e: &&Event| e.kind == "m.room.message";
        let asked = events.iter().filter(is_text).rev().find(|e| e.sender == account.person.id());
        let asked = asked.filter(|asked| case.lost.is_none_or(|lost| asked.came >= lost));
        let answered = events.iter().filter(is_text).rev().find(|e| e.sender == bot());
        // Or where they talk now, with its words, when the bot had left this chat for another.
        let again = |asked: &Event| {
            let quoted = format!("“{}”", asked.text("body"));
            let here = |room: &&RoomView| room.members.contains_key(account.person.id());
            let events = rooms.iter().filter(here).flat_map(|room| case.home.events(&room.id));
            let mut events = events.filter(|e| e.sender == bot() && e.came >= asked.came);
            events.any(|e| e.text("body").contains(&quoted))
        };
        if let Some(asked) = asked
            && answered.is_none_or(|answered| answered.came < asked.came)
            && !again(asked)
        {
            case.history.violation(format!(
                "{} said {:?} in {chat}, and had no answer",
                asked.sender,
                asked.text("body")
            ));
        }
    }
}

/// Where something is in a Gitter room, and when it came there.
type Placed = (usize, u64);

/// Everything said in a portal is on Gitter once, in order, or its sender was told.
fn to_gitter(case: &Case<'_>, rows: &Rows, rooms: &[RoomView]) {
    let history = case.history;
    // In each of its rooms: of one that was replaced the homeserver may tell later.
    let mut order: BTreeMap<(&PortalKey, &str), Vec<(&Said, Placed)>> = BTreeMap::new();
    let mut elsewhere = Elsewhere::new(case, rows, rooms);
    for room in &case.people.rooms {
        let messages = case.gitter.messages(&room.id);
        let counts = counted(messages.iter().map(|message| message.text.as_str()));
        for said in case.people.said.iter().filter(|said| said.portal.room.as_str() == room.id) {
            let count = |text: &str| counts.get(text).copied().unwrap_or(0);
            // A bridge whose rows are lost looks into the portal's room for what was said, not into the one that it replaced.
            let replaced = case.people.upgraded.iter().any(|(_, key)| *key == said.portal);
            for text in said.edits.iter().chain([&said.text]).chain(&said.end) {
                if count(text) > 1 && !(case.restored() && replaced) {
                    history.violation(format!("{text} is on Gitter {} times", count(text)));
                }
            }
            let place = messages.iter().position(|m| words_in(&m.text).any(|w| w == said.text));
            if let Some(place) = place
                && said.edits.is_empty()
            {
                let from = (&said.portal, said.room.as_str());
                let sent = ms_of(&messages[place].sent);
                order.entry(from).or_default().push((said, (place, sent)));
            }
            let end = said.end.as_ref().filter(|_| said.edits.is_empty());
            let newest = said.edits.last().or(end).unwrap_or(&said.text);
            arrived(case, rows, rooms, said, count(newest), &mut elsewhere);
        }
    }
    for ((portal, _), places) in order {
        // Of what was not carried, its author was about to be told why: a bridge that has forgotten that carries it, later. And what
        // was said before all rows were lost may be told of once more, or be read, at any time.
        let forgot = |early: u64, late: u64| case.restores.iter().any(|r| early < *r && *r <= late);
        let sorted = places.windows(2).all(|pair| {
            let [(said, before), (_, after)] = pair else { return true };
            before.0 < after.0
                || forgot(after.1, before.1)
                || case.lost.is_some_and(|lost| said.at < lost)
        });
        if !sorted && !case.flaws {
            let places: Vec<_> =
                places.iter().map(|(said, place)| (place.0, said.text.as_str())).collect();
            history.violation(format!("out of order on Gitter, from {portal}: {places:?}"));
        }
    }
}

fn arrived(
    case: &Case<'_>,
    rows: &Rows,
    rooms: &[RoomView],
    said: &Said,
    count: usize,
    elsewhere: &mut Elsewhere,
) {
    let history = case.history;
    let account = said.portal.account.as_str();
    let active = rows.sessions.get(account).is_some_and(|(session, _)| session.is_active());
    let room = rooms.iter().find(|room| room.id == said.room);
    let Some(room) = room else { return };
    let inside = room.members.get(account).is_some_and(|m| m == "join");
    let mut events = events_of(case, rooms, said);
    // Who was put out of a room is told nothing there.
    let here = case.home.events(&said.room);
    events.retain(|event| {
        let before = here.iter().take_while(|e| e.id != event.id);
        let of_account = |e: &&Event| e.state_key.as_deref() == Some(account);
        let is_here = here.iter().any(|e| e.id == event.id);
        let last = before.filter(of_account).last();
        let out = last.is_some_and(|e| e.membership() == "leave" && e.sender == bot());
        event.sender != bot() || event.kind != "m.room.message" || !is_here || !out
    });
    let mut words: Vec<&str> = answers(&events, &said.event).collect();
    let not_there =
        words.iter().any(|w| w.starts_with("This message is not on") && !w.contains("waits"));
    if not_there && count > 0 && said.edits.is_empty() && said.end.is_none() {
        history.violation(format!("{} is on Gitter, and its sender was told otherwise", said.text));
    }
    words.sort_unstable();
    let before = words.len();
    words.dedup();
    if words.len() < before {
        history.violation(format!("{} was answered twice: {words:?}", said.text));
    }
    // In a room that the account keeps nobody hears what is said, changed or deleted as the bot leaves or after.
    let about = |event: &&Event| {
        let of = [event.relates("m.replace"), event.redacts.as_deref()];
        event.id == said.event || of.contains(&Some(said.event.as_str()))
    };
    let newest = events.iter().rev().find(about);
    if is_kept(case, room, account)
        && !has_bot(room)
        && newest.is_some_and(|event| case.people.heard(&event.id).is_none())
    {
        return;
    }
    if newest.is_some_and(|event| case.lost.is_some_and(|lost| event.came < lost)) {
        return;
    }
    let closed = case.people.words().iter().any(|asked| {
        let same = |room: &String| *room == said.portal.room.as_str();
        asked.at >= said.at
            && matches!(asked.word, Word::Logout | Word::Part | Word::LeftPortal)
            && case.people.accounts[asked.account].person.id() == account
            && asked.room.as_ref().is_none_or(same)
    });
    let of_room = case.people.rooms.iter().find(|room| room.id == said.portal.room.as_str());
    // With a portal that ended all is forgotten that was said in it, as if its account were not in its room any more.
    let forgotten = closed && is_kept(case, room, account);
    if said.deleted {
        let shown_still = count > 0 && active && inside && !forgotten;
        if shown_still && !told(&events, &said.event) && !elsewhere.told(said, of_room) {
            history.violation(format!("{} was deleted, and is on Gitter", said.text));
        }
        return;
    }
    // Of what a homeserver lost sight of nothing is left to be read in a room that both have left.
    let unheard = case.flaws && !inside && case.people.heard(&said.event).is_none();
    // What waits for a login may wait for ever; with a logout it ends.
    let logged_out =
        rows.sessions.get(account).is_some_and(|(session, _)| *session == Session::LoggedOut);
    if count > 0
        || forgotten
        || unheard
        || !active && !logged_out
        || case.restored() && !(active && inside)
    {
        return;
    }
    // Nobody looks into a room that was replaced for what a bridge whose rows are lost has not heard.
    if case.restored() && case.people.upgraded.iter().any(|(_, key)| *key == said.portal) {
        return;
    }
    let edits_told = events
        .iter()
        .filter(|e| e.relates("m.replace") == Some(said.event.as_str()))
        .any(|edit| told(&events, &edit.id));
    if told(&events, &said.event) || edits_told || elsewhere.told(said, of_room) {
        return;
    }
    let old = case.last.is_none_or(|last| said.at < last);
    let when = match (old, closed) {
        (false, _) => " although nothing was wrong",
        (true, true) => ", and it left or logged out later",
        (true, false) => "",
    };
    history.violation(format!(
        "{} ({}) is not on Gitter, and nobody was told{when}",
        said.text,
        said.edits.last().unwrap_or(&said.text)
    ));
}

/// What was shown in the room before this one went with it, if that was deleted: since when the bot is in this one, then.
fn moved_in(case: &Case<'_>, events: &[Event]) -> u64 {
    let create = events.iter().find(|event| event.kind == "m.room.create");
    let old = create.and_then(|event| event.content["predecessor"]["room_id"].as_str());
    if old.is_none_or(|old| !case.people.purged.contains(old)) {
        return 0;
    }
    let is_bot = |e: &&Event| e.state_key.as_deref() == Some(bot().as_str());
    let came = events.iter().filter(is_bot).rfind(|e| e.membership() == "join");
    came.map_or(0, |event| event.came)
}

/// Everything on Gitter is in each portal that was open then, once, in order.
fn to_matrix(case: &Case<'_>, rows: &Rows, rooms: &[RoomView]) {
    let history = case.history;
    for room in rooms {
        let Some(key) = portal_of(room) else { continue };
        let timeline = case.home.timeline(&room.id);
        let counts =
            counted(timeline.iter().filter(|m| m.sender != bot()).map(homeserver_sim::Shown::text));
        let by_bot =
            counted(timeline.iter().filter(|m| m.sender == bot()).map(homeserver_sim::Shown::text));
        let messages = case.gitter.messages(key.room.as_str());
        // What was said in the room that this one replaces is said. One message may have been on its way there, its answer lost.
        let before = rooms.iter().find(|before| before.replaced_by.as_ref() == Some(&room.id));
        let before = before.map(|before| case.home.timeline(&before.id)).unwrap_or_default();
        let before =
            counted(before.iter().filter(|m| m.sender != bot()).map(homeserver_sim::Shown::text));
        for (text, count) in &counts {
            if *count > 1 {
                history.violation(format!("{text} is in {} ({key}) {count} times", room.id));
            }
        }
        let again: Vec<_> = counts.keys().filter(|text| before.contains_key(*text)).collect();
        if again.len() > 1 && !case.restored() {
            history.violation(format!("{again:?} are in {} ({key}) and the one before", room.id));
        }
        let row = rows.portals.iter().find(|(k, _)| *k == key).map(|(_, portal)| portal);
        let here = row.and_then(|p| p.place.room()).is_some_and(|place| place.as_str() == room.id);
        let open = row.is_some_and(|portal| portal.open.desired && portal.condition.is_none());
        let active = rows.sessions.get(key.account.as_str()).is_some_and(|(s, _)| s.is_active());
        if !(here && open && active) {
            continue;
        }
        let events = case.home.events(&room.id);
        let joined = events.iter().rev().find(|event| {
            event.state_key.as_deref() == Some(key.account.as_str()) && event.membership() == "join"
        });
        let Some(joined) = joined else { continue };
        let since = joined.came.max(moved_in(case, &events));
        let order = |last: &mut Option<usize>, word: &str| {
            let at = timeline.iter().position(|m| {
                m.sender != key.account.as_str()
                    && m.sender != bot()
                    && words_in(m.text()).any(|w| w == word)
            });
            if at.is_some() && at < *last {
                history.violation(format!("{word} is out of order in {} ({key})", room.id));
            }
            *last = at.or(*last);
        };
        let mut last = None;
        let members = case.gitter.members(key.room.as_str());
        let followed = messages.len().saturating_sub(FOLLOWED);
        for (n, message) in messages.iter().enumerate() {
            let sent = crate::judge::ms_of(&message.sent);
            for word in words_in(&message.text) {
                let own = |said: &&Said| {
                    let mut words = said.edits.iter().chain([&said.text]).chain(&said.end);
                    said.portal == key && words.any(|mine| mine == word)
                };
                if sent <= since {
                    // Not all of it has to be here; but what is, in order. Of what was said in a room that was replaced a bridge whose
                    // rows are lost knows nothing.
                    let anywhere = case.restored()
                        && case.people.said.iter().find(own).is_some_and(|s| s.room != room.id);
                    let known = !message.edited && !before.contains_key(word) && !anywhere;
                    if known && counts.contains_key(word) {
                        order(&mut last, word);
                    }
                    continue;
                }
                // The account's own words stay as they are here: changed later than Gitter allows, deleted, or said in a
                // room that was replaced since.
                if case.people.said.iter().find(own).is_some_and(|said| {
                    said.room != room.id || said.deleted || !said.edits.is_empty()
                }) {
                    continue;
                }
                // The ghost of who has left can change nothing: the first version stays.
                let gone = !members.contains(&message.from);
                if message.edited && (n < followed || gone) {
                    continue;
                }
                // That a message in the room before was changed is told here by the bot.
                if before.contains_key(word) || message.edited && by_bot.contains_key(word) {
                    continue;
                }
                // Of several edits clients show the newest by the homeserver's clock, which may have been put back.
                let edits = || events.iter().filter(|e| e.relates("m.replace").is_some());
                let is_edit = |e: &Event| e.content["m.new_content"]["body"] == word;
                if message.edited && edits().any(is_edit) {
                    continue;
                }
                if !counts.contains_key(word) {
                    let fresh = case.last.is_some_and(|last| sent >= last);
                    let when = if fresh { " although nothing was wrong" } else { "" };
                    let id = &room.id;
                    history.violation(format!("{word} of Gitter is not in {id} ({key}){when}"));
                    continue;
                }
                if message.edited {
                    continue;
                }
                order(&mut last, word);
            }
        }
        deleted_is_gone(case, &key, &counts, joined.came);
    }
}

/// Who is invited into a new portal finds there what was said before, unless that took too long.
fn history_first(case: &Case<'_>, rooms: &[RoomView]) {
    // By a clock that jumps nobody waits as long as they should.
    if case.restored() || case.history.faults().contains_key("clock jump") {
        return;
    }
    for room in rooms.iter().filter(|room| room.creator == bot()) {
        let Some(key) = portal_of(room) else { continue };
        let events = case.home.events(&room.id);
        let create = events.iter().find(|event| event.kind == "m.room.create");
        let Some(create) = create.filter(|create| create.content["predecessor"].is_null()) else {
            continue;
        };
        let is_invite = |event: &&Event| {
            event.state_key.as_deref() == Some(key.account.as_str())
                && event.membership() == "invite"
        };
        let Some(invite) = events.iter().find(is_invite) else { continue };
        // Without a login nothing is read, and so nothing is waited for.
        if was_revoked(case, &key) || invite.came >= create.came + HISTORY {
            continue;
        }
        let messages = case.gitter.messages(key.room.as_str());
        for message in messages.iter().filter(|m| ms_of(&m.sent) + 1_000 < create.came) {
            let is_this = |event: &&Event| {
                event.came > invite.came
                    && event.sender.starts_with("@gitter_")
                    && event.relates("m.replace").is_none()
                    && words_in(&message.text).any(|word| event.text("body").contains(word))
            };
            if let Some(shown) = events.iter().find(is_this) {
                case.history.violation(format!(
                    "{key}: its account was invited before {} was there, which is older than its room",
                    shown.text("body")
                ));
            }
        }
    }
}

/// What was deleted on Gitter is in no portal whose account came into it before.
fn deleted_is_gone(
    case: &Case<'_>,
    key: &PortalKey,
    counts: &BTreeMap<String, usize>,
    joined: u64,
) {
    let deleted = case.people.posted.iter().filter(|p| p.deleted && p.room == key.room.as_str());
    for posted in deleted {
        // One with answers is kept, blank.
        if counts.contains_key(&posted.text) && posted.at > joined {
            case.history.violation(format!("{} was deleted on Gitter, and is here", posted.text));
        }
    }
}

/// ISO 8601 to milliseconds since 1970.
pub(crate) fn ms_of(iso: &str) -> u64 {
    let time: Option<jiff::Timestamp> = iso.parse().ok();
    time.and_then(|time| u64::try_from(time.as_millisecond()).ok()).unwrap_or(0)
}
