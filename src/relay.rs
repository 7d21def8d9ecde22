//! Messages: what should exist on the other side is known from the store and the source, and it is sent until it is there.
//!
//! Each portal has a lane in each direction, each target of the bot's words has one; what is in a lane stays in order, and no
//! lane waits for another.
//!
//! # Guarantees
//!
//! - An event is in the outbox before the homeserver's transaction is answered, and leaves it in the write that links it.
//! - A call whose end is not known is looked for before it is repeated.
//! - While a side is away its lanes wait, and one probe tells when it is back; no account's lanes delay another's for longer
//!   than a few calls (`reconcile::breaker`, `reconcile::turns`).
//! - A lane that panics is tried again by itself, later and later (`lane::tests`).
//! - Sends to Matrix carry transaction ids made of what is sent, and a device, so that a repeat is no second message.

mod confirm;
pub mod echo;
pub mod fate;
pub mod lane;
pub mod live;
pub mod read;
pub mod to_gitter;
pub mod to_matrix;
pub mod words;

use std::{sync::Arc, time::Duration};

use reconcile::{
    breaker::{Side, Sides},
    driver::Driver,
    model::{MessageId, PortalKey},
    queue::Class,
    turns::Turns,
};
use sha2::{Digest as _, Sha256};

use crate::{
    clock::Clocks,
    db::Db,
    gitter::{Message, Speaker},
    matrix::Homeserver,
    metrics::Metrics,
    settings::Replies,
};

/// Messages on their way to the homeserver at a time, of all accounts.
const SPEAKING: usize = 16;
/// Ghosts being brought into portals for what they said, of all accounts: few, so that the reconciler's own changes have their
/// share of the rate.
const ARRIVING: usize = 8;

/// The reconciler over the real world.
pub type Bridge = Driver<Homeserver, Speaker, Db, Clocks>;

/// What every lane needs.
#[derive(Debug, Clone)]
pub struct Relay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bridge: Arc<Bridge>,
    db: Db,
    home: Homeserver,
    gitter: Speaker,
    metrics: Metrics,
    sides: Sides,
    speaking: Turns<String>,
    arriving: Turns<String>,
    voice: words::Voice,
    words: lane::Lanes<reconcile::model::Target>,
    outward: lane::Lanes<PortalKey>,
    inward: lane::Lanes<PortalKey>,
    inbox: to_matrix::Inbox,
    /// Looks after outboxes whose first event waits.
    late: lane::Lanes<PortalKey>,
    confirming: lane::Lanes<PortalKey>,
    unconfirmed: confirm::Unconfirmed,
    reading: lane::Lanes<PortalKey>,
    receipts: read::Receipts,
    choices: Choices,
}

/// What the admin has chosen for messages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choices {
    /// How many earlier messages a new portal begins with.
    pub history: usize,
    /// How many missed messages are caught up with at most; 0: all. At most 5000.
    pub catch_up: usize,
    /// Where replies go on Gitter.
    pub replies: Replies,
    /// Largest picture of a message that is shown as one, in bytes; `None` when pictures stay links.
    pub images: Option<usize>,
}

impl Relay {
    /// Puts the parts together; nothing runs before the first poke.
    #[must_use]
    pub fn new(
        bridge: Arc<Bridge>,
        metrics: Metrics,
        voice: words::Voice,
        choices: Choices,
    ) -> Self {
        let (db, home) = (bridge.state.clone(), bridge.matrix.clone());
        let (gitter, sides) = (bridge.gitter.clone(), bridge.sides.clone());
        let lanes = |name| lane::Lanes::new(name, metrics.clone());
        Self(Arc::new(Inner {
            bridge,
            db,
            home,
            gitter,
            sides,
            speaking: Turns::new(SPEAKING),
            arriving: Turns::new(ARRIVING),
            voice,
            words: lane::Lanes::new("words", metrics.clone()),
            outward: lanes("to gitter"),
            inward: lanes("to matrix"),
            inbox: to_matrix::Inbox::default(),
            late: lanes("late"),
            confirming: lanes("confirm"),
            unconfirmed: confirm::Unconfirmed::default(),
            reading: lanes("read receipts"),
            receipts: read::Receipts::default(),
            choices,
            metrics,
        }))
    }

