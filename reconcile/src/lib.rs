//! The functional core: what should be true, what is, and the plan that makes the difference go away.
//!
//! The loop in one paragraph: a *key* (an account, a portal, a Gitter room, a ghost, a chat with the bot) is taken from the
//! [`queue`]; the [`driver`] reads its rows and looks at the outside world anew; [`plan()`] compares the two, purely; what the
//! users did elsewhere is adopted, what they asked for is enforced; the driver does it, every action safe to repeat; the rows are
//! noted. A hint puts a key in front, a resync puts in all of them, a failure puts one back with its own backoff.
//!
//! # Guarantees
//!
//! - Nothing is removed on a reading that is not fresh (`tests/laws.rs`: `nothing_is_removed_on_a_stale_reading`).
//! - A plan that was carried out leaves nothing to do (`an_executed_plan_leaves_nothing_to_do`).
//! - Mass removals nobody asked for are held back ([`brake`]).
//! - While a side is away only a probe calls there ([`breaker`]); no account delays another's work ([`queue`], [`turns`]).
//! - A pass that panics ends nothing but itself; its key waits long before the next try ([`driver`]).

pub mod backoff;
pub mod brake;
pub mod breaker;
pub mod driver;
pub mod limiter;
pub mod model;
pub mod panics;
pub mod plan;
pub mod port;
pub mod queue;
mod ring;
pub mod settle;
pub mod turns;

pub use plan::plan;
