//! The route against a homeserver's good and bad answers.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::atomic::{AtomicI64, Ordering},
};

use axum::{body::to_bytes, http::Request};
use reconcile::model::{Link, Millis, PortalKey};
use ruma::{event_id, mxc_uri, user_id};
use store::{SealKey, Store};
use tower::ServiceExt as _;
use url::Url;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{any, header as sent, path},
};

use super::*;

/// The bytes of the file; links are to at most 1000.
const BYTES: &[u8] = b"0123456789";
const UPSTREAM: &str = "/_matrix/client/v1/media/download/example.org/AbC";

/// The route, and one homeserver behind it.
struct World {
    router: Router,
    db: Db,
    now_ms: Arc<AtomicI64>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// `None` when it broke off.
    body: Option<Vec<u8>>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    fn body(&self) -> &[u8] {
        self.body.as_deref().expect("a body that did not break off")
    }
}

impl World {
    fn at(homeserver: &str) -> Self {
        Self::with(homeserver, Some(token::tests::links()))
    }

    fn with(homeserver: &str, links: Option<MediaLinks>) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .tls_certs_only([])
            .no_proxy()
            .build()
            .expect("a client");
        let bot = user_id!("@gitter:example.org").to_owned();
        let homeserver = Url::parse(homeserver).expect("an address");
        let client =
            Client::new(http, homeserver, "as-secret".into(), bot.clone(), "gitter".into());
        let db = Db::new(Store::in_memory(SealKey::new([1; 32])).expect("a store"));
        let now_ms = Arc::new(AtomicI64::new(1_000));
        let clock = Arc::clone(&now_ms);
        let config = WebConfig {
            login_url: "https://bridge.example.org/gitter/".parse().expect("an address"),
            oauth_url: "https://gitter.im/login/oauth/".parse().expect("an address"),
            oauth_key: "the-key".into(),
            oauth_secret: "the-secret".into(),
            bot,
            link_key: [9; 32].into(),
            exchange_timeout: Duration::from_secs(1),
            clock: Arc::new(move || clock.load(Ordering::SeqCst)),
        };
        let router = router(&config, links, client, db.clone());
        Self { router, db, now_ms }
    }

    /// What a stripping proxy passes on.
    fn path() -> String {
        let event = event_id!("$abc:example.org");
        let mxc = mxc_uri!("mxc://example.org/AbC");
        let url = token::tests::links().link(mxc, event, "my cät.png", 1_000).expect("a link");
        url.path().strip_prefix("/gitter").expect("the base's path").to_owned()
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        self.router.clone().oneshot(request).await.expect("never fails")
    }

    async fn get_with(&self, headers: &[(&str, &str)]) -> Answer {
        read(self.ask("GET", &Self::path(), headers).await).await
    }

    async fn get(&self) -> Answer {
        self.get_with(&[]).await
    }
}

async fn read(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.ok().map(|body| body.to_vec());
    Answer { status: parts.status, headers: parts.headers, body }
}

fn file(kind: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(BYTES, kind).insert_header("etag", "\"v1\"")
}

fn part(range: &str, bytes: &[u8]) -> ResponseTemplate {
    ResponseTemplate::new(206)
        .set_body_raw(bytes, "image/png")
        .insert_header("content-range", range)
}

async fn homeserver(answer: ResponseTemplate) -> (MockServer, World) {
    let server = MockServer::builder().start().await;
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let world = World::at(&server.uri());
    (server, world)
}

/// A server that answers one request with just these bytes, and hangs up.
fn raw(answer: &[u8]) -> World {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let answer = answer.to_vec();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = Vec::new();
        let mut some = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let read = stream.read(&mut some).expect("a request");
            request.extend_from_slice(&some[..read]);
        }
        // The other end may hang up first.
        let _ = stream.write_all(&answer);
    });
    World::at(&format!("http://127.0.0.1:{port}"))
}

#[tokio::test]
async fn a_file_is_fetched_with_the_token_and_passed_on() {
    let server = MockServer::builder().start().await;
    Mock::given(path(UPSTREAM))
        .and(sent("authorization", "Bearer as-secret"))
        .respond_with(file("image/png; charset=x"))
        .expect(1)
        .mount(&server)
        .await;
    let answer = World::at(&server.uri()).get().await;
    assert_eq!((answer.status, answer.body()), (StatusCode::OK, BYTES));
    let rows = [
        ("content-type", "image/png"),
        ("content-length", "10"),
        (
            "content-disposition",
            "inline; filename=\"my c_t.png\"; filename*=UTF-8''my%20c%C3%A4t.png",
        ),
        ("etag", "\"v1\""),
        ("accept-ranges", "bytes"),
        ("cache-control", "private, max-age=60"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-robots-tag", "noindex, nofollow"),
        ("cross-origin-resource-policy", "cross-origin"),
    ];
    for (name, value) in rows {
        assert_eq!(answer.header(name), value, "header: {name}");
    }
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("sandbox; default-src 'none'; "), "{policy}");
}

