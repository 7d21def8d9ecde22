//! The Matrix side seen from the bridge: the client-server API as the bot or as one of its ghosts, the names of ghosts,
//! and the rooms the bridge makes.
//!
//! What the homeserver sends to the bridge arrives in [`appservice`](crate::appservice).

pub mod client;
pub mod error;
pub mod ghost;
pub mod homeserver;
pub mod picture;
mod power;
pub mod raster;
pub mod room;

pub use client::{As, Client, DEVICE};
pub use error::MatrixError;
pub use ghost::Ghosts;
pub use homeserver::Homeserver;
