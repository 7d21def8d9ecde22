//! What people do while it storms.

use std::time::Duration;

use anyhow::{Context as _, Result};
use gitter_sim::{Fault, Matcher};
use rand::Rng as _;
use tokio::time::Instant;

use super::{Life, Login, MOVING, Pair, STEADY, Said};
use crate::{Browser, Consent, titled};

/// Within so much time the bridge has learned what became of a call to Gitter, however that was hurt: it waits for it for 30 s.
const HEARD: Duration = Duration::from_secs(31);

impl Life<'_> {
    /// Does one thing. While the homeserver is away people can't do anything there.
    pub(super) async fn act(&mut self) -> Result<()> {
        let _busy = self.gate.busy.lock().await;
        if self.gate.away.get() {
            self.speak_on_gitter();
            return Ok(());
        }
        self.accept_invites().await?;
        match self.rng.random_range(0..100) {
            0..30 => self.speak_on_matrix().await,
            30..70 => {
                self.speak_on_gitter();
                Ok(())
            }
            70..88 if self.gate.full.get() => Ok(()),
            70..88 => self.move_about().await,
            88..96 => self.log_in_or_out().await,
            _ => {
                self.something_fails();
                Ok(())
            }
        }
    }

    fn next(&mut self, from: &str) -> String {
        self.count += 1;
        format!("{} by {from}", self.count)
    }

    pub(super) async fn speak_on_matrix(&mut self) -> Result<()> {
        let who = self.rng.random_range(0..3);
        let room = self.rng.random_range(0..4);
        let room = *STEADY.iter().chain(&MOVING).nth(room).context("four rooms")?;
        let at = match self.steady.get(&(who, room)) {
            Some(at) if who < 2 => Some(at.clone()),
            Some(_) if self.login != Login::In => None,
            Some(_) => self.portal(who, room),
            None if self
                .pairs
                .iter()
                .any(|p| p.who == who && p.room == room && self.is_settled(p)) =>
            {
                self.portal(who, room)
            }
            None => None,
        };
        let Some(at) = at else { return Ok(()) };
        let text = self.next(&format!("{} on Matrix", self.names[who]));
        let event = self.people[who].send_text(&at, &text).await?;
        self.has_said(who, room, text, event);
        Ok(())
    }

    pub(super) fn has_said(&mut self, who: usize, room: &'static str, text: String, event: String) {
        let said = Said { text, event, at: Instant::now() };
        self.said.entry((who, room)).or_default().push(said);
    }

    pub(super) fn speak_on_gitter(&mut self) {
        let room = self.rng.random_range(0..4);
        let room = STEADY.iter().chain(&MOVING).nth(room).expect("four rooms");
        let members = self.gitter.members(room);
        let who = members[self.rng.random_range(0..members.len())].clone();
        let text = self.next(&format!("{who} on Gitter"));
        self.gitter.post(&who, room, &text);
    }

    /// Somebody comes or goes, in one of the ways that there are, when the last such wish has come true.
    async fn move_about(&mut self) -> Result<()> {
        let index = self.rng.random_range(0..self.pairs.len());
        // The bridge has to hear of it, too: it carries out what it does not know to be done, and what is taken back looks like that.
        let settled = self.is_settled(&self.pairs[index]);
        let pair = &mut self.pairs[index];
        let since = pair.settled.get_or_insert_with(Instant::now).elapsed();
        if !settled || since < HEARD {
            pair.settled = pair.settled.filter(|_| settled);
            return Ok(());
        }
        let pair = &self.pairs[index];
        let (who, room, name) = (pair.who, pair.room, self.names[pair.who]);
        let (person, chat) = (&self.people[who], &self.chats[who]);
        if !pair.member {
            self.gitter.unban(room, name);
        }
        let (portal, member) = match (pair.portal, pair.member, self.rng.random_range(0..3)) {
            (true, _, 0) | (false, true, 0) => {
                person.send_text(chat, &format!("gpart {room}")).await?;
                (false, false)
            }
            (true, _, 1) => {
                let at = self.portal(who, room).context("a portal to leave")?;
                person.transcript().line("Matrix", name, &format!("leaves {room}"));
                person.leave(&at).await?;
                (false, true)
            }
            (true, ..) if self.rng.random() => {
                person.transcript().line("Gitter", name, &format!("is banned from {room}"));
                self.gitter.ban(room, name);
                (false, false)
            }
            (true, ..) => {
                person.transcript().line("Gitter", name, &format!("leaves {room}"));
                self.gitter.leave(room, name);
                (false, false)
            }
            (false, false, 0) => {
                person.transcript().line("Gitter", name, &format!("joins {room}"));
                self.gitter.join(room, name);
                (true, true)
            }
            (false, false, 1) => {
                person.send_text(chat, &format!("gjoin {room}")).await?;
                (true, true)
            }
            (false, ..) => {
                person.send_text(chat, &format!("invite {room}")).await?;
                (true, true)
            }
        };
        let pair = &mut self.pairs[index];
        pair.opened += usize::from(portal);
        (pair.portal, pair.member, pair.settled) = (portal, member, None);
        Ok(())
    }

    /// The third person logs out, or takes the bridge's token away, and logs in again, one step at a time.
    pub(super) async fn log_in_or_out(&mut self) -> Result<()> {
        let (carol, chat) = (&self.people[2], &self.chats[2]);
        let out = |room: &str| {
            let title = titled(room);
            carol.look(|v| v.joined_named(&title).is_none() && v.invited_to(&title).is_none())
        };
        self.login = match &self.login {
            Login::In if self.rng.random() => {
                carol.send_text(chat, "logout").await?;
                Login::Leaving
            }
            Login::In => {
                carol.transcript().line("Gitter", "carol", "revokes her tokens");
                self.gitter.revoke_tokens_of("carol");
                Login::Asked(carol.send_text(chat, "login").await?)
            }
            Login::Leaving if STEADY.iter().all(|room| out(room)) => {
                Login::Asked(carol.send_text(chat, "login").await?)
            }
            Login::Asked(event) => {
                let link = carol.look(|view| {
                    let room = &view.rooms[chat];
                    let asked = room.timeline.iter().position(|known| known.id == *event)?;
                    let mut later = room.timeline[asked..].iter();
                    later
                        .find(|known| known.sender == self.bot && known.body().contains("http"))?;
                    room.last_link(&carol.id)
                });
                let Some(link) = link else { return Ok(()) };
                // The bridge may be dead by now, or die meanwhile: then another link is asked for.
                match Browser::new()?.log_in(&link, "carol", Consent::Approve).await {
                    Ok(page) if page.status == 200 => Login::Coming,
                    _ => Login::Asked(carol.send_text(chat, "login").await?),
                }
            }
            Login::Coming if STEADY.iter().all(|room| self.portal(2, room).is_some()) => Login::In,
            other => other.clone(),
        };
        Ok(())
    }

    fn something_fails(&mut self) {
        self.faults += 1;
        let send = Matcher::new("POST", "chatMessages");
        let (which, how) = match self.rng.random_range(0..6) {
            0 | 1 => (send, Fault::DropAfterEffect),
            2 => (send, Fault::SlowMs(self.rng.random_range(200..1_500))),
            3 => (send, Fault::Drop),
            4 => (send, Fault::Status(503)),
            _ => (Matcher::new("GET", "rooms"), Fault::Html502),
        };
        self.gitter.fail_next(1, which, how);
    }

    pub(super) async fn accept_invites(&self) -> Result<()> {
        for (who, person) in self.people.iter().enumerate() {
            if who == 2 && matches!(self.login, Login::Leaving | Login::Asked(_)) {
                continue;
            }
            let invites = person.look(|view| {
                let wanted = |name: &str| {
                    let moving = self.pairs.iter().find(|p| p.who == who && titled(p.room) == name);
                    moving.is_none_or(|pair| pair.portal)
                };
                let invited = view.invited().filter(|room| room.name().is_some_and(wanted));
                invited.map(|room| room.id.clone()).collect::<Vec<_>>()
            });
            for room in invites {
                // An invite may be taken back in this moment.
                if let Err(error) = person.join(&room).await {
                    person.transcript().line("Matrix", person.name(), &format!("{error:#}"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn portal(&self, who: usize, room: &str) -> Option<String> {
        let title = titled(room);
        self.people[who].look(|view| view.joined_named(&title).map(|room| room.id.clone()))
    }

    pub(super) fn is_settled(&self, pair: &Pair) -> bool {
        let title = titled(pair.room);
        let (joined, invited) = self.people[pair.who]
            .look(|view| (view.joined_named(&title).is_some(), view.invited_to(&title).is_some()));
        let member = self.gitter.members(pair.room).iter().any(|m| m == self.names[pair.who]);
        joined == pair.portal && !invited && member == pair.member
    }
}
