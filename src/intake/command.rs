//! A command in the control room: its desired state is written, and its answer, in one write.

use reconcile::{
    driver::{Key, ask_open, ask_part},
    model::{
        Account, Condition, GitterRoom, GitterRoomId, Millis, NamedAsk, NamedKind, Portal,
        PortalKey, Reason, Session, Target,
    },
    queue::Class,
};
use ruma::{OwnedUserId, UserId};
use serde_json::Value;
use store::{StoreError, WriteTxn};

use super::{Hints, Rules, say, time_of};
use crate::{
    appservice::Incoming,
    bot::{
        answer::{self, Answer, CouldNot, Pending, Status, Why},
        parse::{Command, KnownRoom, Match, RoomName, Verb},
    },
    metrics::CommandKind,
};

/// A command being carried out.
struct Desk<'a, 't> {
    rules: &'a Rules,
    t: &'a mut WriteTxn<'t>,
    user: &'a UserId,
    account: Account,
    /// When the command was given.
    at: Millis,
    now: Millis,
    hints: &'a mut Hints,
}

impl Rules {
    pub(super) fn command(
        &self,
        t: &mut WriteTxn<'_>,
        user: &OwnedUserId,
        account: Account,
        event: &Incoming,
        now: Millis,
        hints: &mut Hints,
    ) -> Result<(), StoreError> {
        let text = |name: &str| event.content.get(name).and_then(Value::as_str).unwrap_or_default();
        // Notices are other bots'; an edit of a command is no second command.
        if !matches!(text("msgtype"), "m.text" | "m.emote")
            || event.content.pointer("/m.relates_to/rel_type").is_some_and(|r| r == "m.replace")
        {
            return Ok(());
        }
        let at = time_of(event, now);
        let command = self.parser.parse(text("body"));
        hints.commands.push(kind(command.as_ref().ok()));
        let mut desk = Desk { rules: self, t, user, account, at, now, hints };
        let answer = match command {
            Ok(command) => desk.carry_out(command)?,
            Err(why) => Some(answer::misunderstood(&why)),
        };
        let Desk { t, hints, .. } = desk;
        match answer {
            Some(answer) => say(t, Target::Account(user.clone()), answer, now, hints),
            None => Ok(()),
        }
    }
}

impl Desk<'_, '_> {
    /// The answer, unless a look at Gitter has to give it.
    fn carry_out(&mut self, command: Command) -> Result<Option<Answer>, StoreError> {
        let verb = match &command {
            Command::Help(None) => return Ok(Some(answer::help())),
            Command::Help(Some(verb)) => return Ok(Some(answer::help_for(*verb))),
            Command::Login => return Ok(Some(self.login())),
            Command::Status => return self.status().map(Some),
            Command::List => Verb::List,
            Command::Join(_) => Verb::Join,
            Command::Part(_) => Verb::Part,
            Command::Invite(_) => Verb::Invite,
            Command::Why(_) => Verb::Why,
            Command::Logout => Verb::Logout,
        };
        if matches!(self.account.session, Session::LoggedOut)
            || (matches!(self.account.session, Session::Rejected(_))
                && !matches!(verb, Verb::Logout | Verb::Why))
        {
            return Ok(Some(answer::not_logged_in(verb, &self.link())));
        }
        match command {
            Command::List => self.ask(Verb::List, "", NamedKind::List),
            Command::Join(room) => self.open(Verb::Join, &room),
            Command::Invite(room) => self.open(Verb::Invite, &room),
            Command::Part(room) => self.part(&room),
            Command::Why(room) => self.why(&room).map(Some),
            Command::Logout => self.logout().map(Some),
            Command::Help(_) | Command::Login | Command::Status => Ok(None),
        }
    }

    fn link(&self) -> url::Url {
        self.rules.voice.link(self.user, self.now)
    }

    fn login(&self) -> Answer {
        let username = match &self.account.session {
            Session::Active(person) => Some(person.username.as_str()),
            Session::LoggedOut | Session::Rejected(_) => None,
        };
        answer::login_link(&self.link(), username)
    }

    /// Leaves something for the account's next look at Gitter.
    fn ask(
        &mut self,
        verb: Verb,
        name: &str,
        kind: NamedKind,
    ) -> Result<Option<Answer>, StoreError> {
        self.hints.key(Key::Account(self.user.to_owned()), Class::Waiting);
        if self.account.asks.iter().any(|ask| ask.kind == kind) {
            return Ok(None);
        }
        if self.account.asks.len() >= Account::MAX_ASKS {
            return Ok(Some(answer::could_not(verb, name, &CouldNot::Busy)));
        }
        self.account.asks.push(NamedAsk { kind, at: self.at });
        self.t.put_account(self.user, &self.account)?;
        Ok(None)
    }

