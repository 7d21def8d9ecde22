//! The pictures of a message, shown as pictures: each an event by the same ghost, after the text or instead of it.
//!
//! # Guarantees
//!
//! - What becomes of a picture is on disk before anything of it is sent, and transaction ids are made of the message and the
//!   picture's address: killed anywhere in between, the message is shown again as it was, and nothing twice.
//! - A picture that can't be had is the link that it is in the text; it holds up its lane for a bounded time.

use futures_util::future::join_all;
use reconcile::model::{Image, Link, MessageId, digest};
use ruma::UserId;
use serde_json::{Value, json};
use store::StoreError;
use url::form_urlencoded;

use super::{Failed, Lane, Relay};
use crate::{
    gitter::Message,
    matrix::{MatrixError, picture::Uploaded},
    relay::txn_id,
    render::markdown_to_matrix::Picture,
    telemetry::Chain,
};

/// What a message says and shows.
pub(super) struct Said {
    /// Its words, with links to its pictures.
    pub(super) content: Value,
    /// Its pictures.
    pub(super) pictures: Vec<Picture>,
    /// Whether the pictures are shown, and there are no words to be said besides.
    pub(super) alone: bool,
}

/// A picture to be shown: which, and as what; `None` when it can't be had.
pub(super) type Shown = (u64, Option<Value>);

/// Of which message something is a part, and who sends it.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    pub(super) lane: &'a Lane,
    pub(super) message: &'a Message,
    pub(super) id: &'a MessageId,
    pub(super) ghost: &'a UserId,
    /// Tells one version of the message from another.
    pub(super) version: &'a str,
}

/// The message's first event: its words; or, when it has none and all its pictures are there, the first of these, which is
/// then taken from `shown`.
pub(super) fn first_of(said: &Said, shown: &mut Vec<Shown>) -> Value {
    let all = !shown.is_empty() && shown.iter().all(|(_, content)| content.is_some());
    let first = (said.alone && all).then(|| shown.remove(0).1).flatten();
    first.unwrap_or_else(|| said.content.clone())
}

impl Relay {
    /// The pictures of a message, put on the homeserver, in order. All at once, and each in bounded time.
    pub(super) async fn pictures(
        &self,
        id: &MessageId,
        said: &Said,
    ) -> Result<Vec<Shown>, StoreError> {
        let Some(largest) = self.0.choices.images else { return Ok(Vec::new()) };
        let pictures = self.0.home.pictures();
        let each = said.pictures.iter().map(async |picture| {
            let source = digest(&picture.url);
            // By the message, too: an address may show something else tomorrow.
            let (key, name) = (format!("{id} {source:016x}"), name_of(&picture.url));
            let uploaded = pictures.upload_shown(&key, &picture.url, &name, largest).await?;
            Ok((source, uploaded.map(|uploaded| content(picture, &name, &uploaded))))
        });
        join_all(each).await.into_iter().collect()
    }

    /// Sends the pictures of a message that are not among those that `are` shown; tells all that are.
    pub(super) async fn show_images(
        &self,
        of: &Of<'_>,
        shown: Vec<Shown>,
        are: &[Image],
    ) -> Result<Vec<Image>, Failed> {
        let mut images = Vec::new();
        for (source, content) in shown {
            if let Some(image) = are.iter().find(|image| image.source == source) {
                images.push(image.clone());
                continue;
            }
            let Some(content) = content else { continue };
            let (room, key, id) = (of.lane.room.as_str(), of.lane.key.to_string(), of.id.as_str());
            let txn = txn_id(&["m.image", room, &key, id, of.version, &source.to_string()]);
            let author = of.message.from_user.as_ref().and_then(|user| user.id.parse().ok());
            let Some(author) = author else { continue };
            match self.say_as_ghost(of, &author, content, &txn).await {
                Ok(event) => images.push(Image { source, event }),
                Err(Failed::Matrix(error @ MatrixError::Refused { .. })) => {
                    self.unless_replaced(of.lane).await?;
                    let error = Chain(&error);
                    tracing::info!(portal = %of.lane.key, message = %of.id, %error, "picture not shown");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(images)
    }

    /// Redacts the pictures of a message that are not in what is `shown` of it.
    pub(super) async fn take_back_images(
        &self,
        lane: &Lane,
        link: &Link,
        shown: &[Shown],
    ) -> Result<(), Failed> {
        let gone = |image: &&Image| shown.iter().all(|(source, _)| *source != image.source);
        for image in link.images.iter().filter(gone) {
            let key = lane.key.to_string();
            let parts = ["m.room.redaction", lane.room.as_str(), &key, image.event.as_str()];
            self.take_back(lane, link, &image.event, &txn_id(&parts)).await?;
        }
        Ok(())
    }
}

/// <https://spec.matrix.org/v1.19/client-server-api/#mimage>; a description is a caption.
fn content(picture: &Picture, name: &str, uploaded: &Uploaded) -> Value {
    let body = if picture.alt.is_empty() { name } else { &picture.alt };
    json!({
        "msgtype": "m.image",
        "body": body,
        "filename": name,
        "url": uploaded.mxc,
        "info": {
            "mimetype": uploaded.kind,
            "w": uploaded.width,
            "h": uploaded.height,
            "size": uploaded.size,
        },
        "m.mentions": {},
    })
}

/// A name for the file at an address: the last part of its path, without what no file is called.
fn name_of(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    // What else has a meaning in forms has none here.
    let last = last.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let plain = form_urlencoded::parse(last.as_bytes()).next().unwrap_or_default().0;
    let name: String = plain.chars().filter(|c| !c.is_control() && *c != '/').take(100).collect();
    if name.trim().is_empty() { "image".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_the_name_of_its_file() {
        let rows = [
            ("https://x.example/a/My%20cat.png?s=1#top", "My cat.png"),
            ("https://x.example/", "image"),
            ("https://x.example/%00%2f", "image"),
        ];
        for (url, name) in rows {
            assert_eq!(name_of(url), name, "row: {url}");
        }
    }

    #[test]
    fn a_message_without_words_is_its_first_picture_if_all_can_be_had() {
        let said = |alone| Said { content: json!("words"), pictures: Vec::new(), alone };
        let (a, b) = ((1, Some(json!("a"))), (2, Some(json!("b"))));
        let rows = [
            ("words", false, vec![a.clone()], "words", 1),
            ("one", true, vec![a.clone()], "a", 0),
            ("two", true, vec![a.clone(), b], "a", 1),
            ("one is missing", true, vec![a, (2, None)], "words", 2),
            ("none is shown", true, vec![], "words", 0),
        ];
        for (name, alone, mut shown, first, left) in rows {
            assert_eq!(first_of(&said(alone), &mut shown), first, "row: {name}");
            assert_eq!(shown.len(), left, "row: {name}");
        }
    }
}
