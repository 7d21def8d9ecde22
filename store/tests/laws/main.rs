//! What the store promises, tried from outside.

mod backup;
mod commit;
mod crash;
mod damage;
mod file;
mod model;

use reconcile::model::{Account, Link, MessageId, Millis, Outgoing, Payload, PortalKey};
use ruma::{OwnedEventId, OwnedUserId};
use store::SealKey;

fn key() -> SealKey {
    SealKey::new([7; 32])
}

/// The ids from 10 on begin as the others do: what belongs to one must not be taken for the other's.
fn user(n: usize) -> OwnedUserId {
    let (rest, more) = (n % 10, if n < 10 { String::new() } else { (n / 10).to_string() });
    format!("@user{rest}:example.org{more}").parse().expect("a user id")
}

fn event(n: usize) -> OwnedEventId {
    format!("$event{n}:example.org").parse().expect("an event id")
}

fn message(n: usize) -> MessageId {
    format!("{n:024x}").parse().expect("a message id")
}

fn portal(account: usize, room: usize) -> PortalKey {
    PortalKey::new(user(account), format!("{room:024x}").parse().expect("a room id"))
}

fn account(generation: u64) -> Account {
    Account { generation, ..Account::default() }
}

fn outgoing(n: usize) -> Outgoing {
    let payload = Payload::say(vec![format!("part of {n}")], false, None);
    let (sent, attempt, told) = (Millis(n as u64), None, None);
    Outgoing { event: event(n), sent, payload, done: 0, attempt, told }
}

fn link(portal: PortalKey, at: usize, of: usize, part: u32) -> Link {
    let (message, event) = (message(at), event(of));
    Link {
        portal,
        message,
        event,
        part,
        from_matrix: true,
        version: 1,
        digest: 0,
        parent: None,
        sender: None,
        lead: String::new(),
        images: Vec::new(),
        gone: false,
    }
}