    /// The account's rooms, as far as they are known.
    fn known(&self) -> Result<Vec<(KnownRoom, Portal, GitterRoom)>, StoreError> {
        let mut known = Vec::new();
        for (id, portal) in self.t.portals_of(self.user)? {
            let key = PortalKey::new(self.user.to_owned(), id.clone());
            let Some(room) = self.t.room(&key)? else { continue };
            let path = room.uri.trim_start_matches('@');
            let entry = KnownRoom {
                id: id.to_string(),
                uri: (!room.one_to_one).then(|| room.uri.clone()),
                url: format!("/{path}"),
            };
            known.push((entry, portal, room));
        }
        Ok(known)
    }

    /// The one room a name means; otherwise what to say, or the uri to ask Gitter for.
    fn find(&self, verb: Verb, name: &RoomName) -> Result<Found, StoreError> {
        let known = self.known()?;
        let rooms: Vec<KnownRoom> = known.iter().map(|(room, ..)| room.clone()).collect();
        Ok(match name.resolve(&rooms) {
            Match::One(one) => {
                let found = known.into_iter().find(|(room, ..)| room.id == one.id);
                match found.and_then(|(room, portal, shown)| {
                    Some(Found::Known(room.id.parse().ok()?, Box::new(portal), shown))
                }) {
                    Some(found) => found,
                    None => Found::Unknown(None),
                }
            }
            Match::Several(several) => {
                Found::Answer(answer::which(verb, &name.to_string(), &several))
            }
            // As it was written: an answer about `@bob` has to say `@bob`.
            Match::None => Found::Unknown(name.uri().map(|_| name.to_string())),
        })
    }

    fn open(&mut self, verb: Verb, name: &RoomName) -> Result<Option<Answer>, StoreError> {
        match self.find(verb, name)? {
            Found::Answer(answer) => Ok(Some(answer)),
            Found::Known(id, mut portal, room) => {
                if !ask_open(&mut portal, self.at) {
                    let why = if portal.joined {
                        CouldNot::AlreadyThere
                    } else {
                        CouldNot::AlreadyInvited
                    };
                    return Ok(Some(answer::could_not(verb, &room.uri, &why)));
                }
                let key = PortalKey::new(self.user.to_owned(), id);
                self.t.put_portal(&key, &portal)?;
                self.hints.key(Key::Account(self.user.to_owned()), Class::Waiting);
                self.hints.key(Key::Portal(key), Class::Waiting);
                Ok(Some(answer::working(verb, &room.uri)))
            }
            Found::Unknown(Some(uri)) => {
                let kind = match verb {
                    Verb::Invite => NamedKind::Invite(uri),
                    _ => NamedKind::Join(uri),
                };
                let full = self.ask(verb, &name.to_string(), kind)?;
                Ok(full.or_else(|| Some(answer::working(verb, &name.to_string()))))
            }
            Found::Unknown(None) => {
                Ok(Some(answer::could_not(verb, &name.to_string(), &CouldNot::NoSuchRoom)))
            }
        }
    }

    fn part(&mut self, name: &RoomName) -> Result<Option<Answer>, StoreError> {
        let (id, mut portal, room) = match self.find(Verb::Part, name)? {
            Found::Answer(answer) => return Ok(Some(answer)),
            Found::Unknown(Some(uri)) => {
                // It may be called so since a moment ago, or be waiting to be joined.
                let full = self.ask(Verb::Part, &name.to_string(), NamedKind::Part(uri))?;
                let away = self.rules.bridge.sides.gitter.away().is_some();
                let later = away.then_some(CouldNot::GitterDown);
                let later = later.map(|why| answer::could_not(Verb::Part, &name.to_string(), &why));
                return Ok(full.or(later));
            }
            Found::Unknown(None) => {
                let why = CouldNot::NotThere;
                return Ok(Some(answer::could_not(Verb::Part, &name.to_string(), &why)));
            }
            Found::Known(id, portal, room) => (id, *portal, room),
        };
        if room.one_to_one {
            let why = "conversations of two can't be left there; leaving the room here closes it";
            let why = CouldNot::GitterRefused(why.to_owned());
            return Ok(Some(answer::could_not(Verb::Part, &room.uri, &why)));
        }
        ask_part(&mut portal, self.at);
        let key = PortalKey::new(self.user.to_owned(), id);
        self.t.put_portal(&key, &portal)?;
        self.hints.key(Key::Account(self.user.to_owned()), Class::Waiting);
        self.hints.key(Key::Portal(key), Class::Waiting);
        Ok(Some(answer::working(Verb::Part, &room.uri)))
    }

