//! One connection, from handshake to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::Rng;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message as Packet};
use tokio_util::sync::CancellationToken;

use super::frame::{self, Advice, Frame};
use super::{Event, FayeConfig, RoomsOperation};

/// How many subscriptions go into one frame.
const BATCH: usize = 25;
/// Bounds of what a server may advise between two `/meta/connect`, and for how long it holds one.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
const HELD: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// We were asked to, or nobody listens.
    Stopped,
    /// For good.
    TokenRejected,
    /// Worth another attempt, but not before what the server advised.
    Lost { reason: String, advised: Duration },
}

impl End {
    pub(super) fn lost(reason: impl Into<String>) -> Self {
        Self::Lost { reason: reason.into(), advised: Duration::ZERO }
    }

    fn as_told(what: &str, frame: &Frame<'_>) -> Self {
        let (status, text) = frame.failure();
        let advised = frame.advice.interval().unwrap_or_default();
        Self::Lost { reason: format!("{what} failed: {status} {text}"), advised }
    }
}

/// Where a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Asked for; to be answered by then.
    Pending(Instant),
    Live,
    Refused,
}

/// What has to happen when.
#[derive(Debug)]
struct Timers {
    /// The next ping goes out.
    ping: Instant,
    /// A ping that is out has to be answered.
    pong: Option<Instant>,
    /// The next `/meta/connect` goes out.
    connect: Option<Instant>,
    /// A `/meta/connect` that is out has to be answered.
    connected: Option<Instant>,
}

/// A connection.
pub(super) struct Session<'a, S, R> {
    config: &'a FayeConfig,
    socket: WebSocketStream<S>,
    events: &'a mpsc::Sender<Event>,
    stop: &'a CancellationToken,
    rng: &'a mut R,
    client_id: String,
    next_id: u64,
    /// By channel.
    asked: BTreeMap<String, Asked>,
    /// Number of the last message delivered to this client.
    counted: u64,
    interval: Duration,
    held: Duration,
    timers: Timers,
}

impl<'a, S, R> Session<'a, S, R>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Rng,
{
    pub(super) fn new(
        config: &'a FayeConfig,
        socket: WebSocketStream<S>,
        events: &'a mpsc::Sender<Event>,
        stop: &'a CancellationToken,
        rng: &'a mut R,
    ) -> Self {
        let timers = Timers { ping: Instant::now(), pong: None, connect: None, connected: None };
        let (client_id, asked) = (String::new(), BTreeMap::new());
        let (interval, held) = (Duration::from_millis(500), Duration::from_secs(120));
        Self {
            config,
            socket,
            events,
            stop,
            rng,
            client_id,
            next_id: 1,
            asked,
            counted: 0,
            interval,
            held,
            timers,
        }
    }

    /// Shakes hands and listens until something ends it.
    pub(super) async fn live(mut self, wanted: &mut watch::Receiver<BTreeSet<String>>) -> End {
        match self.listen(wanted).await {
            Err(End::Stopped) => {
                let goodbye = async {
                    let _ = self.put(&[frame::disconnect()]).await;
                    self.socket.close(None).await
                };
                let _ = timeout(GOODBYE, goodbye).await;
                End::Stopped
            }
            Err(end) => end,
            Ok(never) => match never {},
        }
    }

    async fn listen(
        &mut self,
        wanted: &mut watch::Receiver<BTreeSet<String>>,
    ) -> Result<std::convert::Infallible, End> {
        let (stop, events) = (self.stop, self.events);
        self.handshake().await?;
        self.tell(Event::Connected).await?;
        self.connect().await?;
        self.schedule_ping();
        self.want(wanted).await?;
        loop {
            let due = self.due();
            tokio::select! {
            biased;
                           () = stop.cancelled() => return Err(End::Stopped),
                           () = events.closed() => return Err(End::Stopped),
                           changed = wanted.changed() => {
                               changed.map_err(|_| End::Stopped)?;
                               self.want(wanted).await?;
                           }
                           () = sleep_until(due) => self.on_time().await?,
                           packet = self.socket.next() => self.read(packet).await?,
                       }
        }
    }

