//! The client against odd servers.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wiremock::matchers::{body_json, header, method, path, query_param};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;

const ROOM: &str = "5f000000000000000000e001";
const MESSAGE: &str = "6b02cac2b21b633c6decc9b0";
const DATE_TEXT: &str = "Sun, 22 Nov 2026 11:00:26 GMT";
const DATE_MS: i64 = 1_795_345_226_000;

fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .tls_certs_only([])
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("client")
}

fn account(url: &str) -> Account {
    let url = Url::parse(url).expect("url").join("v1/").expect("url");
    Rest::new(http(), url, 100).account("alice", SecretString::from("secret-token"))
}

async fn always(answer: ResponseTemplate) -> (MockServer, Account) {
    let server = MockServer::start().await;
    Mock::given(wiremock::matchers::any()).respond_with(answer).mount(&server).await;
    let account = account(&server.uri());
    (server, account)
}

fn said(error: &GitterError) -> String {
    match error {
        GitterError::Unavailable { maybe_done, status, .. } => {
            format!("unavailable {status:?} maybe {maybe_done}")
        }
        GitterError::Invalid { status } => format!("invalid {status:?}"),
        GitterError::Limited { retry_after } => format!("limited {}", retry_after.as_millis()),
        other => format!("{other:?}").chars().take_while(char::is_ascii_alphabetic).collect(),
    }
}

#[tokio::test]
async fn requests_look_as_gitter_wants_them() {
    let server = MockServer::start().await;
    let answer =
        ResponseTemplate::new(200).set_body_string(include_str!("../fixtures/message-edited.json"));
    Mock::given(method("POST"))
        .and(path(format!("/v1/rooms/{ROOM}/chatMessages")))
        .and(header("authorization", "Bearer secret-token"))
        .and(header("accept", "application/json"))
        .and(header("content-type", "application/json"))
        .and(body_json(json!({ "text": "Grüße", "parentId": MESSAGE })))
        .and(|request: &Request| {
            !request.headers.contains_key("transfer-encoding")
                && request.headers["content-length"] == request.body.len().to_string()
        })
        .respond_with(answer.clone())
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path(format!("/v1/rooms/{ROOM}/chatMessages")))
        .and(query_param("includeThreads", "true"))
        .and(query_param("limit", "100"))
        .and(query_param("afterId", MESSAGE))
        .respond_with(ResponseTemplate::new(200).set_body_string(format!(
            "[{},{{\"text\":\"no id\"}}]",
            include_str!("../fixtures/message-issues.json")
        )))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path("/v1/user/me/rooms"))
        .and(body_json(json!({ "id": ROOM })))
        .respond_with(
            ResponseTemplate::new(200)
                .set_body_string(include_str!("../fixtures/room-not-joined.json")),
        )
        .expect(1)
        .mount(&server)
        .await;
    let account = account(&server.uri());
    let message = NewMessage {
        text: "Grüße".to_owned(),
        parent_id: Some(MESSAGE.to_owned()),
        ..NewMessage::default()
    };
    assert_eq!(account.send(ROOM, &message).await.expect("sent").id, MESSAGE);
    let page = account.messages(ROOM, Page::After(MESSAGE, 500)).await.expect("page");
    assert_eq!(page.len(), 1);
    assert_eq!(account.join(ROOM).await.expect("joined").id, ROOM);
    assert!(!format!("{account:?}").contains("secret-token"));
}

