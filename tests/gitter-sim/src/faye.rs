//! Faye (Bayeux 1.0) over websocket, and over plain long polling on the same paths.

mod bus;
mod protocol;
mod snapshot;

use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::http::{HeaderMap, Response, header};
use axum::response::IntoResponse;
use serde_json::Value;
use tokio::sync::mpsc;

pub(crate) use bus::{Bus, Out};
use protocol::{Hold, Source};

use crate::World;
use crate::http::{Reply, parse_form};
use crate::wire::Conn;

const BODY_LIMIT: usize = 1 << 20;
/// The legacy mount holds connects 2.5 times as long.
const LEGACY_FACTOR: (u64, u64) = (5, 2);

/// Whether `path` is one of the two mounts.
pub(crate) fn is_mount(path: &str) -> bool {
    matches!(path.trim_end_matches('/'), "/bayeux" | "/faye")
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// Serves a request to a mount.
pub(crate) async fn serve(world: World, conn: Conn, request: Request) -> Response<Body> {
    let legacy = request.uri().path().starts_with("/faye");
    let (timeout_ms, ping_ms) = {
        let state = world.lock();
        let timeout = state.cfg.faye_timeout_ms;
        let factor = if legacy { LEGACY_FACTOR } else { (1, 1) };
        (timeout * factor.0 / factor.1, state.cfg.faye_ping_ms)
    };
    let (mut parts, body) = request.into_parts();
    if is_upgrade(&parts.headers) {
        return match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
            Ok(upgrade) => upgrade
                .max_message_size(BODY_LIMIT)
                .read_buffer_size(4 * 1024)
                .write_buffer_size(4 * 1024)
                .on_upgrade(move |ws| socket(world, conn, ws, timeout_ms, ping_ms))
                .into_response(),
            Err(rejection) => rejection.into_response(),
        };
    }
    let Ok(bytes) = axum::body::to_bytes(body, BODY_LIMIT).await else {
        return Reply::error(413, 0).into_response();
    };
    let text = String::from_utf8_lossy(&bytes);
    let is_form = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.contains("x-www-form-urlencoded"));
    let frame = if is_form {
        parse_form(&text).remove("message").unwrap_or_default()
    } else {
        text.into_owned()
    };
    let Ok(frame) = serde_json::from_str::<Value>(&frame) else {
        return Reply::new(400, "text/plain", "Bad request").into_response();
    };
    long_poll(&world, timeout_ms, &frame).await.into_response()
}

async fn long_poll(world: &World, timeout_ms: u64, frame: &Value) -> Reply {
    let from = Source { socket: None, timeout_ms };
    let (mut replies, holds) = world.lock().faye_messages(from, frame);
    world.lock().publish_deferred();
    for hold in holds {
        let wake = world.lock().bus.clients.get(&hold.client).map(|c| c.wake.clone());
        if let Some(wake) = wake {
            let limit = Duration::from_millis(hold.after_ms);
            let _ = tokio::time::timeout(limit, wake.notified()).await;
        }
        let mut state = world.lock();
        replies.extend(state.finish_connect(&hold));
        replies.extend(state.bus.take(&hold.client));
    }
    for reply in replies.clone() {
        // A poll that need not wait takes what is there along.
        if reply["channel"] == "/meta/connect" && reply["successful"] == Value::Bool(true) {
            let client = reply["clientId"].as_str().unwrap_or_default();
            replies.extend(world.lock().bus.take(client));
        }
    }
    Reply::json(&Value::from(replies))
        .with_header("cache-control", "no-cache, no-store")
        .with_header("x-content-type-options", "nosniff")
        .with_header("connection", "close")
}

/// Owns a socket's place in the bus, so that it is given up however the task ends.
struct Seat(World, u64);

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        for client in state.bus.close_socket(self.1) {
            state.leave_presence(&client);
        }
    }
}

async fn socket(world: World, conn: Conn, mut ws: WebSocket, timeout_ms: u64, ping_ms: u64) {
    let (tx, mut outgoing) = mpsc::unbounded_channel();
    let number = world.lock().bus.open_socket(tx);
    let seat = Seat(world.clone(), number);
    let from = Source { socket: Some(number), timeout_ms };
    let every = Duration::from_millis(ping_ms.max(1));
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let mut pinged = 0_u64;
    loop {
        tokio::select! {
            biased;
            () = conn.cut.cancelled() => break,
            out = outgoing.recv() => match out {
                Some(Out::Text(text)) => {
                    if ws.send(Message::Text(text.into())).await.is_err() {
                        break;
                    }
                }
                Some(Out::Close) => {
                    let frame = CloseFrame { code: 1000, reason: "".into() };
                    let _ = ws.send(Message::Close(Some(frame))).await;
                    break;
                }
                Some(Out::Cut) | None => {
                    conn.cut.cancel();
                    break;
                }
            },
            incoming = ws.recv() => match incoming {
                Some(Ok(Message::Text(text))) => {
                    let holds = world.lock().faye_frame(from, &text);
                    for hold in holds {
                        finish_later(&world, hold);
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
            _ = pings.tick() => {
                let stalled = world.lock().bus.stalled;
                pinged += 1;
                if !stalled && ws.send(Message::Ping(pinged.to_string().into())).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(seat);
}

/// Answers a held connect when its time is up, unless it was answered before.
fn finish_later(world: &World, hold: Hold) {
    let world = world.downgrade();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(hold.after_ms)).await;
        if let Some(world) = world.upgrade() {
            world.lock().finish_connect(&hold);
        }
    });
}