    /// Starts the outboxes that an earlier run left; those of this run are poked by whoever fills them.
    ///
    /// # Errors
    ///
    /// When the rows can't be read.
    pub async fn poke_outboxes(&self) -> Result<(), store::StoreError> {
        for portal in self.0.db.look(store::Txn::outbox_waiting).await? {
            self.poke_outward(portal);
        }
        Ok(())
    }

    /// Starts the outboxes that wait until their portals have learned what they carried: in one that was closed, nobody learns it.
    ///
    /// # Errors
    ///
    /// When the rows can't be read.
    pub async fn poke_unlearned(&self) -> Result<(), store::StoreError> {
        for portal in self.0.db.look(store::Txn::relearn_keys).await? {
            self.poke_outward(portal);
        }
        Ok(())
    }

    /// Starts the lanes of all words that wait.
    ///
    /// # Errors
    ///
    /// When the rows can't be read.
    pub async fn poke_waiting(&self) -> Result<(), store::StoreError> {
        for target in self.0.db.look(store::Txn::notices_waiting).await? {
            self.poke_words(target);
        }
        Ok(())
    }

    /// Rung when there is something to say.
    #[must_use]
    pub fn bells(&self) -> Arc<reconcile::driver::Bells> {
        self.0.bridge.bells.clone()
    }

    /// Makes a call to the homeserver on behalf of `owner`, when the homeserver is there and it is the owner's turn.
    async fn speak<T>(&self, owner: &str, class: Class, call: impl Future<Output = T>) -> T {
        self.0.sides.homeserver.clear(class).await;
        let _turn = self.0.speaking.take(owner.to_owned(), class).await;
        call.await
    }

    /// Waits until a side is there.
    async fn there(&self, side: Side, class: Class) {
        self.0.sides.get(side).clear(class).await;
    }

    /// How many lanes are at work.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.0.words.busy() + self.0.outward.busy() + self.0.inward.busy()
    }

    /// How many outboxes are being worked on or wait to be tried again.
    #[must_use]
    pub fn outward(&self) -> usize {
        self.0.outward.busy()
    }

    /// Of how many portals it is not settled yet what became of their messages on Gitter.
    #[must_use]
    pub fn confirming(&self) -> usize {
        self.0.confirming.busy()
    }

    /// Ends all lanes where they are; their rows wait for the next start.
    pub fn stop(&self) {
        self.0.words.stop();
        self.0.outward.stop();
        self.0.inward.stop();
        self.0.late.stop();
        self.0.confirming.stop();
        self.0.reading.stop();
    }
}

/// What becomes of a lane after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Empty: it ends, until it is poked.
    Idle,
    /// Something is left that must wait for a poke.
    Blocked,
    /// Something is left that is tried again: after the lane's own wait, or longer when told to.
    Later(Option<Duration>),
}

/// A transaction id for what is sent: the same for the same thing, different for everything else in the whole bridge, as
/// the homeserver needs it (it tells neither ghosts nor types apart).
#[must_use]
pub fn txn_id(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    let hash = hash.finalize();
    hash[..16].iter().fold(String::from("g"), |text, byte| text + &format!("{byte:02x}"))
}

/// Where paging goes on behind a page of at most `limit` messages that came after `from`; none when there is nothing behind it.
///
/// Pages are in order of sending, and end by the id; but ids of one second are in no order. So it goes on with the last second from
/// its beginning, unless the page holds nothing else, or everything.
fn onward(from: &MessageId, page: &[Message], limit: usize) -> Option<MessageId> {
    let end = page.last().and_then(|message| message.id.parse::<MessageId>().ok());
    let end = end.filter(|end| end > from)?;
    let second = MessageId::first_of(end.made());
    Some(if page.len() >= limit && second > *from { second } else { end })
}

#[cfg(test)]
mod tests;