    async fn handshake(&mut self) -> Result<(), End> {
        self.send(&[frame::handshake(self.config.token.expose_secret())]).await?;
        let stop = self.stop;
        let by = Instant::now() + self.config.timing.answer;
        loop {
            let packet = tokio::select! {
            biased;
                           () = stop.cancelled() => return Err(End::Stopped),
                           () = sleep_until(by) => return Err(End::lost("no answer to the handshake")),
                           packet = self.socket.next() => text_of(packet)?,
                       };
            let (frames, _) = frame::parse(&packet);
            let Some(answer) = frames.into_iter().find(|frame| frame.channel == frame::HANDSHAKE)
            else {
                continue;
            };
            if answer.successful != Some(true) {
                let rejected = answer.failure().0 == 401;
                return Err(if rejected {
                    End::TokenRejected
                } else {
                    End::as_told("handshake", &answer)
                });
            }
            if answer.ext.user_id.as_ref().is_some_and(|user| *user != self.config.user_id) {
                tracing::warn!(account = self.config.user_id, "token of somebody else");
            }
            self.heed(&answer.advice);
            self.client_id =
                answer.client_id.ok_or_else(|| End::lost("handshake without a client id"))?;
            return Ok(());
        }
    }

    /// Makes the subscriptions equal to what is wanted.
    async fn want(&mut self, wanted: &mut watch::Receiver<BTreeSet<String>>) -> Result<(), End> {
        let mut channels = BTreeSet::from([frame::rooms_channel(&self.config.user_id)]);
        let mut unreal = Vec::new();
        for room in wanted.borrow_and_update().iter() {
            // A room's id is alphanumeric; anything else could be a wildcard or another channel.
            if room.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && (1..=64).contains(&room.len())
            {
                channels.extend([frame::chat_channel(room), frame::people_channel(room)]);
            } else {
                unreal.push(room.clone());
            }
        }
        for room in unreal {
            let message = "not the id of a room".to_owned();
            self.tell(Event::Refused { room, status: 400, message }).await?;
        }
        let gone: Vec<_> =
            self.asked.keys().filter(|channel| !channels.contains(*channel)).cloned().collect();
        self.asked.retain(|channel, _| channels.contains(channel));
        let gone: Vec<_> = gone.iter().map(|channel| frame::unsubscribe(channel)).collect();
        for frames in gone.chunks(BATCH) {
            self.send(frames).await?;
        }
        channels.retain(|channel| !self.asked.contains_key(channel));
        self.subscribe(channels).await
    }

