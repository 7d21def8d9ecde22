//! The simulator answers as the recordings of the real Gitter do.

mod compare;
mod faye;
mod rest;
mod seed;
mod story;

use gitter_sim::{GitterSim, RoomSpec, World};

use rest::{Exchange, Replay, section};
use serde_json::json;

/// Recordings that are not replayed (`*`), or keys of which the type alone is compared, and why.
const EXEMPT: &[(&str, &[&str], &str)] = &[
    ("01-users-profile", &["*"], "500 only because GitHub could not be reached from there"),
    ("04-post-markdown", &["html"], "Gitter melts lists in a row into one"),
    ("04-post-code-inline-and-block", &["html"], "code is not highlighted here"),
    ("04-post-latex", &["html"], "no KaTeX here"),
    ("05-thread-around-child", &["html"], "contains the messages above"),
    ("08-lookup-new", &["userCount"], "the count lagged behind there"),
    ("09-revoked-token-just-after", &["*"], "no cache of tokens: a revoked one is refused at once"),
    ("11-faye-callback-polling", &["*"], "no JSONP"),
    ("11-faye-idle-long-poll", &["*"], "waits for minutes"),
    ("11-faye-idle-websocket", &["*"], "waits for minutes"),
    ("11-faye-no-connect", &["*"], "waits for minutes"),
    ("11-faye-odd-frames", &["*"], "answers come in order here, the heartbeat's overtook there"),
    ("11-faye-live-presence", &["*"], "other sessions of the recorder were present as well"),
    ("11-faye-live-removals", &["c", "userCount"], "counts presence of other sessions too"),
    (
        "11-faye-live-room-and-user-as-alice",
        &["c", "userCount", "totalUnreadItems", "unreadItems"],
        "counts presence and messages of other sessions too",
    ),
    (
        "11-faye-live-room-and-user-as-bob",
        &["c", "userCount", "totalUnreadItems", "unreadItems"],
        "counts presence and messages of other sessions too",
    ),
];

async fn play_all(replay: &mut Replay, exchanges: &[Exchange]) {
    for exchange in exchanges {
        replay.play(exchange).await;
    }
}

fn split_at<'a>(all: &'a [Exchange], name: &str) -> (&'a [Exchange], &'a [Exchange]) {
    let at = all.iter().position(|e| e.name() == name);
    all.split_at(at.unwrap_or_else(|| panic!("no recording {name}")))
}

fn finish(what: &str, replay: &Replay) {
    println!("{what}: {} recordings replayed", replay.replayed);
    let wrong = replay.wrong.len();
    assert!(wrong == 0, "{wrong} of {} differ:\n{}", replay.replayed, replay.wrong.join("\n"));
}

#[tokio::test]
async fn rest_answers_are_the_recorded_ones() {
    let (sim, world) = seed::start().await;
    let mut replay = Replay::new(&sim);
    for number in ["01", "02", "03"] {
        play_all(&mut replay, &section(number)).await;
    }
    messages(&mut replay, &world).await;
    unread(&mut replay, &world).await;
    let events = section("07");
    let (bans, webhook) = split_at(&events, "07-events-webhook");
    play_all(&mut replay, bans).await;
    let meta = json!({"service": "bans", "event": "banned", "bannedUser": "erin",
        "prerendered": true, "performingUser": "alice"});
    world.add_event("acme/stream", "@alice banned @erin", meta, None);
    let meta = json!({"type": "webhook", "service": "github", "event": "push",
        "repo": "acme/widgets"});
    let text = "[octocat](http://example.com/octocat) pushed 1 commit";
    world.add_event("acme/stream", text, meta, Some(json!({"ref": "refs/heads/master"})));
    play_all(&mut replay, webhook).await;
    play_all(&mut replay, &section("08")).await;
    let id = world.post("alice", "acme/widgets", "too old soon");
    replay.ids.insert("6b02cb44b21b633c6deccab8", &id);
    removals(&mut replay, &world).await;
    let edits = section("05");
    let (_, late) = split_at(&edits, "05-edit-after-10-minutes");
    world.advance_clock(601_000);
    play_all(&mut replay, late).await;
    finish("rest", &replay);
}

async fn messages(replay: &mut Replay, world: &World) {
    let posts = section("04");
    let (posts, lists) = split_at(&posts, "04-list-default");
    play_all(replay, posts).await;
    let path = format!("{}/recordings/04-seed.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the seed");
    let seed: Vec<(String, String)> = serde_json::from_str(&text).expect("JSON");
    for (recorded, text) in seed {
        replay.ids.insert(&recorded, &world.post("alice", "acme/crowd", &text));
    }
    play_all(replay, lists).await;
    let id = world.post("carol", "acme/widgets", "from carol");
    replay.ids.insert("6b02cad5b21b633c6decca71", &id);
    let edits = section("05");
    let (edits, _) = split_at(&edits, "05-edit-after-10-minutes");
    play_all(replay, edits).await;
}