#[tokio::test]
async fn errors_say_what_can_be_done() {
    let html = "<html><h1>502 Bad Gateway</h1></html>";
    let rows = [
        (
            ResponseTemplate::new(401).set_body_json(json!({ "error": "Unauthorized" })),
            "TokenRejected",
        ),
        (ResponseTemplate::new(401), "TokenRejected"),
        (ResponseTemplate::new(403), "Forbidden"),
        (ResponseTemplate::new(404).set_body_string("Cannot POST /v1/x"), "NotFound"),
        (
            ResponseTemplate::new(301).set_body_json(json!({ "error": "Moved Permanently" })),
            "Moved",
        ),
        (ResponseTemplate::new(302).insert_header("location", "/login"), "Moved"),
        (ResponseTemplate::new(400), "invalid Some(400)"),
        (ResponseTemplate::new(406), "invalid Some(406)"),
        (ResponseTemplate::new(413), "invalid Some(413)"),
        (ResponseTemplate::new(408), "unavailable Some(408) maybe false"),
        (ResponseTemplate::new(500), "unavailable Some(500) maybe true"),
        (
            ResponseTemplate::new(502).set_body_raw(html, "text/html"),
            "unavailable Some(502) maybe true",
        ),
        (ResponseTemplate::new(200).set_body_raw(html, "text/html"), "Malformed"),
        (ResponseTemplate::new(200).set_body_string("OK"), "Malformed"),
        (ResponseTemplate::new(200).set_body_string("null"), "Malformed"),
        (ResponseTemplate::new(200).set_body_json(json!([])), "Malformed"),
        (ResponseTemplate::new(200).set_body_json(json!({ "id": 5 })), "Malformed"),
        (ResponseTemplate::new(200).set_body_string("{\"id\":\"a\",\"text\":\"cut o"), "Malformed"),
        (ResponseTemplate::new(200).set_body_string("[".repeat(100_000)), "Malformed"),
        (ResponseTemplate::new(204), "Malformed"),
        (ResponseTemplate::new(429), "limited 60000"),
        (ResponseTemplate::new(429).insert_header("retry-after", "7"), "limited 7000"),
        (ResponseTemplate::new(429).insert_header("retry-after", "99999999"), "limited 120000"),
    ];
    let message = NewMessage { text: "x".to_owned(), ..NewMessage::default() };
    for (answer, expected) in rows {
        let row = format!("{answer:?}").chars().take(200).collect::<String>();
        let (_server, account) = always(answer).await;
        let error = account.send(ROOM, &message).await.expect_err("an error");
        assert_eq!(said(&error), expected, "row: {row}");
        let maybe = expected.ends_with("maybe true") || expected == "Malformed";
        assert_eq!(error.maybe_done(), maybe, "row: {row}");
        assert!(error.is_answer(), "row: {row}");
    }
}

#[tokio::test]
async fn a_refusal_waits_for_a_reset_in_milliseconds_and_no_nonsense() {
    let rows = [
        (Some((DATE_MS + 42_300).to_string()), "limited 42800"),
        (Some((DATE_MS - 300).to_string()), "limited 1000"),
        (Some((DATE_MS / 1000 + 42).to_string()), "limited 60000"),
        (Some((DATE_MS + 86_400_000).to_string()), "limited 60000"),
        (Some(i64::MAX.to_string()), "limited 60000"),
        (Some(i64::MIN.to_string()), "limited 60000"),
        (Some("soon".to_owned()), "limited 60000"),
        (None, "limited 60000"),
    ];
    for (reset, expected) in rows {
        let mut answer = ResponseTemplate::new(429).insert_header("date", DATE_TEXT);
        if let Some(reset) = &reset {
            answer = answer.insert_header("x-ratelimit-reset", reset.as_str());
        }
        let (server, account) = always(answer).await;
        let error = account.me().await.expect_err("limited");
        assert_eq!(said(&error), expected, "row: {reset:?}");
        let next = tokio::time::timeout(Duration::from_millis(50), account.me()).await;
        assert!(next.is_err(), "row: {reset:?}: nothing goes out before the reset");
        assert_eq!(server.received_requests().await.expect("recorded").len(), 1);
    }
}