#[tokio::test]
async fn only_pictures_sounds_and_films_are_shown() {
    let rows = [
        ("image/png", true),
        ("IMAGE/JPEG", true),
        ("video/webm", true),
        ("audio/ogg; codecs=opus", true),
        ("image/svg+xml", false),
        ("text/html", false),
        ("text/html; image/png", false),
        ("application/pdf", false),
        ("image/png, text/html", false),
        ("", false),
    ];
    for (kind, shown) in rows {
        let (_server, world) = homeserver(file(kind)).await;
        let answer = world.get().await;
        let (found, how) = (answer.header("content-type"), answer.header("content-disposition"));
        if shown {
            assert!(kind.to_lowercase().starts_with(found), "row: {kind} is {found}");
            assert!(how.starts_with("inline; "), "row: {kind} is {how}");
        } else {
            assert_eq!(found, "application/octet-stream", "row: {kind}");
            assert!(how.starts_with("attachment; "), "row: {kind} is {how}");
        }
        assert!(answer.header("content-security-policy").starts_with("sandbox; "), "row: {kind}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "row: {kind}");
    }
}

#[tokio::test]
async fn a_part_is_cut_out_where_the_homeserver_knows_no_parts() {
    let rows = [
        ("bytes=2-5", 206, "bytes 2-5/10", "2345"),
        ("bytes=7-", 206, "bytes 7-9/10", "789"),
        ("bytes=-3", 206, "bytes 7-9/10", "789"),
        ("bytes=0-0", 206, "bytes 0-0/10", "0"),
        ("bytes=10-", 416, "bytes */10", ""),
        ("bytes=0-1,4-5", 200, "", "0123456789"),
        ("bytes=5-2", 200, "", "0123456789"),
        ("nonsense", 200, "", "0123456789"),
    ];
    for (range, status, content_range, bytes) in rows {
        let (_server, world) = homeserver(file("image/png")).await;
        let answer = world.get_with(&[("range", range)]).await;
        assert_eq!(answer.status.as_u16(), status, "row: {range}");
        assert_eq!(answer.header("content-range"), content_range, "row: {range}");
        assert_eq!(answer.body(), bytes.as_bytes(), "row: {range}");
        if status != 416 {
            assert_eq!(answer.header("content-length"), bytes.len().to_string(), "row: {range}");
        }
    }
}

#[tokio::test]
async fn a_part_of_the_homeservers_is_passed_on_if_it_makes_sense() {
    let none = ResponseTemplate::new(416);
    let unknown = none.clone().insert_header("content-range", "bytes */10");
    // What the homeserver answers to `bytes=2-5`.
    let rows = [
        ("a part", part("bytes 2-5/10", b"2345"), 206, "bytes 2-5/10"),
        ("of less", part("bytes 2-3/4", b"23"), 206, "bytes 2-3/4"),
        ("nothing there", unknown, 416, "bytes */10"),
        ("nothing there, of what size", none, 416, "bytes */*"),
        ("too large as a whole", part("bytes 2-5/1001", b"2345"), 413, ""),
        ("of no known size", part("bytes 2-5/*", b"2345"), 502, ""),
        ("another length", part("bytes 2-5/10", b"23456"), 502, ""),
        ("beyond the end", part("bytes 8-11/10", b"8901"), 502, ""),
        ("no range", ResponseTemplate::new(206).set_body_bytes(b"2345"), 502, ""),
    ];
    for (name, answer, status, content_range) in rows {
        let server = MockServer::builder().start().await;
        Mock::given(sent("range", "bytes=2-5")).respond_with(answer).mount(&server).await;
        let answer = World::at(&server.uri()).get_with(&[("range", "bytes=2-5")]).await;
        assert_eq!(answer.status.as_u16(), status, "row: {name}");
        assert_eq!(answer.header("content-range"), content_range, "row: {name}");
    }
    let (_server, world) = homeserver(part("bytes 2-5/10", b"2345")).await;
    assert_eq!(world.get().await.status, 502, "a part nobody asked for");
}

#[tokio::test]
async fn a_version_decides_what_is_sent_again() {
    type Row<'r> = (&'r [(&'r str, &'r str)], u16, &'r str);
    let (server, world) = homeserver(file("image/png")).await;
    let rows: [Row<'_>; 7] = [
        (&[("if-none-match", "\"v1\"")], 304, ""),
        (&[("if-none-match", "\"v0\", W/\"v1\"")], 304, ""),
        (&[("if-none-match", "*")], 304, ""),
        (&[("if-none-match", "\"v0\"")], 200, "0123456789"),
        (&[("range", "bytes=2-5"), ("if-range", "\"v1\"")], 206, "2345"),
        (&[("range", "bytes=2-5"), ("if-range", "\"v0\"")], 200, "0123456789"),
        (&[("range", "bytes=2-5"), ("if-range", "W/\"v1\"")], 200, "0123456789"),
    ];
    for (headers, status, body) in rows {
        let answer = world.get_with(headers).await;
        assert_eq!(answer.status.as_u16(), status, "row: {headers:?}");
        assert_eq!(answer.body(), body.as_bytes(), "row: {headers:?}");
    }
    let requests = server.received_requests().await.expect("recorded");
    assert!(requests.iter().all(|request| !request.headers.contains_key("range")));
}

#[tokio::test]
async fn who_asks_for_the_head_gets_no_body_and_no_part() {
    let (_server, world) = homeserver(file("image/png")).await;
    let answer = read(world.ask("HEAD", &World::path(), &[("range", "bytes=2-5")]).await).await;
    assert_eq!((answer.status, answer.body()), (StatusCode::OK, &b""[..]));
    assert_eq!(answer.header("content-length"), "10");
    assert_eq!(answer.header("content-type"), "image/png");
}

#[tokio::test]
async fn what_is_too_large_is_not_passed_on() {
    let large = ResponseTemplate::new(200).set_body_raw(vec![b'x'; 1001], "image/png");
    let (_server, world) = homeserver(large).await;
    assert_eq!(world.get().await.status, StatusCode::PAYLOAD_TOO_LARGE);
    for (length, fits) in [(1000, true), (1001, false), (300_000, false)] {
        let mut answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
        answer.extend(vec![b'x'; length]);
        let answer = raw(&answer).get().await;
        assert_eq!(answer.status, StatusCode::OK, "its size was not announced");
        assert_eq!(answer.body.is_some(), fits, "{length} bytes");
        assert_eq!(answer.header("content-length"), "");
    }
}

#[tokio::test]
async fn half_a_file_is_no_file() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234";
    let answer = raw(head.as_bytes()).get().await;
    assert_eq!((answer.status, answer.header("content-length")), (StatusCode::OK, "10"));
    assert_eq!(answer.body, None, "it breaks off");
    let answer = raw(head.as_bytes()).get_with(&[("range", "bytes=1-3")]).await;
    assert_eq!(answer.body(), b"123", "what was asked for was there");
    let answer = raw(head.as_bytes()).get_with(&[("range", "bytes=1-7")]).await;
    assert_eq!(answer.body, None, "it breaks off");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n";
    assert_eq!(raw(chunked.as_bytes()).get().await.body, None, "its last chunk never came");
}

