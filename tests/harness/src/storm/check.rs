//! Both sides compared, message by message and room by room.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, interval};

use super::{Life, MOVING, Report, STEADY, Said};
use crate::{BotEyes, patience, titled};

/// So long before it is killed the homeserver may have kept a message back: longer than one of its calls to the bridge takes, behind
/// which the next one waits in its memory.
const KEPT_BACK: Duration = Duration::from_secs(60);

/// How two lists of the same messages differ.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    lost: usize,
    doubled: usize,
    disordered: usize,
}

impl Difference {
    /// `there` ought to be `wanted`, in which nothing is twice; of what `may_miss` names any part may be missing.
    fn between(there: &[&str], wanted: &[&str], may_miss: impl Fn(&str) -> bool) -> Self {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut once = Vec::new();
        for text in there {
            let count = counts.entry(text).or_default();
            *count += 1;
            if *count == 1 {
                once.push(*text);
            }
        }
        let lost = wanted.iter().filter(|text| !counts.contains_key(*text) && !may_miss(text));
        let in_order = wanted.iter().copied().filter(|text| counts.contains_key(text));
        let disordered = usize::from(!in_order.eq(once.iter().copied()));
        Self { lost: lost.count(), doubled: there.len() - once.len(), disordered }
    }
}

/// Whether what is `there` is in the order of `said`, but for `late`.
fn in_order_without(there: &[&str], said: &[&str], late: &[&str]) -> bool {
    let on_time = |text: &&&str| !late.contains(*text);
    let said = said.iter().filter(on_time).filter(|text| there.contains(*text));
    said.eq(there.iter().filter(on_time))
}

impl Report {
    /// As before a comparison; returns what the last one found.
    fn clear(&mut self) -> Vec<String> {
        (self.lost, self.doubled, self.disordered, self.rooms_doubled) = (0, 0, 0, 0);
        self.kept_back = 0;
        std::mem::take(&mut self.complaints)
    }

    fn differ(&mut self, what: &str, there: &[&str], wanted: &[&str], difference: &Difference) {
        let Difference { lost, doubled, disordered } = difference;
        if (*lost, *doubled, *disordered) == (0, 0, 0) {
            return;
        }
        self.lost += lost;
        self.doubled += doubled;
        self.disordered += disordered;
        self.complaints.push(format!(
            "{what}: {lost} lost, {doubled} doubled, {disordered} out of order:\n{there:?}\ninstead of\n{wanted:?}"
        ));
    }
}

