//! The simulator and a real Synapse are asked the same, and answer the same; and send the appservice the same.

mod compare;
mod steps;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::{Json, Router};
use compare::Ids;
use harness::{Registration, Synapse, SynapseConfig};
use homeserver_sim::{Config, HomeserverSim};
use serde_json::{Value, json};
use steps::Step;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

/// What a homeserver sent: method and path, and the body.
type Heard = Arc<Mutex<Vec<(String, Value)>>>;

/// An appservice that takes everything and knows nobody.
fn appservice(heard: Heard) -> Router {
    async fn hear(State(heard): State<Heard>, request: Request) -> Json<Value> {
        let line = format!("{} {}", request.method(), request.uri().path());
        let body = axum::body::to_bytes(request.into_body(), 1 << 24).await.unwrap_or_default();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        heard.lock().unwrap_or_else(PoisonError::into_inner).push((line, body));
        Json(json!({}))
    }
    Router::new().fallback(hear).with_state(heard)
}

/// All events sent, by room, in the order of the rooms' first; and who was asked for.
fn events(heard: &Heard) -> (Vec<(String, Vec<Value>)>, Vec<String>) {
    let (mut rooms, mut asked) = (Vec::<(String, Vec<Value>)>::new(), Vec::new());
    for (line, body) in heard.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        if line.starts_with("GET") {
            asked.push(line.clone());
        }
        for event in body["events"].as_array().into_iter().flatten() {
            let room = event["room_id"].as_str().unwrap_or_default().to_owned();
            match rooms.iter_mut().find(|(id, _)| *id == room) {
                Some((_, events)) => events.push(event.clone()),
                None => rooms.push((room, vec![event.clone()])),
            }
        }
    }
    (rooms, asked)
}

/// One of the two servers.
enum Server {
    Real(reqwest::Client, String),
    Sim(Router),
}

struct Asked {
    server: Server,
    token: String,
    saved: BTreeMap<&'static str, String>,
}

impl Asked {
    fn fill(&self, text: &str) -> String {
        let saved = self.saved.iter();
        saved.fold(text.to_owned(), |text, (name, value)| {
            text.replace(&format!("{{{name}}}"), value)
        })
    }

    async fn ask(&mut self, step: &Step) -> Result<(u16, Value)> {
        let segments = step.path.split('/').map(|part| encode(&self.fill(part)));
        let mut path = format!("/_matrix/{}", segments.collect::<Vec<_>>().join("/"));
        let who = if step.who.is_empty() { "gitter" } else { step.who };
        let mut query: Vec<(&str, String)> = step.query.clone();
        query.retain(|(key, _)| *key != "user_id");
        if !step.who.is_empty() || step.device || query.len() < step.query.len() {
            query.push(("user_id", format!("@{who}:localhost")));
        }
        if step.device {
            query.push(("device_id", "BRIDGE".to_owned()));
        }
        for (at, (key, value)) in query.iter().enumerate() {
            let mark = if at == 0 { '?' } else { '&' };
            path = format!("{path}{mark}{key}={}", encode(&self.fill(value)));
        }
        let body = step.body.as_ref().map(|body| self.fill(&body.to_string()));
        let (status, body) = self.send(step.method, &path, body).await?;
        let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if let Some((name, at)) = step.save {
            let found = value.pointer(at).and_then(Value::as_str);
            let found = found.with_context(|| format!("{} {path}: {value}", step.method))?;
            self.saved.insert(name, found.to_owned());
        }
        Ok((status, value))
    }

    async fn send(&self, method: &str, path: &str, body: Option<String>) -> Result<(u16, Bytes)> {
        let method: Method = method.parse()?;
        match &self.server {
            Server::Real(client, base) => {
                let mut request = client.request(method, format!("{base}{path}"));
                request = request.bearer_auth(&self.token);
                if let Some(body) = body {
                    request = request.header("content-type", "application/json").body(body);
                }
                let response = request.send().await?;
                Ok((response.status().as_u16(), response.bytes().await?))
            }
            Server::Sim(router) => {
                let request = axum::http::Request::builder().method(method).uri(path);
                let request =
                    request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
                let request = request.body(body.map_or_else(Body::empty, Body::from))?;
                let response = router.clone().oneshot(request).await?;
                let status = response.status().as_u16();
                Ok((status, axum::body::to_bytes(response.into_body(), 1 << 24).await?))
            }
        }
    }
}

