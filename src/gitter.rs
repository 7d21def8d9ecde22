//! Gitter as this bridge uses it: a REST client with a budget per account, and live events over Faye.
//!
//! [`rest`] asks and tells, [`faye`] listens, [`types`] are what both receive. Nothing in here decides anything: errors say
//! what the caller may do about them, and whatever a server sends is bounded before it is kept.

pub mod budget;
pub mod carrier;
pub mod faye;
pub mod port;
pub mod rest;
pub mod types;

pub use port::{Caller, Speaker};
pub(crate) use rest::PATIENCE;
pub use rest::{Account, GitterError, MAX_SKIP, NewMessage, Page, Rest};
pub use types::{Issue, Mention, Message, Room, RoomPatch, User, VirtualUser};

#[cfg(test)]
mod tests;