async fn unread(replay: &mut Replay, world: &World) {
    let first = world.post("alice", "gitterHQ/gitter", "unread one");
    let second = world.post("alice", "gitterHQ/gitter", "unread @bob");
    replay.ids.insert("6b02caf8b21b633c6decca90", &first);
    replay.ids.insert("6b02caf8b21b633c6decca92", &second);
    play_all(replay, &section("06")).await;
}

async fn removals(replay: &mut Replay, world: &World) {
    let young = format!("{:08x}8f5f0448fa73b0a3", world.clock() / 1000);
    world.add_user_with_id(&young, "newbie", "New Bie");
    replay.ids.insert("6b02cb9b8f5f0448fa73b0a3", &young);
    replay.tokens = seed::our_tokens(world);
    world.join("acme/stream", "newbie");
    for _ in 0..9 {
        world.post("newbie", "acme/stream", "the same sentence again and again");
    }
    let all = section("12");
    let (spam, rest) = split_at(&all, "12-user-delete");
    play_all(replay, spam).await;
    for (user, text, recorded) in [
        ("leaver", "written before leaving", "6b02cbd2b21b633c6deccad9"),
        ("leaver2", "written before leaving, ghost", "6b02cbd2b21b633c6deccadb"),
    ] {
        world.join("acme/stream", user);
        replay.ids.insert(recorded, &world.post(user, "acme/stream", text));
    }
    world.add_room(RoomSpec {
        id: Some("5f000000000000000000e00a".into()),
        admins: vec!["alice".into()],
        ..RoomSpec::public("acme/doomed")
    });
    world.join("acme/doomed", "bob");
    play_all(replay, rest).await;
}

#[tokio::test]
async fn tokens_errors_and_limits_are_the_recorded_ones() {
    let (sim, world) = seed::start().await;
    let mut replay = Replay::new(&sim);
    let all = section("09");
    let (before, limits) = split_at(&all, "09-ratelimit-001");
    for exchange in before {
        match exchange.name() {
            "09-etag" => {
                let etag = etag(&sim, &world).await;
                let with =
                    |text: &str| if text.starts_with("W/") { etag.clone() } else { text.into() };
                replay.play_with(exchange, with).await;
            }
            "09-revoked-token-later" => {
                let token = world.token_for("revoked", "bridge-client-key");
                assert!(world.revoke_token(&token));
                let with = |text: &str| {
                    if text.starts_with("Bearer") { format!("Bearer {token}") } else { text.into() }
                };
                replay.play_with(exchange, with).await;
            }
            _ => drop(replay.play(exchange).await),
        }
    }
    world.set_rate_limit(Some(100));
    world.reset_rate_limits();
    for exchange in limits {
        let spent = match exchange.name() {
            "09-ratelimit-100" => 98,
            "09-ratelimit-103" => 1,
            "09-ratelimit-after-reset" => {
                world.advance_clock(61_000);
                0
            }
            "09-ratelimit-per-client-limited" => 100,
            _ => 0,
        };
        let who = if exchange.name().contains("per-client") { "carol" } else { "ratelimited" };
        let token = world.token_for(who, "bridge-client-key");
        for _ in 0..spent {
            get(&sim, &token).await;
        }
        replay.play(exchange).await;
    }
    finish("tokens and limits", &replay);
}

async fn get(sim: &GitterSim, token: &str) -> reqwest::Response {
    let http = reqwest::Client::builder().tls_certs_only([]).build().expect("a client");
    let url = format!("{}/user/me", sim.api_url());
    http.get(url).bearer_auth(token).send().await.expect("an answer")
}

async fn etag(sim: &GitterSim, world: &World) -> String {
    let answer = get(sim, &world.token_for("bob", "bridge-client-key")).await;
    answer.headers()["etag"].to_str().expect("text").into()
}

/// Signs in through the page and returns the session's cookie.
async fn sign_in(sim: &GitterSim, user: &str) -> String {
    let http = reqwest::Client::builder()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client");
    let form = [("user", user)];
    let answer = http.post(format!("{}/login", sim.web_url())).form(&form).send().await;
    let answer = answer.expect("an answer");
    let cookie = answer.headers()["set-cookie"].to_str().expect("text");
    cookie.split(';').next().expect("a cookie").into()
}

/// The field of the consent page that names the transaction.
fn transaction(page: &serde_json::Value) -> String {
    let page = page.as_str().expect("a page");
    let at = page.split("name=\"transaction_id\" type=\"hidden\" value=\"").nth(1);
    at.and_then(|t| t.get(..8)).expect("a transaction").into()
}

