//! The bridge between Matrix and Gitter: a declarative reconciler behind an application service.
//!
//! Everything anyone says to the bridge becomes a row of desired state ([`intake`]); one loop makes it true; messages are carried by
//! the relay. [`app`] puts the parts together and is alone in knowing all of them.

pub mod app;
pub mod appservice;
pub mod backup;
pub mod bot;
pub mod cli;
pub mod clock;
pub mod db;
pub mod gitter;
pub mod http;
pub mod intake;
pub mod keys;
pub mod matrix;
pub mod metrics;
pub mod recover;
pub mod relay;
pub mod render;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod web;
