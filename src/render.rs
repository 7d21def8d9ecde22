//! Pure conversions between Gitter's Markdown and Matrix's HTML, and the cutting of long texts.
//!
//! No clock, no I/O, nothing fetched: a message and a way to look people up go in, text comes out.
//!
//! # Guarantees
//!
//! - Nothing panics, and work and memory are linear in the input, whatever it is (`laws`).
//! - HTML made here holds only what the [specification's allow-list] permits, nested no deeper than [`MAX_DEPTH`] (`laws`).
//! - Text is never taken for markup: what is not formatted on one side is not formatted on the other (`laws`).
//! - What becomes of each construct stands in two tables, one row per case: `render/markdown_to_matrix_cases.txt` and
//!   `render/html_to_markdown_cases.txt`.
//!
//! [specification's allow-list]: https://spec.matrix.org/v1.19/client-server-api/#mroommessage-msgtypes

pub mod html_to_markdown;
pub mod markdown_to_matrix;
pub mod split;
pub mod status;

#[cfg(test)]
mod cases;
mod html;
#[cfg(test)]
mod laws;
mod scan;

/// How deep the elements of a converted message may be nested; what lies deeper loses its formatting, not its text.
///
/// The specification suggests 100 as the limit for readers; people stay below ten.
pub const MAX_DEPTH: usize = 24;

/// Keeps a person or group from being called by a text that only quotes the call: `@` and `/` are held apart by it.
///
/// U+2060 WORD JOINER: invisible, no break, and not a part of a name on Gitter.
const WORD_JOINER: char = '\u{2060}';
