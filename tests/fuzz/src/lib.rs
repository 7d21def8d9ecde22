//! The converters alone, without the rest of the bridge, so that an instrumented build takes a minute.

#[allow(dead_code, unreachable_pub, reason = "the bridge uses what the targets don't")]
#[path = "../../../src"]
mod bridge {
    pub mod render;
}

/// Where the converters look for each other.
pub use bridge::render;

pub mod entry;
