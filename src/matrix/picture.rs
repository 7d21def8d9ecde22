//! Pictures of Gitter: of rooms and users, fetched once, uploaded once, remembered by their address; and in messages.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use reconcile::{queue::Class, turns::Turns};
use ruma::OwnedMxcUri;
use serde::{Deserialize, Serialize};
use store::StoreError;
use tokio::{sync::Mutex, time::Instant};
use url::Url;

use super::{Client, MatrixError, raster};
use crate::{
    db::Db,
    http::guarded::{FetchError, Guarded},
    telemetry::Chain,
};

/// Avatars of 128 pixels have a few kilobytes.
const LARGEST: usize = 2 << 20;
/// Nobody waits longer for a face.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nor a room for a picture in a message, from asking for it to its being on the homeserver, once it is its turn.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(15);
/// A picture that could not be had is not asked for again before this, twice as long each time, and at last once a day.
const AGAIN: Duration = Duration::from_secs(600);
const AGAIN_MOST: Duration = Duration::from_secs(24 * 3600);
/// So many failures are remembered.
const FAILURES: usize = 10_000;
/// So many pictures of messages are on their way at a time, each in memory as a whole.
const AT_A_TIME: usize = 4;

/// Fetches and uploads. Clones share what they remember.
#[derive(Debug, Clone)]
pub struct Pictures {
    guarded: Guarded,
    client: Client,
    db: Db,
    failures: Arc<Mutex<BTreeMap<String, (Instant, u32)>>>,
    /// By host: pictures of one that is slow wait for each other, and keep no others from being shown.
    turns: Turns<String>,
    /// Pictures of messages that are being fetched: several portals may show the same.
    busy: Arc<StdMutex<BTreeMap<String, Arc<Mutex<()>>>>>,
}

/// A picture of a message, on the homeserver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Where.
    pub mxc: OwnedMxcUri,
    /// Its media type.
    pub kind: String,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// In bytes.
    pub size: usize,
}

impl Pictures {
    /// Fetches through `guarded`, so never from where strangers must not lead the bridge.
    #[must_use]
    pub fn new(guarded: Guarded, client: Client, db: Db) -> Self {
        let turns = Turns::new(AT_A_TIME);
        Self { guarded, client, db, failures: Arc::default(), turns, busy: Arc::default() }
    }

    /// The picture on the homeserver; `None` when there is none, or it can't be had: no room or ghost waits for its picture.
    pub async fn upload(&self, address: Option<&str>) -> Option<OwnedMxcUri> {
        let url = Url::parse(address?).ok()?;
        let key = url.to_string();
        let known = self.db.look({
            let key = key.clone();
            move |t| t.media(&key)
        });
        if let Ok(Some(known)) = known.await {
            return Some(known.into());
        }
        let failed = self.failures.lock().await.get(&key).copied();
        if failed.is_some_and(|(at, times)| at.elapsed() < again(times)) {
            return None;
        }
        let got = tokio::time::timeout(PATIENCE, self.avatar(&url)).await;
        let uploaded = match got {
            Ok(Ok(mxc)) => Some(mxc),
            Ok(Err(error)) => {
                tracing::debug!(%url, error = %Chain(&error), "picture not fetched");
                None
            }
            Err(_) => None,
        };
        let Some(mxc) = uploaded else {
            let mut failures = self.failures.lock().await;
            if failures.len() >= FAILURES {
                failures.clear();
            }
            let times = failed.map_or(0, |(_, times)| times.saturating_add(1));
            failures.insert(key, (Instant::now(), times));
            return None;
        };
        self.failures.lock().await.remove(&key);
        let saved = mxc.to_string();
        if let Err(error) = self.db.change(move |t| t.put_media(&key, &saved)).await {
            tracing::warn!(%error, "picture not remembered");
        }
        Some(mxc)
    }

    async fn avatar(&self, url: &Url) -> Result<OwnedMxcUri, PictureError> {
        let bytes = self.guarded.fetch(url, LARGEST).await?;
        let kind = raster::sniff(&bytes).ok_or(PictureError::Kind)?.kind;
        Ok(self.client.upload(bytes, kind, "avatar").await?)
    }