fn code(location: &serde_json::Value) -> String {
    let location = location.as_str().expect("a location");
    location.split("code=").nth(1).and_then(|c| c.get(..40)).expect("a code").into()
}

#[tokio::test]
async fn the_oauth_flow_is_the_recorded_one() {
    let (sim, _) = seed::start().await;
    let mut replay = Replay::new(&sim);
    let all = section("10");
    let dialog = all.iter().find(|e| e.name() == "10-oauth-authorize-dialog").expect("the dialog");
    let allow = all.iter().find(|e| e.name() == "10-oauth-decision-allow").expect("the consent");
    let (alice, frank) = (sign_in(&sim, "alice").await, sign_in(&sim, "frank").await);
    let (mut last_transaction, mut last_code) = (String::new(), String::new());
    let mut spare = Replay::new(&sim);
    for exchange in &all {
        let name = exchange.name();
        let anonymous =
            name.contains("logged-out") || name.contains("-token-") || name.contains("use-new");
        replay.cookie = (!anonymous).then(|| alice.clone());
        // The recorded runs got codes and transactions off the record.
        let fresh =
            ["token-json", "token-accept", "token-get", "token-query", "first-time", "token-new"];
        if fresh.iter().any(|f| name.contains(f)) || name.contains("decision-deny") {
            let who = if name.contains("first") || name.contains("new") { &frank } else { &alice };
            spare.cookie = Some(who.clone());
            let other = name.contains("token-new");
            let deny = name.contains("decision-deny");
            let client = |text: &str| {
                let text =
                    if deny { text.replace("st-1+%26+%22x%22", "st-2") } else { text.into() };
                if !other || !text.contains("authorize?") {
                    return text;
                }
                text.replace("bridge-client-key", "other-client-key").replace("callback", "other")
            };
            last_transaction = transaction(&spare.play_with(dialog, client).await);
            if !name.contains("decision-deny") {
                let form = format!("transaction_id={last_transaction}");
                let with = |text: &str| replace_after(text, "transaction_id=", &form);
                spare.wrong.clear();
                last_code = code(&spare.play_with(allow, with).await);
            }
        }
        let burnt = ["bad-code", "bad-transaction", "no-transaction", "logged-out"];
        let keep = burnt.iter().any(|b| name.contains(b));
        let (known_transaction, known_code) = (last_transaction.clone(), last_code.clone());
        let with = |text: &str| {
            if keep {
                return text.to_owned();
            }
            let text = replace_value(text, "transaction_id=", &known_transaction);
            let text = replace_value(&text, "code=", &known_code);
            replace_json(&text, "\"code\": \"", &known_code)
        };
        let answer = replay.play_with(exchange, with).await;
        match name {
            "10-oauth-authorize-dialog" => last_transaction = transaction(&answer),
            "10-oauth-decision-allow" => last_code = code(&answer),
            _ => {}
        }
    }
    finish("oauth", &replay);
}

fn replace_after(text: &str, key: &str, whole: &str) -> String {
    if text.starts_with(key) { whole.into() } else { text.into() }
}

/// Replaces the value of a form field, if it is there and not `response_type=code`.
fn replace_value(text: &str, key: &str, value: &str) -> String {
    let start = text.find(&format!("&{key}")).map(|i| i + 1);
    let Some(start) = start.or_else(|| text.starts_with(key).then_some(0)) else {
        return text.into();
    };
    let from = start + key.len();
    let to = text[from..].find('&').map_or(text.len(), |i| from + i);
    format!("{}{value}{}", &text[..from], &text[to..])
}

fn replace_json(text: &str, key: &str, value: &str) -> String {
    let Some(from) = text.find(key).map(|i| i + key.len()) else { return text.into() };
    let to = text[from..].find('"').map_or(text.len(), |i| from + i);
    format!("{}{value}{}", &text[..from], &text[to..])
}

#[test]
fn most_recordings_are_replayed() {
    let numbers = ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "12"];
    let names: Vec<String> = numbers
        .iter()
        .flat_map(|n| section(n))
        .map(|e| e.name().to_owned())
        .chain(faye::sessions().into_iter().map(|s| s.name))
        .collect();
    for (name, _, reason) in EXEMPT {
        assert!(names.iter().any(|n| n == name) && !reason.is_empty(), "stale exemption {name}");
    }
    let skipped = EXEMPT.iter().filter(|(_, keys, _)| keys == &["*"]).count();
    println!("{} of {} recordings are replayed", names.len() - skipped, names.len());
    assert_eq!(names.len(), 352);
    assert!(names.len() - skipped >= 330);
}