    async fn subscribe(&mut self, channels: BTreeSet<String>) -> Result<(), End> {
        let channels: Vec<_> = channels.into_iter().collect();
        for batch in channels.chunks(BATCH) {
            let frames: Vec<_> = batch.iter().map(|channel| frame::subscribe(channel)).collect();
            self.send(&frames).await?;
            let by = Instant::now() + self.config.timing.answer;
            self.asked.extend(batch.iter().map(|channel| (channel.clone(), Asked::Pending(by))));
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<(), End> {
        self.send(&[frame::connect()]).await?;
        self.timers.connect = None;
        self.timers.connected = Some(Instant::now() + self.held + self.config.timing.answer);
        Ok(())
    }

    fn schedule_ping(&mut self) {
        let wait = self.config.timing.ping.mul_f64(self.rng.random_range(1.0..2.0));
        (self.timers.pong, self.timers.ping) = (None, Instant::now() + wait);
    }

    /// When to look at the clock again.
    fn due(&self) -> Instant {
        let Timers { ping, pong, connect, connected } = self.timers;
        let pending = self.asked.values().filter_map(|asked| match asked {
            Asked::Pending(by) => Some(*by),
            Asked::Live | Asked::Refused => None,
        });
        // While a ping is out, none follows.
        let timers = [Some(pong.unwrap_or(ping)), connect, connected];
        pending.chain(timers.into_iter().flatten()).min().unwrap_or(ping)
    }

    async fn on_time(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let past = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        if past(self.timers.pong) {
            return Err(End::lost("no answer to a ping"));
        }
        if past(self.timers.connected) {
            return Err(End::lost("no answer to a held connect"));
        }
        if self.asked.values().any(|asked| matches!(asked, Asked::Pending(by) if *by <= now)) {
            return Err(End::lost("no answer to a subscription"));
        }
        if past(self.timers.connect) {
            self.connect().await?;
        }
        if self.timers.pong.is_none() && self.timers.ping <= now {
            self.send(&[frame::ping()]).await?;
            self.timers.pong = Some(Instant::now() + self.config.timing.answer);
        }
        Ok(())
    }

    async fn read(&mut self, packet: Option<Result<Packet, SocketError>>) -> Result<(), End> {
        let text = text_of(packet)?;
        if text.is_empty() {
            return Ok(());
        }
        let (frames, odd) = frame::parse(&text);
        if odd {
            tracing::warn!(bytes = text.len(), "frame from Gitter not understood");
            self.tell(Event::Gap { room: None }).await?;
        }
        for frame in frames {
            self.take(frame).await?;
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame<'_>) -> Result<(), End> {
        let failed = frame.successful == Some(false);
        match frame.channel.as_str() {
            frame::HANDSHAKE => {} // Refused ones are answered several times; this one is long past.
            _ if failed && frame.wants_handshake() => return Err(End::as_told("session", &frame)),
            frame::CONNECT if failed => return Err(End::as_told("connect", &frame)),
            frame::CONNECT => {
                self.heed(&frame.advice);
                self.timers.connected = None;
                self.timers.connect = Some(Instant::now() + self.interval);
            }
            frame::PING if failed => return Err(End::as_told("ping", &frame)),
            frame::PING => self.schedule_ping(),
            frame::SUBSCRIBE => return self.answered(&frame, !failed).await,
            channel if frame.data.is_some() => {
                let channel = channel.to_owned();
                self.count(frame.ext.c).await?;
                // What a room says before the answer would be shown before what was missed; it is read with that.
                let chat = frame::room_of(&channel).is_some();
                let heard = self.asked.get(&channel);
                if heard.is_some_and(|asked| !chat || matches!(asked, Asked::Live)) {
                    return self.published(&channel, frame).await;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes the answer to a subscription.
    async fn answered(&mut self, frame: &Frame<'_>, granted: bool) -> Result<(), End> {
        let Some(channel) = &frame.subscription else { return Ok(()) };
        // Not wanted any more, perhaps.
        let Some(asked) = self.asked.get_mut(channel) else { return Ok(()) };
        *asked = if granted { Asked::Live } else { Asked::Refused };
        let (status, message) = frame.failure();
        if let Some(room) = frame::room_of_people(channel) {
            if !granted {
                // The list is read now and then in any case.
                tracing::debug!(room, status, message, "members not live");
            }
            return Ok(());
        }
        match frame::room_of(channel).map(str::to_owned) {
            Some(room) if granted => self.tell(Event::Subscribed { room }).await,
            Some(room) => self.tell(Event::Refused { room, status, message }).await,
            None if granted => Ok(()),
            None => {
                tracing::warn!(
                    account = self.config.user_id,
                    status,
                    message,
                    "list of rooms not live"
                );
                Ok(())
            }
        }
    }

    /// Counts a delivered message. A jump means that some were lost; order isn't promised, so going back means nothing.
    async fn count(&mut self, number: Option<u64>) -> Result<(), End> {
        let Some(number) = number else { return Ok(()) };
        let missed = number > self.counted.saturating_add(1);
        self.counted = self.counted.max(number);
        if missed { self.tell(Event::Gap { room: None }).await } else { Ok(()) }
    }

    /// Takes what was published on a channel that we asked for.
    async fn published(&mut self, channel: &str, frame: Frame<'_>) -> Result<(), End> {
        if let Some(room) = frame::room_of(channel) {
            let room = room.to_owned();
            let event = match frame::chat(frame.data) {
                Ok(Some(operation)) => Event::Chat { room, operation },
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!(room, %error, "live message not understood");
                    Event::Gap { room: Some(room) }
                }
            };
            return self.tell(event).await;
        }
        if let Some(room) = frame::room_of_people(channel) {
            return match frame::people(frame.data) {
                Ok(Some(operation)) => {
                    self.tell(Event::People { room: room.to_owned(), operation }).await
                }
                Ok(None) => Ok(()),
                Err(error) => {
                    tracing::debug!(room, %error, "live change of members not understood");
                    Ok(())
                }
            };
        }
        match frame::rooms(frame.data) {
            Ok(Some(operation)) => {
                let room = match &operation {
                    RoomsOperation::Create(room) => Some(&room.id),
                    RoomsOperation::Remove(room) => Some(room),
                    RoomsOperation::Update(_) | RoomsOperation::Patch(_) => None,
                };
                let channels =
                    room.map(|room| [frame::chat_channel(room), frame::people_channel(room)]);
                self.tell(Event::Rooms(operation)).await?;
                // On leaving, the server ends the room's subscriptions without a word. A public room may still be read; of
                // any other the refusal tells.
                let asked = channels.into_iter().flatten();
                let asked: BTreeSet<_> = asked.filter(|c| self.asked.contains_key(c)).collect();
                self.subscribe(asked).await
            }
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "live change of rooms not understood");
                self.tell(Event::Gap { room: None }).await
            }
        }
    }

    fn heed(&mut self, advice: &Advice) {
        let within = |(least, most), value: Duration| value.clamp(least, most);
        self.interval = advice.interval().map_or(self.interval, |value| within(INTERVAL, value));
        self.held = advice.timeout().map_or(self.held, |value| within(HELD, value));
    }

    /// Tells an event when there is room for it. Meanwhile nothing is read: that is not the server's fault.
    async fn tell(&mut self, event: Event) -> Result<(), End> {
        let began = Instant::now();
        if !super::tell(self.events, self.stop, event).await {
            return Err(End::Stopped);
        }
        let waited = began.elapsed();
        if !waited.is_zero() {
            let Timers { pong, connected, .. } = &mut self.timers;
            let pending = self.asked.values_mut().filter_map(|asked| match asked {
                Asked::Pending(by) => Some(by),
                Asked::Live | Asked::Refused => None,
            });
            pending.chain(pong.iter_mut()).chain(connected.iter_mut()).for_each(|by| *by += waited);
        }
        Ok(())
    }

    /// Sends frames, as one packet.
    async fn send(&mut self, frames: &[Value]) -> Result<(), End> {
        let (stop, limit) = (self.stop, self.config.timing.answer);
        tokio::select! {
        biased;
                   () = stop.cancelled() => Err(End::Stopped),
                   sent = timeout(limit, self.put(frames)) => match sent {
                       Ok(Ok(())) => Ok(()),
                       Ok(Err(error)) => Err(End::lost(format!("connection broken: {error}"))),
                       Err(_) => Err(End::lost("nothing can be sent")),
                   },
               }
    }

    async fn put(&mut self, frames: &[Value]) -> Result<(), SocketError> {
        let mut frames = frames.to_vec();
        for frame in &mut frames {
            frame["id"] = self.next_id.to_string().into();
            self.next_id += 1;
            if !self.client_id.is_empty() {
                frame["clientId"] = self.client_id.clone().into();
            }
        }
        self.socket.send(Packet::text(Value::Array(frames).to_string())).await
    }
}

/// The text of a packet; empty if it has none. Pings are answered by the websocket layer at the next read.
fn text_of(packet: Option<Result<Packet, SocketError>>) -> Result<String, End> {
    match packet {
        Some(Ok(Packet::Text(text))) => Ok(text.as_str().to_owned()),
        Some(Ok(Packet::Close(Some(why)))) => {
            Err(End::lost(format!("closed by the server: {}", u16::from(why.code))))
        }
        Some(Ok(Packet::Close(None))) | None => Err(End::lost("closed by the server")),
        Some(Ok(_)) => Ok(String::new()),
        Some(Err(error)) => Err(End::lost(format!("connection broken: {error}"))),
    }
}