/// Percent-encodes a segment; one that has `%` in it is as it should be.
fn encode(segment: &str) -> String {
    if segment.contains('%') {
        return segment.to_owned();
    }
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    segment.bytes().map(encode).collect()
}

/// Asks both and notes what differs.
async fn both(
    real: &mut Asked,
    sim: &mut Asked,
    ids: &mut Ids,
    steps: Vec<Step>,
) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for step in steps {
        let (status, theirs) = real.ask(&step).await?;
        let (our_status, ours) = sim.ask(&step).await?;
        let who = if step.who.is_empty() { "bot" } else { step.who };
        let path: String = step.path.chars().take(90).collect();
        let what = format!("{} {path} by {who}", step.method);
        if (status, &theirs["errcode"]) != (our_status, &ours["errcode"]) {
            found.push(format!("{what}\n    {our_status} {ours}\n    Synapse: {status} {theirs}"));
        } else if !step.loose {
            let differences = ids.compare("", &theirs, &ours);
            found.extend(differences.into_iter().map(|line| format!("{what}\n    {line}")));
        }
    }
    Ok(found)
}

#[tokio::test]
async fn the_simulator_answers_and_sends_as_synapse_does() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("no workspace")?;
    let Some(python) = Synapse::venv(&root.join("target"))? else { return Ok(()) };
    let registration = Registration::new("gitter")?;
    let (port, token) = (registration.appservice_port, registration.appservice_token.clone());
    let (theirs, ours) = (Heard::default(), Heard::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let router = appservice(theirs.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut synapse = Synapse::start(SynapseConfig::new(python, vec![registration])).await?;
    let config = Config {
        latency_ms: 0..=0,
        push_delay_ms: 0..=0,
        as_token: token.clone(),
        ..Config::default()
    };
    let home = HomeserverSim::start(config);
    home.world().connect_router(appservice(ours.clone()));

    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build()?;
    let server = Server::Real(client, synapse.url.clone());
    let mut real = Asked { server, token: token.clone(), saved: BTreeMap::new() };
    let mut sim = Asked { server: Server::Sim(home.router()), token, saved: BTreeMap::new() };
    let mut ids = Ids::default();
    let mut found = both(&mut real, &mut sim, &mut ids, steps::users()).await?;
    for (version, room, prefix) in [(10, "ten", "a"), (11, "eleven", "b"), (12, "twelve", "c")] {
        let steps = steps::portal(version, room, prefix);
        found.extend(both(&mut real, &mut sim, &mut ids, steps).await?);
    }
    found.extend(both(&mut real, &mut sim, &mut ids, steps::oddities()).await?);
    found.extend(both(&mut real, &mut sim, &mut ids, steps::sent_before()).await?);
    // What was sent is compared before the restart: transactions under way then are another matter.
    settled(&theirs, &ours).await;
    synapse.restart().await?;
    home.world().restart();
    found.extend(both(&mut real, &mut sim, &mut ids, steps::sent_before()).await?);
    settled(&theirs, &ours).await;
    let ((theirs, they_asked), (ours, we_asked)) = (events(&theirs), events(&ours));
    if they_asked != we_asked {
        found.push(format!("asked for {we_asked:?}, Synapse {they_asked:?}"));
    }
    for ((room, theirs), (_, ours)) in theirs.iter().zip(&ours) {
        let (theirs, ours) = (Value::Array(theirs.clone()), Value::Array(ours.clone()));
        let lines = ids.compare("sent", &theirs, &ours);
        found.extend(lines.into_iter().map(|line| format!("transactions of {room}: {line}")));
    }
    if theirs.len() != ours.len() {
        found.push(format!("sent of {} rooms, Synapse of {}", ours.len(), theirs.len()));
    }
    if !found.is_empty() {
        bail!("{} differences:\n{}", found.len(), found.join("\n"));
    }
    Ok(())
}

/// Waits until both have sent as many events, or nothing more comes.
async fn settled(theirs: &Heard, ours: &Heard) {
    let count =
        |heard: &Heard| events(heard).0.iter().map(|(_, events)| events.len()).sum::<usize>();
    let mut look = tokio::time::interval(Duration::from_millis(100));
    let (mut last, mut same) = ((0, 0), 0);
    while same < 20 {
        look.tick().await;
        let now = (count(theirs), count(ours));
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
}