    fn logout(&mut self) -> Result<Answer, StoreError> {
        self.account.session = Session::LoggedOut;
        self.account.asks.clear();
        self.account.fresh_login = None;
        self.account.generation += 1;
        self.t.put_account(self.user, &self.account)?;
        self.t.wipe_token(self.user)?;
        self.hints.portals = true;
        let portals = self.t.portals_of(self.user)?;
        let told = if portals.is_empty() { answer::done } else { answer::working };
        for (id, mut portal) in portals {
            let at = self.at.max(portal.open.at);
            portal.open.ask(false, Reason::Logout, at);
            portal.ask = None;
            portal.condition = None;
            let key = PortalKey::new(self.user.to_owned(), id);
            self.t.put_portal(&key, &portal)?;
            self.hints.key(Key::Portal(key), Class::Waiting);
        }
        // Nobody can send any more what waits: its author is told before the portal goes and takes it along.
        for key in outboxes_of(self.t, self.user)? {
            self.hints.words |= drop_outbox(self.t, &key, self.now)?;
        }
        Ok(told(Verb::Logout, ""))
    }

    fn status(&self) -> Result<Answer, StoreError> {
        let portals = self.t.portals_of(self.user)?;
        let mut pending = Vec::new();
        for (id, portal) in &portals {
            let key = PortalKey::new(self.user.to_owned(), id.clone());
            let (what, waiting) = (unfinished(portal), self.t.outgoing_count(&key)?);
            if what.is_none() && waiting == 0 {
                continue;
            }
            let room = self.t.room(&key)?.map_or_else(|| id.to_string(), |room| room.uri);
            if waiting > 0 {
                let what = format!("send {} to Gitter", answer::messages(waiting));
                let active = matches!(self.account.session, Session::Active(_));
                let why = (!active).then(|| "you have to log in first".to_owned());
                let next = active.then(|| "as soon as Gitter takes them".to_owned());
                pending.push(Pending { room: room.clone(), what, why, next });
            }
            let Some(what) = what else { continue };
            let (why, next) = self.trouble(&key, portal.condition.as_ref());
            // Between two passes of the same work nothing is in the queue, and nothing is wrong either.
            let next = next.or_else(|| (why.is_none()).then(|| "now".to_owned()));
            pending.push(Pending { room, what: what.to_owned(), why, next });
        }
        for ask in &self.account.asks {
            if let NamedKind::Join(name) | NamedKind::Invite(name) | NamedKind::Part(name) =
                &ask.kind
            {
                let (why, next) = self.failure(&Key::Account(self.user.to_owned()));
                let what = "look it up on Gitter".to_owned();
                pending.push(Pending { room: name.clone(), what, why, next });
            }
        }
        let login = match &self.account.session {
            Session::Active(person) => answer::Login::As {
                username: person.username.clone(),
                name: person.display_name.clone(),
            },
            Session::Rejected(person) => {
                answer::Login::Rejected { username: person.username.clone(), link: self.link() }
            }
            Session::LoggedOut => answer::Login::Out { link: self.link() },
        };
        let held = self.rules.bridge.held();
        let held =
            held.into_iter().filter(|(scope, _)| scope == "portals" || scope == self.user.as_str());
        let polled = self.rules.live.is_polled(self.user).then(|| {
            "There is no live connection to Gitter right now: I look there by turns, so what is said there comes late"
                .to_owned()
        });
        let away = self.rules.bridge.sides.gitter.away().map(answer::gitter_away);
        let troubles = held.map(|(_, count)| {
            format!(
                "{count} rooms seem to be gone all at once; I keep them until I have seen it again"
            )
        });
        Ok(answer::status(&Status {
            login,
            gitter_rooms: portals.iter().filter(|(_, p)| p.member.last == Some(true)).count(),
            joined: portals.iter().filter(|(_, p)| p.joined).count(),
            invited: portals
                .iter()
                .filter(|(_, p)| p.open.desired && p.open.last == Some(true) && !p.joined)
                .count(),
            pending,
            troubles: troubles.chain(away).chain(polled).collect(),
        }))
    }