#[tokio::test]
async fn every_failure_of_the_homeserver_has_its_page() {
    let error = |status, code: &str| {
        ResponseTemplate::new(status).set_body_json(serde_json::json!({"errcode": code}))
    };
    let html = |status| ResponseTemplate::new(status).set_body_raw("<html>", "text/html");
    let rows = [
        ("not there", error(404, "M_NOT_FOUND"), 404, "This file is gone"),
        ("not uploaded yet", error(504, "M_NOT_YET_UPLOADED"), 502, "The file can’t be fetched"),
        ("too large for it", error(413, "M_TOO_LARGE"), 413, "This file is too large"),
        ("token refused", error(401, "M_UNKNOWN_TOKEN"), 502, "The file can’t be fetched"),
        ("slow down", error(429, "M_LIMIT_EXCEEDED"), 503, "Too many files at once"),
        ("broken", error(500, "M_UNKNOWN"), 502, "The file can’t be fetched"),
        ("a proxy's 502", html(502), 502, "The file can’t be fetched"),
        ("a proxy's 404", html(404), 502, "The file can’t be fetched"),
        ("moved", html(307), 502, "The file can’t be fetched"),
    ];
    for (name, answer, status, title) in rows {
        let (_server, world) = homeserver(answer).await;
        let answer = world.get().await;
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        assert_eq!(answer.status.as_u16(), status, "row: {name}");
        assert!(body.contains(&format!("<h1>{title}</h1>")), "row: {name}: {body}");
        assert_eq!(answer.header("cache-control"), "no-store", "row: {name}");
        assert_eq!(answer.header("retry-after").is_empty(), status != 503, "row: {name}");
        assert!(!body.contains("as-secret") && !body.contains("Go to the bot"), "row: {name}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one");
    let answer = World::at(&format!("http://{nobody}")).get().await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "nobody there");
}