#[tokio::test]
async fn an_account_shares_its_budget_and_nobody_elses() {
    let answer = ResponseTemplate::new(200)
        .set_body_string(include_str!("../fixtures/user-me.json"))
        .insert_header("date", DATE_TEXT)
        .insert_header("x-ratelimit-remaining", "0")
        .insert_header("x-ratelimit-reset", (DATE_MS + 30_000).to_string());
    let (server, _) = always(answer).await;
    let url = Url::parse(&server.uri()).expect("url").join("v1").expect("url");
    let rest = Rest::new(http(), url, 100);
    let alice = rest.account("alice", SecretString::from("t"));
    assert_eq!(alice.me().await.expect("me").username, "alice");
    drop(alice);
    let again = rest.clone().account("alice", SecretString::from("t"));
    let bob = rest.account("bob", SecretString::from("u"));
    let short = Duration::from_millis(50);
    assert!(tokio::time::timeout(short, again.me()).await.is_err(), "alice has none left");
    assert!(bob.me().await.is_ok());
    assert_eq!(server.received_requests().await.expect("recorded").len(), 2);
}

/// Answers each connection with these bytes and closes it.
async fn raw_server(answer: &'static [u8]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer).await;
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn half_answers_may_have_been_done_and_refused_connections_not() {
    let message = NewMessage { text: "x".to_owned(), ..NewMessage::default() };
    let rows: [(&'static [u8], &str); 4] = [
        (b"", "unavailable None maybe true"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "unavailable None maybe true"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"id\":\"a\"}",
            "unavailable None maybe true",
        ),
        (b"Hello, I speak no HTTP\r\n\r\n", "unavailable None maybe true"),
    ];
    for (answer, expected) in rows {
        let account = account(&raw_server(answer).await);
        let error = account.send(ROOM, &message).await.expect_err("broken");
        assert_eq!(said(&error), expected, "row: {:?}", String::from_utf8_lossy(answer));
    }
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = format!("http://{}", closed.local_addr().expect("address"));
    drop(closed);
    let error = account(&address).send(ROOM, &message).await.expect_err("nobody there");
    assert_eq!(said(&error), "unavailable None maybe false");
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let flood = Box::leak(
        [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b' '; MAX_ANSWER + 1]]
            .concat()
            .into_boxed_slice(),
    );
    let account = account(&raw_server(flood).await);
    assert_eq!(said(&account.rooms().await.expect_err("too long")), "Malformed");
}

#[tokio::test]
async fn nothing_but_an_id_gets_into_a_path_and_nothing_too_long_is_sent() {
    let (server, account) = always(ResponseTemplate::new(200)).await;
    let text = |text: String| NewMessage { text, ..NewMessage::default() };
    let errors = [
        account.room("..").await.map(drop),
        account.room("").await.map(drop),
        account.room("a/b").await.map(drop),
        account.join(&"a".repeat(65)).await.map(drop),
        account.message(ROOM, "x?y=z").await.map(drop),
        account.leave(ROOM, "matrix-vera:example.org").await,
        account.messages(ROOM, Page::Before("\n", 5)).await.map(drop),
        account.send(ROOM, &text(String::new())).await.map(drop),
        account.send(ROOM, &text("x".repeat(4097))).await.map(drop),
        account.send(ROOM, &text("😀".repeat(2049))).await.map(drop),
        account.edit(ROOM, MESSAGE, &"x".repeat(4097)).await.map(drop),
    ];
    for (row, result) in errors.into_iter().enumerate() {
        assert_eq!(said(&result.expect_err("refused")), "invalid None", "row: {row}");
    }
    account.mark_read(ROOM, &[]).await.expect("nothing to do");
    assert!(server.received_requests().await.expect("recorded").is_empty());
}

#[tokio::test]
async fn what_is_gone_already_is_fine() {
    let (_server, account) = always(ResponseTemplate::new(404)).await;
    account.leave(ROOM, "5f000000000000000000a001").await.expect("left already");
    account.delete(ROOM, MESSAGE).await.expect("deleted already");
    assert_eq!(account.message(ROOM, MESSAGE).await.expect("asked"), None);
    let (_server, account) = always(ResponseTemplate::new(204)).await;
    account.delete(ROOM, MESSAGE).await.expect("deleted");
}

#[tokio::test]
async fn members_come_once_each_from_overlapping_pages() {
    let server = MockServer::start().await;
    Mock::given(path(format!("/v1/rooms/{ROOM}/users")))
        .respond_with(|request: &Request| {
            let query: BTreeMap<_, _> = request.url.query_pairs().collect();
            let [skip, limit] = ["skip", "limit"].map(|key| query[key].parse().expect("number"));
            let users = (0..250_usize).skip(skip).take(limit);
            let users: Vec<_> = users.map(|user| json!({ "id": format!("u{user}") })).collect();
            ResponseTemplate::new(200).set_body_json(users)
        })
        .mount(&server)
        .await;
    let account = account(&server.uri());
    for (at_most, expected, calls) in
        [(1000, 250, 3), (7, 7, 1), (100, 100, 1), (150, 150, 2), (0, 0, 0)]
    {
        let before = server.received_requests().await.expect("recorded").len();
        let members = account.members(ROOM, at_most).await.expect("members");
        let ids: BTreeSet<_> = members.iter().map(|user| &user.id).collect();
        assert_eq!((members.len(), ids.len()), (expected, expected), "row: {at_most}");
        let requests = server.received_requests().await.expect("recorded");
        assert_eq!(requests.len() - before, calls, "row: {at_most}");
    }
}

#[tokio::test]
async fn a_server_that_repeats_one_page_of_members_for_ever_is_left() {
    let page: Vec<_> = (0..100).map(|user| json!({ "id": format!("u{user}") })).collect();
    let (server, account) = always(ResponseTemplate::new(200).set_body_json(page)).await;
    assert_eq!(account.members(ROOM, 10_000).await.expect("members").len(), 100);
    assert_eq!(server.received_requests().await.expect("recorded").len(), 2);
}

#[tokio::test]
async fn only_failures_that_speak_of_gitter_itself_are_an_outage() {
    let server = MockServer::start().await;
    let breaker = Arc::new(Breaker::new(reconcile::breaker::Side::Gitter));
    let url = Url::parse(&server.uri()).expect("url").join("v1/").expect("url");
    let rest = Rest::new(http(), url, 1000).minding(breaker.clone());
    let watched = tokio::spawn({
        let (breaker, rest) = (breaker.clone(), rest.clone());
        async move {
            let rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(1);
            breaker.watch(|| rest.probe(), || {}, rng).await;
        }
    });
    let account = |name: &str| rest.account(name, SecretString::from("secret-token"));
    let answer = async |status| {
        server.reset().await;
        let answer = ResponseTemplate::new(status);
        Mock::given(wiremock::matchers::any()).respond_with(answer).mount(&server).await;
    };
    for status in [401, 403, 404] {
        answer(status).await;
        for _ in 0..5 {
            account("alice").me().await.expect_err("refused");
        }
    }
    answer(429).await;
    account("carol").me().await.expect_err("limited");
    assert!(breaker.is_clear() && breaker.outages() == 0);
    answer(503).await;
    // Whichever account it is: they share the destination.
    for n in 0..50 {
        account(if n % 2 == 0 { "alice" } else { "bob" }).me().await.expect_err("away");
    }
    assert!(breaker.away().is_some());
    let error = account("bob").me().await.expect_err("away");
    assert!(!error.maybe_done() && Away::among(&error).is_some(), "{error:?}");
    let requests = server.received_requests().await.expect("recorded");
    let by_accounts = requests.iter().filter(|r| r.headers.contains_key("authorization")).count();
    assert_eq!(by_accounts, 3, "the rest is left to the probe");
    watched.abort();
}

#[tokio::test(start_paused = true)]
async fn a_call_for_many_does_not_wait_for_one_accounts_budget() {
    let url = Url::parse("http://127.0.0.1:9/v1/").expect("url");
    let account = Rest::new(http(), url, 100).account("alice", SecretString::from("token"));
    account.budget.refused(Duration::from_secs(50));
    let start = tokio::time::Instant::now();
    let told = account.clone().impatient().rooms().await;
    assert!(
        matches!(told, Err(GitterError::Limited { retry_after }) if retry_after.as_secs() == 50),
        "{told:?}"
    );
    assert!(start.elapsed().is_zero());
    let others = account.rooms();
    let waits = tokio::time::timeout(Duration::from_secs(40), others).await;
    assert!(waits.is_err(), "who has nobody else to serve waits");
}