    fn why(&self, name: &RoomName) -> Result<Answer, StoreError> {
        let (id, portal, room) = match self.find(Verb::Why, name)? {
            Found::Answer(answer) => return Ok(answer),
            Found::Unknown(_) => {
                return Ok(answer::could_not(Verb::Why, &name.to_string(), &CouldNot::NotThere));
            }
            Found::Known(id, portal, room) => (id, *portal, room),
        };
        let key = PortalKey::new(self.user.to_owned(), id);
        let (last_error, next) = self.trouble(&key, portal.condition.as_ref());
        let member = |is: bool| if is { "a member" } else { "not a member" }.to_owned();
        let seen_here = match (&portal.open.last, portal.joined, portal.place.room()) {
            (_, true, _) => "you are in it",
            (Some(true), false, _) => "you are invited to it",
            (_, false, Some(_)) => "you are not in it",
            (_, false, None) => "there is none",
        };
        Ok(answer::why(&Why {
            room: room.uri,
            wanted_on_gitter: member(portal.member.desired),
            seen_on_gitter: portal.member.last.map_or_else(|| "nothing yet".to_owned(), member),
            wanted_here: wanted_here(&portal).to_owned(),
            seen_here: seen_here.to_owned(),
            last_error,
            next,
        }))
    }

    /// What stands in a portal's way.
    fn trouble(
        &self,
        key: &PortalKey,
        condition: Option<&Condition>,
    ) -> (Option<String>, Option<String>) {
        if let Some(condition) = condition {
            return (Some(condition.detail.clone()), None);
        }
        let portal = self.failure(&Key::Portal(key.clone()));
        if portal.0.is_some() { portal } else { self.failure(&Key::Account(self.user.to_owned())) }
    }

    fn failure(&self, key: &Key) -> (Option<String>, Option<String>) {
        match self.rules.bridge.trouble(key) {
            Some((failure, due)) => (Some(failure.error), due.map(in_words)),
            None => (None, self.rules.bridge.queue.due(key).map(in_words)),
        }
    }
}

/// The outboxes of an account in which something waits, those of portals that are gone already among them.
pub(super) fn outboxes_of(t: &WriteTxn<'_>, user: &UserId) -> Result<Vec<PortalKey>, StoreError> {
    let waiting = t.outbox_waiting()?.into_iter();
    Ok(waiting.filter(|key| key.account == user).collect())
}

/// What waits in a portal's outbox was written for a login that is gone: its author is told that it was not sent. Returns whether
/// there was anything.
pub(super) fn drop_outbox(
    t: &mut WriteTxn<'_>,
    key: &PortalKey,
    now: Millis,
) -> Result<bool, StoreError> {
    let waiting = t.withdraw_outbox(key)?;
    if waiting == 0 {
        return Ok(false);
    }
    let room = t.room(key)?.map_or_else(|| key.room.to_string(), |room| room.uri);
    let words = answer::unsent(&room, waiting);
    say(t, Target::Account(key.account.clone()), words, now, &mut Hints::default())?;
    Ok(true)
}

/// What a name given with a command turned out to be.
enum Found {
    Known(GitterRoomId, Box<Portal>, GitterRoom),
    Unknown(Option<String>),
    Answer(Answer),
}

fn unfinished(portal: &Portal) -> Option<&'static str> {
    match (portal.member.pending(), portal.open.pending()) {
        (true, _) if portal.member.desired => Some("join it on Gitter"),
        (true, _) => Some("leave it on Gitter"),
        (false, true) if portal.open.desired => Some("open its room here"),
        (false, true) => Some("close its room here"),
        (false, false) if !portal.open.desired && portal.place.room().is_some() => {
            Some("tidy up its room here")
        }
        (false, false) => None,
    }
}

fn wanted_here(portal: &Portal) -> &'static str {
    match (portal.open.desired, portal.open.reason) {
        (true, _) => "open",
        (false, Reason::LeftPortal) => "closed, because you left it",
        (false, Reason::TooMany) => "closed, because you have many rooms: `invite` opens it",
        (false, Reason::OnGitter) => "closed, because you are not in it on Gitter",
        (false, Reason::Logout) => "closed, because you logged out",
        (false, Reason::Refused) => "closed, because Gitter refused",
        (false, Reason::Asked | Reason::Login) => "closed",
    }
}

fn in_words(wait: std::time::Duration) -> String {
    match wait.as_secs() {
        0 => "now".to_owned(),
        1 => "in a second".to_owned(),
        seconds @ 2..=90 => format!("in {seconds} seconds"),
        seconds => format!("in {} minutes", seconds.div_ceil(60)),
    }
}

fn kind(command: Option<&Command>) -> CommandKind {
    match command {
        None => CommandKind::Unknown,
        Some(Command::List) => CommandKind::List,
        Some(Command::Join(_)) => CommandKind::Gjoin,
        Some(Command::Part(_)) => CommandKind::Gpart,
        Some(Command::Invite(_)) => CommandKind::Invite,
        Some(Command::Status) => CommandKind::Status,
        Some(Command::Why(_)) => CommandKind::Why,
        Some(Command::Login) => CommandKind::Login,
        Some(Command::Logout) => CommandKind::Logout,
        Some(Command::Help(_)) => CommandKind::Help,
    }
}
