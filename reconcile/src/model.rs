//! The words of the bridge as types: what is desired, what was last observed, and who is who.

pub mod account;
pub mod chat;
pub mod fate;
pub mod ghost;
pub mod id;
pub mod message;
pub mod moment;
pub mod portal;
pub mod wish;

pub use account::{Account, Control, NamedAsk, NamedKind, Person, Session};
pub use chat::{Chat, ChatStage, Door, Notice, Say, Target, Told};
pub use fate::{Failure, Fate, Hold, News, Waiting};
pub use ghost::{Ghost, Profile, alike};
pub use id::{GitterRoomId, GitterUserId, IdError, MessageId, Millis, PortalKey};
pub use message::{AddsTo, Answers, Attempt, Cursor, Gap, Image, Link, Outgoing, Payload, digest};
pub use moment::{Moment, Uptime};
pub use portal::{Ask, Condition, GitterRoom, Place, Portal, Refusal};
pub use wish::{Reason, Seen, Wish};