    /// A picture of a message; `None` when it can't be had in time. What came of it is written down under `key` before it is
    /// told, and stays so: a message that is shown again after a crash is shown as before.
    ///
    /// # Errors
    ///
    /// When the rows can't be read or written.
    pub async fn upload_shown(
        &self,
        key: &str,
        address: &str,
        name: &str,
        largest: usize,
    ) -> Result<Option<Uploaded>, StoreError> {
        let turn = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.entry(key.to_owned()).or_default().clone()
        };
        let _turn = turn.lock().await;
        let kept = key.to_owned();
        let shown = match self.db.look(move |t| t.media(&kept)).await? {
            Some(known) => Ok(known),
            None => self.decide(key, address, name, largest).await,
        };
        {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            // The map's and ours: nobody else waits.
            if busy.get(key).is_some_and(|turn| Arc::strong_count(turn) <= 2) {
                busy.remove(key);
            }
        }
        Ok(serde_json::from_str(&shown?).ok())
    }

    async fn decide(
        &self,
        key: &str,
        address: &str,
        name: &str,
        largest: usize,
    ) -> Result<String, StoreError> {
        let got = match Url::parse(address) {
            Ok(url) => {
                let host = url.host_str().unwrap_or_default().to_owned();
                let _turn = self.turns.take(host, Class::Soon).await;
                tokio::time::timeout(MESSAGE_PATIENCE, self.shown(&url, name, largest)).await
            }
            Err(_) => Ok(Err(PictureError::Kind)),
        };
        let row = match got {
            Ok(Ok(uploaded)) => serde_json::to_string(&uploaded).unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::info!(picture = key, error = %Chain(&error), "picture of a message stays a link");
                String::new()
            }
            Err(_) => {
                tracing::info!(
                    picture = key,
                    "picture of a message stays a link: it took too long"
                );
                String::new()
            }
        };
        let key = key.to_owned();
        let kept = row.clone();
        self.db.change(move |t| t.put_media(&key, &kept)).await?;
        Ok(row)
    }

    async fn shown(&self, url: &Url, name: &str, largest: usize) -> Result<Uploaded, PictureError> {
        let bytes = self.guarded.fetch(url, largest).await?;
        let raster = raster::sniff(&bytes).ok_or(PictureError::Kind)?;
        let size = bytes.len();
        let mxc = self.client.upload(bytes, raster.kind, name).await?;
        let (width, height) = (raster.width, raster.height);
        Ok(Uploaded { mxc, kind: raster.kind.to_owned(), width, height, size })
    }
}

/// How long a picture is not asked for after so many failures.
fn again(times: u32) -> Duration {
    AGAIN.saturating_mul(1 << times.min(16)).min(AGAIN_MOST)
}

#[derive(Debug, thiserror::Error)]
enum PictureError {
    #[error("the picture could not be fetched")]
    Fetch(#[from] FetchError),
    #[error("it is no kind of picture")]
    Kind,
    #[error("the homeserver does not take the picture")]
    Upload(#[from] MatrixError),
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;
    use store::{SealKey, Store};
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::method};

    use super::*;
    use crate::http::{self, Destination};

    const GIF: &[u8] = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;";

    #[tokio::test]
    async fn a_host_that_does_not_answer_keeps_no_other_hosts_picture_from_being_shown() {
        let (home, host) = (MockServer::start().await, MockServer::start().await);
        let uploaded = json!({"content_uri": "mxc://example.org/picture"});
        Mock::given(method("POST"))
            .respond_with(ResponseTemplate::new(200).set_body_json(uploaded))
            .mount(&home)
            .await;
        let picture = ResponseTemplate::new(200).set_body_bytes(GIF);
        Mock::given(method("GET")).respond_with(picture).mount(&host).await;
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let silent = format!("http://localhost:{}/", silent.local_addr().expect("bound").port());
        let url = |text: &str| Url::parse(text).expect("a valid url");
        let client = |to| http::client(to).expect("a client");
        let own = vec![url(&host.uri()), url(&silent)];
        let client_of_bot = Client::new(
            client(Destination::Homeserver),
            url(&home.uri()),
            "as_token".into(),
            user_id!("@gitter:example.org").to_owned(),
            "gitter".to_owned(),
        );
        let pictures = Pictures::new(
            Guarded::new(own, client(Destination::Media).into()).expect("clients"),
            client_of_bot,
            Db::new(Store::in_memory(SealKey::new([7; 32])).expect("in memory")),
        );
        let slow: Vec<_> = (0..2 * AT_A_TIME)
            .map(|n| {
                let (pictures, address) = (pictures.clone(), format!("{silent}{n}.gif"));
                let key = n.to_string();
                tokio::spawn(async move { pictures.upload_shown(&key, &address, "x", 99).await })
            })
            .collect();
        while pictures.turns.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let address = format!("{}/fast.gif", host.uri());
        let shown = pictures.upload_shown("fast", &address, "fast", 99).await.expect("written");
        assert!(shown.is_some(), "it stays a link");
        assert!(slow.iter().all(|slow| !slow.is_finished()));
    }
}