impl Life<'_> {
    /// Compares both sides until they agree, or patience is over; what they then differ in is in the report. Returns what they
    /// differed in when they were compared before that.
    pub(super) async fn agree(&self, eyes: &BotEyes, report: &mut Report) -> Result<Vec<String>> {
        report.written = (
            self.said.values().map(Vec::len).sum(),
            STEADY.iter().chain(&MOVING).map(|room| self.gitter.messages(room).len()).sum(),
        );
        report.written.1 = report.written.1.saturating_sub(report.written.0);
        let deadline = Instant::now() + patience();
        let mut pace = interval(std::time::Duration::from_millis(200));
        loop {
            pace.tick().await;
            let differed = report.clear();
            for room in STEADY.into_iter().chain(MOVING) {
                let texts: Vec<_> =
                    self.gitter.messages(room).into_iter().map(|m| m.text).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                for who in 0..self.people.len() {
                    self.compare_outward(who, room, &texts, report);
                    self.compare_inward(who, room, &texts, report).await?;
                }
            }
            self.compare_rooms(eyes, report).await?;
            if report.is_clean() || Instant::now() > deadline {
                return Ok(differed);
            }
        }
    }

    /// All that was said on Matrix is on Gitter, once, in order. Of what was unsent when somebody logged out, and of a room that
    /// closes while somebody writes, they are told in the chat with the bot.
    fn compare_outward(&self, who: usize, room: &'static str, texts: &[&str], report: &mut Report) {
        let Some(whole) = self.said.get(&(who, room)) else { return };
        let kept_back = |said: &Said| {
            report.homeserver_killed.iter().any(|at| *at >= said.at && *at - said.at <= KEPT_BACK)
        };
        let late: Vec<&str> =
            whole.iter().filter(|said| kept_back(said)).map(|said| said.text.as_str()).collect();
        let said: Vec<&str> = whole.iter().map(|said| said.text.as_str()).collect();
        let there: Vec<&str> = texts.iter().copied().filter(|text| said.contains(text)).collect();
        // A room in which somebody stays all the time takes everything.
        let takes_all = who < 2 && STEADY.contains(&room);
        let told = |text: &str| {
            let event = whole.iter().find(|said| said.text == text).map(|said| said.event.as_str());
            let about = |notice: &crate::Event| {
                let last_word = !notice.body().contains("is not on Gitter yet");
                notice.body().contains(text)
                    || last_word && event.is_some() && notice.replies_to() == event
            };
            let told = |room: &crate::Room| room.notices().any(about);
            !takes_all && self.people[who].look(|v| v.rooms.values().any(told))
        };
        let mut difference = Difference::between(&there, &said, told);
        if !takes_all {
            difference.lost = difference.lost.saturating_sub(self.told_of(who, room));
        }
        if (difference.lost, difference.doubled) == (0, 0) && in_order_without(&there, &said, &late)
        {
            report.kept_back += std::mem::take(&mut difference.disordered);
        }
        let what = format!("what {} said in {room}, on Gitter", self.names[who]);
        report.differ(&what, &there, &said, &difference);
    }

    /// Of how many messages in a room somebody was told in the chat with the bot that they may not be on Gitter, the room being
    /// closed: by their number, as all that waited, or one by one, not saying which.
    fn told_of(&self, who: usize, room: &str) -> usize {
        let all = format!(" of yours in {room} may not have reached Gitter");
        let one = ["is not on Gitter:", "may be on Gitter or not"];
        let one = one.map(|words| format!("In {room}: This message {words}"));
        let count = |body: &str| match body.split_once(&all) {
            Some((before, _)) => {
                before.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(1)
            }
            None => usize::from(one.iter().any(|words| body.starts_with(words))),
        };
        self.people[who].look(|view| {
            let notices = view.rooms.values().flat_map(crate::Room::notices);
            notices.map(|notice| count(notice.body())).sum()
        })
    }

    /// All that was said on Gitter is in the portal, once, in order; of a room that one was not in all the time, no message
    /// twice and none out of order.
    async fn compare_inward(
        &self,
        who: usize,
        room: &'static str,
        texts: &[&str],
        report: &mut Report,
    ) -> Result<()> {
        let (person, title) = (&self.people[who], titled(room));
        let own = self.said.get(&(who, room)).cloned().unwrap_or_default();
        let is_own = |text: &str| own.iter().any(|own| own.text == text);
        let wanted: Vec<&str> = texts.iter().copied().filter(|text| !is_own(text)).collect();
        let rooms = person.look(|view| {
            let named = view.rooms.values().filter(|room| room.name() == Some(title.as_str()));
            named.filter(|r| !r.timeline.is_empty()).map(|r| r.id.clone()).collect::<Vec<_>>()
        });
        for at in rooms {
            let history = person.history(&at).await?;
            let (here, others): (Vec<_>, Vec<_>) = history
                .iter()
                .filter(|event| event.is_message() && event.sender != self.bot)
                .partition(|event| event.sender == person.id);
            // What one wrote in an earlier portal of the room may be seen in this one, as said elsewhere.
            let elsewhere =
                |text: &str| is_own(text) && !here.iter().any(|event| event.body() == text);
            let there: Vec<&str> = others
                .into_iter()
                .map(crate::Event::body)
                .filter(|text| !elsewhere(text))
                .collect();
            let all = who < 2 && self.steady.contains_key(&(who, room));
            let difference = Difference::between(&there, &wanted, |_| !all);
            let what = format!("what was said in {room}, in {}'s portal {at}", self.names[who]);
            report.differ(&what, &there, &wanted, &difference);
        }
        Ok(())
    }

    /// One room for each open portal, none for any other, and nobody was asked back who had left.
    async fn compare_rooms(&self, eyes: &BotEyes, report: &mut Report) -> Result<()> {
        let mut wanted: BTreeSet<String> = self.chats.iter().cloned().collect();
        let open = self.pairs.iter().filter(|pair| pair.portal).map(|pair| (pair.who, pair.room));
        for (who, room) in open.chain(self.steady.keys().copied()) {
            match self.portal(who, room) {
                Some(at) => drop(wanted.insert(at)),
                None => {
                    report.complaints.push(format!("{} has no {room}", self.names[who]));
                }
            }
        }
        let rooms = eyes.rooms().await?;
        let there: BTreeSet<String> = rooms.keys().cloned().collect();
        if there != wanted {
            report.rooms_doubled += there.difference(&wanted).count();
            report.complaints.push(format!("the bot is in {rooms:?}, and should be in {wanted:?}"));
        }
        for ((who, room), at) in &self.steady {
            if *who != 2 && self.portal(*who, room).as_ref() != Some(at) {
                report.complaints.push(format!("{at} of {room} was replaced"));
            }
        }
        for pair in &self.pairs {
            let title = titled(pair.room);
            let asked = self.people[pair.who].look(|view| {
                view.rooms.values().filter(|room| room.name() == Some(title.as_str())).count()
            });
            if asked > pair.opened {
                report.rooms_doubled += asked - pair.opened;
                report.complaints.push(format!(
                    "{} was invited to {asked} portals of {}, having asked for {}",
                    self.names[pair.who], pair.room, pair.opened
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_doubled_or_out_of_order_is_counted() {
        let between = |there: &[&str], wanted: &[&str]| {
            let Difference { lost, doubled, disordered } =
                Difference::between(there, wanted, |text| text == "told");
            (lost, doubled, disordered)
        };
        assert_eq!(between(&["a", "b"], &["a", "told", "b"]), (0, 0, 0));
        assert_eq!(between(&["a"], &["a", "b"]), (1, 0, 0));
        assert_eq!(between(&["a", "a", "b"], &["a", "b"]), (0, 1, 0));
        assert_eq!(between(&["b", "a"], &["a", "b"]), (0, 0, 1));
        assert_eq!(between(&["a", "b", "a"], &["a", "b", "c"]), (1, 1, 0));
        assert_eq!(between(&["x"], &[]), (0, 0, 1), "what nobody said");
    }

    #[test]
    fn only_what_was_said_shortly_before_the_homeserver_was_killed_may_be_late() {
        assert!(in_order_without(&["b", "c", "a"], &["a", "b", "c"], &["a"]));
        assert!(
            in_order_without(&["b", "c"], &["a", "b", "c"], &[]),
            "one of which they were told"
        );
        assert!(!in_order_without(&["b", "a", "c"], &["a", "b", "c"], &[]));
        assert!(!in_order_without(&["c", "b", "a"], &["a", "b", "c"], &["a"]));
    }
}
