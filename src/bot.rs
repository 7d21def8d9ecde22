//! The bot's words: what people say to it ([`parse`]) and what it says to them ([`answer`]).
//!
//! Pure text. Nothing here knows of HTTP, the store or time: what an answer tells comes in small
//! view structs, filled by whoever knows.
//!
//! # Guarantees
//!
//! - Nothing that people or servers wrote reaches HTML unescaped
//!   (`answer::tests::what_others_wrote_is_escaped_and_bounded`).
//! - Every input is answered and none panics (`parse::tests::anything_is_understood_or_explained`).
//! - No answer outgrows what a homeserver takes as one event
//!   (`answer::tests::the_longest_answers_fit_into_events`).

pub mod answer;
pub mod parse;

pub use answer::Answer;
pub use parse::{Command, KnownRoom, Match, Misunderstood, Parser, RoomName, Verb};
