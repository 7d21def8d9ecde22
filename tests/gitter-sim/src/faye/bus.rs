//! Faye clients, their subscriptions, and delivery.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

/// Undelivered messages kept per client; older ones are lost, and `ext.c` shows it.
const QUEUE: usize = 5000;

/// What a socket's task is told to do.
#[derive(Debug)]
pub(crate) enum Out {
    Text(String),
    /// A websocket close frame with code 1000.
    Close,
    /// The TCP connection is cut.
    Cut,
}

#[derive(Debug)]
pub(crate) struct FayeClient {
    pub(crate) token: String,
    pub(crate) user: String,
    pub(crate) timeout_ms: u64,
    pub(crate) subscriptions: BTreeSet<String>,
    queue: VecDeque<Value>,
    counter: u64,
    pub(crate) socket: Option<u64>,
    /// The answer to the `/meta/connect` that is being held, and its number.
    pub(crate) held: Option<(u64, Value)>,
    /// Wakes a held long poll.
    pub(crate) wake: Arc<Notify>,
    /// The room the client looks at.
    pub(crate) room: Option<String>,
    pub(crate) seen: tokio::time::Instant,
}

/// All Faye clients and sockets, and what is to go wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    pub(crate) clients: BTreeMap<String, FayeClient>,
    sockets: BTreeMap<u64, mpsc::UnboundedSender<Out>>,
    next: u64,
    /// Nothing is written to any socket; what is published meanwhile is lost.
    pub(crate) stalled: bool,
    /// Error that answers every handshake.
    pub(crate) refuse: Option<String>,
    lose: u64,
    /// What is to be published once the answers to the present frame are sent.
    pub(crate) deferred: Vec<(String, Value)>,
}

impl Bus {
    pub(crate) fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn open_socket(&mut self, tx: mpsc::UnboundedSender<Out>) -> u64 {
        let id = self.next();
        self.sockets.insert(id, tx);
        id
    }

    pub(crate) fn send(&self, socket: u64, out: Out) {
        if self.stalled && matches!(out, Out::Text(_)) {
            return;
        }
        if let Some(tx) = self.sockets.get(&socket) {
            let _ = tx.send(out);
        }
    }

    /// Forgets a socket; returns its clients, which live on for a while.
    pub(crate) fn close_socket(&mut self, socket: u64) -> Vec<String> {
        self.sockets.remove(&socket);
        let mut left = Vec::new();
        for (id, client) in &mut self.clients {
            if client.socket == Some(socket) {
                client.socket = None;
                client.held = None;
                left.push(id.clone());
            }
        }
        left
    }

    pub(crate) fn add_client(&mut self, id: &str, token: &str, user: &str, timeout_ms: u64) {
        self.expire();
        let client = FayeClient {
            token: token.into(),
            user: user.into(),
            timeout_ms,
            subscriptions: BTreeSet::new(),
            queue: VecDeque::new(),
            counter: 0,
            socket: None,
            held: None,
            wake: Arc::default(),
            room: None,
            seen: tokio::time::Instant::now(),
        };
        self.clients.insert(id.into(), client);
    }

    /// Clients not heard of for 1.6 times the timeout are unknown.
    fn expire(&mut self) {
        let now = tokio::time::Instant::now();
        self.clients.retain(|_, c| {
            let silent_ms = now.duration_since(c.seen).as_millis();
            c.held.is_some() || silent_ms < u128::from(c.timeout_ms) * 8 / 5
        });
    }

    /// The client, noted as heard of.
    pub(crate) fn touch(&mut self, id: &str) -> Option<&mut FayeClient> {
        self.expire();
        let client = self.clients.get_mut(id)?;
        client.seen = tokio::time::Instant::now();
        Some(client)
    }

    pub(crate) fn publish(&mut self, channel: &str, id: &str, data: &Value) {
        let message = json!({"channel": channel, "data": data, "id": id});
        let listening: Vec<String> = self
            .clients
            .iter()
            .filter(|(_, c)| c.subscriptions.contains(channel))
            .map(|(id, _)| id.clone())
            .collect();
        for id in listening {
            if let Some(client) = self.clients.get_mut(&id) {
                client.queue.push_back(message.clone());
                if client.queue.len() > QUEUE {
                    client.queue.pop_front();
                    client.counter += 1;
                }
            }
            self.deliver(&id);
        }
    }

    /// Hands waiting messages to the client's socket or wakes its long poll; each message is a
    /// frame of its own.
    pub(crate) fn deliver(&mut self, id: &str) {
        let Some(client) = self.clients.get(id) else { return };
        if let Some(socket) = client.socket {
            for message in self.take(id) {
                self.send(socket, Out::Text(json!([message]).to_string()));
            }
        } else {
            client.wake.notify_one();
        }
    }

    /// Takes the waiting messages, numbered; those to be lost are numbered and dropped.
    pub(crate) fn take(&mut self, id: &str) -> Vec<Value> {
        let Some(client) = self.clients.get_mut(id) else { return Vec::new() };
        let mut taken = Vec::new();
        for mut message in client.queue.drain(..) {
            client.counter += 1;
            if self.lose > 0 {
                self.lose -= 1;
                continue;
            }
            message["ext"] = json!({"c": client.counter});
            taken.push(message);
        }
        taken
    }

    pub(crate) fn has_waiting(&self, id: &str) -> bool {
        self.clients.get(id).is_some_and(|c| !c.queue.is_empty())
    }

    /// Ends subscriptions of one user below (and to) a room's channel without a word.
    pub(crate) fn unsubscribe_user(&mut self, user: &str, room_channel: &str) {
        for client in self.clients.values_mut().filter(|c| c.user == user) {
            client.subscriptions.retain(|s| !is_below(s, room_channel));
        }
    }

    pub(crate) fn unsubscribe_all(&mut self, room_channel: &str) {
        for client in self.clients.values_mut() {
            client.subscriptions.retain(|s| !is_below(s, room_channel));
        }
    }

    pub(crate) fn is_online(&self, user: &str) -> bool {
        self.clients.values().any(|c| c.user == user)
    }

    pub(crate) fn is_present(&self, user: &str, room: &str) -> bool {
        self.clients.values().any(|c| c.user == user && c.room.as_deref() == Some(room))
    }

    pub(crate) fn close_token(&mut self, token: &str) {
        let dead: Vec<_> = self
            .clients
            .iter()
            .filter(|(_, c)| c.token == token)
            .map(|(id, c)| (id.clone(), c.socket))
            .collect();
        for (id, socket) in dead {
            self.clients.remove(&id);
            if let Some(socket) = socket {
                self.send(socket, Out::Close);
            }
        }
    }

    pub(crate) fn cut_sockets(&self) {
        for tx in self.sockets.values() {
            let _ = tx.send(Out::Cut);
        }
    }

    pub(crate) fn skip_counter(&mut self) {
        for client in self.clients.values_mut() {
            client.counter += 1;
        }
    }

    pub(crate) fn lose(&mut self, frames: u64) {
        self.lose = frames;
    }

    pub(crate) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Forgets every client; held connects are answered as for an unknown client.
    pub(crate) fn forget_clients(&mut self) {
        for (id, client) in std::mem::take(&mut self.clients) {
            client.wake.notify_one();
            if let (Some(socket), Some((_, held))) = (client.socket, client.held) {
                let answer = super::protocol::unknown_client(&held["id"], &id);
                self.send(socket, Out::Text(json!([answer]).to_string()));
            }
        }
    }
}

fn is_below(channel: &str, parent: &str) -> bool {
    channel.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
