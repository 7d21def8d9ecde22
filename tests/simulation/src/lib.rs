//! The whole bridge in worlds of memory: one thread, virtual time, one seed.
//!
//! The real reconciler, relay, intake, bot, login pages, clients and store run against a homeserver and a Gitter that live in
//! the same thread. Random [`people`] do random things, the [`net`]work and the machine fail in every way known, the bridge dies
//! at any call and any commit; then all trouble ends, and the [`judge`] looks whether every promise was kept. What happened
//! follows from the seed alone.

pub mod director;
pub mod history;
pub mod judge;
pub mod life;
pub mod net;
pub mod outages;
pub mod people;
pub mod time;