#[tokio::test(start_paused = true)]
async fn a_homeserver_that_says_nothing_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let answer = World::at(&format!("http://{address}")).get().await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn a_redirect_is_followed_once_and_without_the_token() {
    let (store, _) = homeserver(file("image/png")).await;
    let to = format!("{}/bucket/file?signed=1", store.uri());
    let away = ResponseTemplate::new(307).insert_header("location", to.as_str());
    let (_server, world) = homeserver(away).await;
    let answer = world.get_with(&[("range", "bytes=2-5")]).await;
    assert_eq!((answer.status, answer.body()), (StatusCode::PARTIAL_CONTENT, &b"2345"[..]));
    let requests = store.received_requests().await.expect("recorded");
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].url.path(), "/bucket/file");
    assert!(!requests[0].headers.contains_key("authorization"));
    let round = MockServer::builder().start().await;
    let again = ResponseTemplate::new(308).insert_header("location", "/again");
    Mock::given(any()).respond_with(again).mount(&round).await;
    assert_eq!(World::at(&round.uri()).get().await.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn a_link_that_is_not_good_leads_nowhere() {
    let (server, world) = homeserver(file("image/png")).await;
    let good = World::path();
    let rows = [
        ("another name", good.replace(".png", ".exe"), 404),
        ("another token", good.replace("/media/A", "/media/B"), 404),
        ("bytes that are no text", good.replace("my%20", "%FF"), 404),
        ("no name", good.rsplit_once('/').expect("a name").0.to_owned(), 404),
    ];
    for (name, path, status) in rows {
        assert_ne!(path, good, "row: {name}");
        let answer = read(world.ask("GET", &path, &[]).await).await;
        assert_eq!(answer.status.as_u16(), status, "row: {name}");
    }
    let posted = read(world.ask("POST", &good, &[]).await).await;
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
    world.now_ms.store(61_000, Ordering::SeqCst);
    let expired = world.get().await;
    assert_eq!(expired.status, StatusCode::GONE);
    let page = String::from_utf8_lossy(expired.body()).into_owned();
    assert!(page.contains("<h1>This link has expired</h1>"), "{page}");
    let off = World::with(&server.uri(), None).get().await;
    assert_eq!(off.status, StatusCode::GONE);
    let page = String::from_utf8_lossy(off.body()).into_owned();
    assert!(page.contains("<h1>Files are not shown here</h1>"), "{page}");
    let asked = server.received_requests().await.expect("recorded");
    assert!(asked.is_empty(), "the homeserver was asked: {asked:?}");
}

fn link(message: &str, part: u32, gone: bool) -> Link {
    let account = user_id!("@alice:example.org").to_owned();
    Link {
        portal: PortalKey::new(account, "53307860c3599d1de448e19d".parse().expect("an id")),
        message: message.parse().expect("an id"),
        event: event_id!("$abc:example.org").to_owned(),
        part,
        from_matrix: true,
        version: 1,
        digest: 0,
        parent: None,
        sender: None,
        lead: String::new(),
        images: Vec::new(),
        gone,
    }
}

#[tokio::test]
async fn a_deleted_message_takes_its_file_along() {
    let (one, two) = ("53316dc47bfc1a000000000a", "53316dc47bfc1a000000000b");
    let (_server, world) = homeserver(file("image/png")).await;
    let rows = [
        ("sent", vec![link(one, 0, false), link(two, 1, false)], 200),
        ("shortened", vec![link(two, 1, true)], 200),
        ("deleted on Gitter", vec![link(one, 0, true)], 410),
    ];
    for (name, links, status) in rows {
        let change =
            move |t: &mut store::WriteTxn<'_>| links.iter().try_for_each(|l| t.put_link(l));
        world.db.change(change).await.expect("written");
        assert_eq!(world.get().await.status.as_u16(), status, "row: {name}");
    }
    let (_server, world) = homeserver(file("image/png")).await;
    let burn = |event: &'static EventId| {
        world.db.change(move |t| t.burn_nonce(&revocation(event), Millis(100_000)))
    };
    burn(event_id!("$other:example.org")).await.expect("written");
    assert_eq!(world.get().await.status, StatusCode::OK);
    burn(event_id!("$abc:example.org")).await.expect("written");
    let answer = world.get().await;
    assert_eq!(answer.status, StatusCode::GONE);
    let page = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(page.contains("<h1>This file was taken back</h1>"), "{page}");
}

#[tokio::test]
async fn only_so_many_files_are_passed_on_at_once() {
    let (_server, world) = homeserver(file("image/png")).await;
    let mut open = Vec::new();
    for _ in 0..AT_ONCE {
        open.push(world.ask("GET", &World::path(), &[]).await);
    }
    tokio::time::pause();
    let busy = world.get().await;
    tokio::time::resume();
    assert_eq!(busy.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(busy.header("retry-after"), AGAIN);
    open.pop();
    assert_eq!(world.get().await.status, StatusCode::OK);
}
