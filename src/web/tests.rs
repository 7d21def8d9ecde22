use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request},
};
use rand::{SeedableRng as _, rngs::StdRng};
use ruma::user_id;
use secrecy::ExposeSecret as _;
use tower::ServiceExt as _;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_string_contains, method, path},
};

use super::{pages::NoFile, *};

const START_MS: i64 = 1_600_000_000_000;
const TOKEN: &str = "0123456789abcdef0123456789abcdef01234567";

type Finish = fn() -> Result<LoggedIn, LoginError>;

/// Remembers what was burnt and who was logged in; ends logins as it is told.
#[derive(Clone)]
struct Desk {
    burnt: Arc<Mutex<BTreeSet<String>>>,
    finished: Arc<Mutex<Vec<(String, String)>>>,
    ending: Finish,
    works: bool,
}

impl Login for Desk {
    async fn burn(&self, nonce: &str, expires_ms: i64) -> Result<bool, BoxError> {
        if !self.works {
            return Err("the disk is full".into());
        }
        assert_eq!(nonce.len(), 22);
        assert!((START_MS..=START_MS + 2 * LIFETIME_MS).contains(&expires_ms));
        Ok(self.burnt.lock().expect("a lock").insert(nonce.to_owned()))
    }

    async fn finish(&self, account: &UserId, token: SecretString) -> Result<LoggedIn, LoginError> {
        let done = (account.to_string(), token.expose_secret().to_owned());
        self.finished.lock().expect("a lock").push(done);
        (self.ending)()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one of several endings")]
fn alice() -> Result<LoggedIn, LoginError> {
    Ok(LoggedIn { username: "alice".into(), name: "Alice <A>".into(), ..LoggedIn::default() })
}

/// A bridge's pages, and one browser that looks at them.
struct World {
    router: Router,
    desk: Desk,
    now_ms: Arc<AtomicI64>,
    gitter: MockServer,
    base: Url,
    cookies: Vec<(String, String)>,
}

struct Page {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl World {
    async fn new() -> Self {
        Self::with("https://bridge.example.org/gitter/", alice, true).await
    }

    async fn with(base: &str, ending: Finish, works: bool) -> Self {
        // Of its own, not of wiremock's pool, whose servers go on listening.
        let gitter = MockServer::builder().start().await;
        let base = Url::parse(base).expect("an address");
        let now_ms = Arc::new(AtomicI64::new(START_MS));
        let clock = Arc::clone(&now_ms);
        let desk = Desk { burnt: Arc::default(), finished: Arc::default(), ending, works };
        let config = WebConfig {
            login_url: base.clone(),
            oauth_url: format!("{}/login/oauth", gitter.uri()).parse().expect("an address"),
            oauth_key: "the-key".into(),
            oauth_secret: "the-secret".into(),
            bot: user_id!("@gitter:example.org").to_owned(),
            link_key: LinkKey::from([7; 32]),
            exchange_timeout: Duration::from_millis(200),
            clock: Arc::new(move || clock.load(Ordering::SeqCst)),
        };
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([])
            .build()
            .expect("a client");
        let router = router(config, desk.clone(), http);
        Self { router, desk, now_ms, gitter, base, cookies: vec![] }
    }

    fn link(&self) -> Url {
        let alice = user_id!("@alice:example.org");
        let mut rng = StdRng::seed_from_u64(3);
        login_link(&self.base, &LinkKey::from([7; 32]), alice, START_MS, &mut rng)
    }

    fn pass(&self, ms: i64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// What a stripping proxy passes on for `url`, with the cookies the browser has.
    async fn send(&mut self, method: Method, url: &str, form: Option<String>) -> Page {
        let local = url.strip_prefix(self.base.as_str().trim_end_matches('/')).unwrap_or(url);
        let cookies: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = Request::builder()
            .method(method)
            .uri(local)
            .header(header::COOKIE, cookies.join("; "))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(form.unwrap_or_default()))
            .expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("never fails");
        let (parts, body) = response.into_parts();
        for line in parts.headers.get_all(header::SET_COOKIE) {
            let line = line.to_str().expect("ASCII");
            let (name, rest) = line.split_once('=').expect("a cookie");
            let (value, rest) = rest.split_once(';').expect("attributes");
            self.cookies.retain(|(kept, _)| kept != name);
            if !rest.contains("Max-Age=0") {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let body = to_bytes(body, 1 << 20).await.expect("a body");
        let body = String::from_utf8(body.to_vec()).expect("text");
        Page { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&mut self, url: &str) -> Page {
        self.send(Method::GET, url, None).await
    }

    /// Presses the button of the confirmation.
    async fn press(&mut self, confirmation: &Page) -> Page {
        let form =
            format!("link={}&page={}", confirmation.hidden("link"), confirmation.hidden("page"));
        let to = format!("{}/login", self.base.as_str().trim_end_matches('/'));
        self.send(Method::POST, &to, Some(form)).await
    }

    /// Up to where Gitter asks for consent: `state`.
    async fn leave_for_gitter(&mut self) -> String {
        let link = self.link();
        let confirmation = self.get(link.as_str()).await;
        let page = self.press(&confirmation).await;
        assert_eq!(page.status, StatusCode::SEE_OTHER);
        let to = Url::parse(page.header("location")).expect("an address");
        let state = to.query_pairs().find(|(name, _)| name == "state").expect("a state");
        state.1.into_owned()
    }

    async fn come_back(&mut self, state: &str, rest: &str) -> Page {
        self.get(&format!("/callback?state={state}&{rest}")).await
    }

    async fn gitter_answers(&self, answer: ResponseTemplate) {
        let token = Mock::given(method("POST")).and(path("/login/oauth/token"));
        token.respond_with(answer).mount(&self.gitter).await;
    }

    /// A whole login, ended by Gitter's `answer` to the code.
    async fn log_in(&mut self, answer: ResponseTemplate) -> Page {
        self.gitter_answers(answer).await;
        let state = self.leave_for_gitter().await;
        self.come_back(&state, "code=the-code").await
    }

    fn finished(&self) -> usize {
        self.desk.finished.lock().expect("a lock").len()
    }
}

impl Page {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    fn hidden(&self, name: &str) -> &str {
        let (_, rest) =
            self.body.split_once(&format!("name=\"{name}\" value=\"")).expect("a field");
        rest.split('"').next().expect("a value")
    }
}

fn token() -> ResponseTemplate {
    let body = format!(r#"{{"access_token":"{TOKEN}","token_type":"Bearer"}}"#);
    ResponseTemplate::new(200).set_body_raw(body, "application/json")
}

fn refusal(status: u16, error: &str) -> ResponseTemplate {
    let body = format!(r#"{{"error":"{error}","error_description":"…"}}"#);
    ResponseTemplate::new(status).set_body_raw(body, "application/json")
}

#[tokio::test]
async fn somebody_logs_in() {
    let mut world = World::new().await;
    Mock::given(method("POST"))
        .and(path("/login/oauth/token"))
        .and(body_string_contains("client_id=the-key"))
        .and(body_string_contains("client_secret=the-secret"))
        .and(body_string_contains("code=the-code"))
        .and(body_string_contains("grant_type=authorization_code"))
        .and(body_string_contains(
            "redirect_uri=https%3A%2F%2Fbridge.example.org%2Fgitter%2Fcallback",
        ))
        .respond_with(token())
        .expect(1)
        .mount(&world.gitter)
        .await;

    let link = world.link();
    let confirmation = world.get(link.as_str()).await;
    assert_eq!(confirmation.status, StatusCode::OK);
    let shown = confirmation
        .body
        .replace(confirmation.hidden("page"), "[page]")
        .replace(confirmation.hidden("link"), "[link]");
    insta::assert_snapshot!("confirm", shown);

    let leaving = world.press(&confirmation).await;
    assert_eq!(leaving.status, StatusCode::SEE_OTHER);
    let to = Url::parse(leaving.header("location")).expect("an address");
    assert_eq!(to.path(), "/login/oauth/authorize");
    let query: Vec<_> = to.query_pairs().filter(|(name, _)| name != "state").collect();
    assert_eq!(
        query,
        [
            ("response_type".into(), "code".into()),
            ("client_id".into(), "the-key".into()),
            ("redirect_uri".into(), "https://bridge.example.org/gitter/callback".into()),
        ]
    );
    let cookie = leaving.header("set-cookie");
    assert!(cookie.starts_with("__Host-matrix-gitter-state="), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure"), "{cookie}");

    let state = to.query_pairs().find(|(name, _)| name == "state").expect("a state").1.into_owned();
    let page = world.come_back(&state, "code=the-code").await;
    assert_eq!(page.status, StatusCode::OK);
    insta::assert_snapshot!("success", page.body);
    assert!(page.header("set-cookie").starts_with("__Host-matrix-gitter-state=;"));
    let finished = world.desk.finished.lock().expect("a lock");
    assert_eq!(*finished, [("@alice:example.org".to_owned(), TOKEN.to_owned())]);
}

#[tokio::test]
async fn on_plain_http_the_cookies_do_without_https() {
    let mut world = World::with("http://127.0.0.1:8090", alice, true).await;
    let page = world.log_in(token()).await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.header("strict-transport-security"), "");
    let link = world.link();
    let page = world.get(link.as_str()).await;
    let cookie = page.header("set-cookie");
    assert!(cookie.starts_with("matrix-gitter-page="), "{cookie}");
    assert!(!cookie.contains("Secure"), "{cookie}");
}

#[tokio::test]
async fn a_success_says_what_else_changed() {
    fn both() -> Result<LoggedIn, LoginError> {
        Ok(LoggedIn { previous: Some("old_name".into()), shared: true, ..alice()? })
    }
    let mut world = World::with("https://bridge.example.org", both, true).await;
    let page = world.log_in(token()).await;
    assert_eq!(page.status, StatusCode::OK);
    insta::assert_snapshot!(page.body);
}

#[tokio::test]
async fn every_answer_of_gitter_has_its_page() {
    let html = ResponseTemplate::new(200).set_body_raw("<h1>Hello</h1>", "text/html");
    let late = token().set_delay(Duration::from_secs(60));
    let odd = r#"{"access_token":"with space","token_type":"Bearer"}"#;
    let odd = ResponseTemplate::new(200).set_body_raw(odd, "application/json");
    let long =
        format!(r#"{{"access_token":"{TOKEN}","token_type":"Bearer"{}}}"#, " ".repeat(70_000));
    let long = ResponseTemplate::new(200).set_body_raw(long, "application/json");
    let elsewhere = ResponseTemplate::new(302).insert_header("location", "/elsewhere");
    let rows = [
        ("code refused", refusal(403, "invalid_grant"), 403, "Gitter refused the login"),
        ("code missing", refusal(400, "invalid_request"), 403, "Gitter refused the login"),
        ("secret wrong", refusal(401, "server_error"), 500, "Gitter does not know this bridge"),
        ("no such path", ResponseTemplate::new(404), 500, "Gitter does not know this bridge"),
        ("broken", ResponseTemplate::new(500), 502, "Gitter does not answer"),
        ("limited", ResponseTemplate::new(429), 503, "Gitter asks to wait"),
        ("a page", html, 502, "Gitter does not answer"),
        ("odd token", odd, 502, "Gitter does not answer"),
        ("too long", long, 502, "Gitter does not answer"),
        ("elsewhere", elsewhere, 502, "Gitter does not answer"),
        ("late", late, 504, "Gitter does not answer"),
    ];
    for (name, answer, status, title) in rows {
        let mut world = World::new().await;
        let page = world.log_in(answer).await;
        assert_eq!(page.status.as_u16(), status, "row: {name}");
        assert!(page.body.contains(&format!("<h1>{title}</h1>")), "row: {name}");
        assert_eq!(world.finished(), 0, "row: {name}");
    }
    let mut world = World::new().await;
    let state = world.leave_for_gitter().await;
    drop(std::mem::replace(&mut world.gitter, MockServer::start().await));
    let page = world.come_back(&state, "code=c").await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn every_failure_to_finish_has_its_page() {
    let rows: [(Finish, u16); 4] = [
        (|| Err(LoginError::Limited), 503),
        (|| Err(LoginError::Refused), 403),
        (|| Err(LoginError::Unavailable("503".into())), 502),
        (|| Err(LoginError::Internal("disk full".into())), 500),
    ];
    for (ending, status) in rows {
        let mut world = World::with("https://bridge.example.org", ending, true).await;
        let page = world.log_in(token()).await;
        assert_eq!(page.status.as_u16(), status);
        assert!(!page.body.contains("disk"));
    }
    let mut world = World::with("https://bridge.example.org", alice, false).await;
    let link = world.link();
    let confirmation = world.get(link.as_str()).await;
    assert_eq!(world.press(&confirmation).await.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_refusal_or_no_code_links_nothing() {
    let rows = [
        ("error=access_denied", 403, "You did not allow it"),
        ("error=server_error", 502, "Gitter does not answer"),
        ("code=", 403, "Gitter refused the login"),
        ("", 403, "Gitter refused the login"),
        ("code=a&code=b", 400, "That did not make sense"),
    ];
    for (rest, status, title) in rows {
        let mut world = World::new().await;
        let state = world.leave_for_gitter().await;
        let page = world.come_back(&state, rest).await;
        assert_eq!(page.status.as_u16(), status, "row: {rest}");
        assert!(page.body.contains(title), "row: {rest}");
        assert_eq!(world.finished(), 0, "row: {rest}");
    }
    let mut world = World::new().await;
    let state = world.leave_for_gitter().await;
    let page = world.come_back(&state, &format!("code={}", "x".repeat(MAX_CODE + 1))).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(world.gitter.received_requests().await.expect("recorded").is_empty());
}

#[tokio::test]
async fn a_link_is_used_once() {
    let mut world = World::new().await;
    let link = world.link();
    for _ in 0..3 {
        // A preview changes nothing.
        let page = world.get(link.as_str()).await;
        assert_eq!(page.status, StatusCode::OK);
    }
    let confirmation = world.get(link.as_str()).await;
    assert_eq!(world.press(&confirmation).await.status, StatusCode::SEE_OTHER);
    // Another browser, or this one without the cookie of its own way to Gitter:
    world.cookies.retain(|(name, _)| !name.ends_with("state"));
    let page = world.press(&confirmation).await;
    assert_eq!(page.status, StatusCode::GONE);
    assert!(page.body.contains("This link was used before"));
    world.cookies.clear();
    let confirmation = world.get(link.as_str()).await;
    assert_eq!(world.press(&confirmation).await.status, StatusCode::GONE);
}

#[tokio::test]
async fn going_back_from_gitter_and_pressing_again_goes_on() {
    let mut world = World::new().await;
    world.gitter_answers(token()).await;
    let link = world.link();
    let confirmation = world.get(link.as_str()).await;
    let first = world.press(&confirmation).await;
    let again = world.press(&confirmation).await;
    assert_eq!(again.status, StatusCode::SEE_OTHER);
    assert_eq!(again.header("location"), first.header("location"));
    let to = Url::parse(again.header("location")).expect("an address");
    let state = to.query_pairs().find(|(name, _)| name == "state").expect("a state").1.into_owned();
    assert_eq!(world.come_back(&state, "code=c").await.status, StatusCode::OK);
    assert_eq!(world.press(&confirmation).await.status, StatusCode::GONE);
}

#[tokio::test]
async fn two_tabs_with_one_link_do_not_disturb_each_other() {
    let mut world = World::new().await;
    let link = world.link();
    let first = world.get(link.as_str()).await;
    world.get(link.as_str()).await;
    assert_eq!(world.press(&first).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn another_site_cannot_press_continue() {
    let mut attacker = World::new().await;
    let link = attacker.link();
    let confirmation = attacker.get(link.as_str()).await;
    // The victim's browser has no cookie, or that of another page it was shown.
    let attackers = std::mem::take(&mut attacker.cookies);
    let page = attacker.press(&confirmation).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.body.contains("This login was not started here"));
    attacker.get(link.as_str()).await;
    assert_ne!(attacker.cookies, attackers);
    assert_eq!(attacker.press(&confirmation).await.status, StatusCode::BAD_REQUEST);
    assert!(attacker.desk.burnt.lock().expect("a lock").is_empty());
    // The link is still good for its owner.
    attacker.cookies = attackers;
    assert_eq!(attacker.press(&confirmation).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_link_expires() {
    let mut world = World::new().await;
    let link = world.link();
    let confirmation = world.get(link.as_str()).await;
    world.pass(LIFETIME_MS - 1);
    assert_eq!(world.get(link.as_str()).await.status, StatusCode::OK);
    world.pass(1);
    for page in [world.get(link.as_str()).await, world.press(&confirmation).await] {
        assert_eq!(page.status, StatusCode::GONE);
        assert!(page.body.contains("This link has expired"));
    }
}

#[tokio::test]
async fn a_changed_link_is_refused() {
    let mut world = World::new().await;
    let link = world.link().to_string();
    let (before, token) = link.split_once("link=").expect("a token");
    for at in 0..token.len() {
        let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        let changed = format!("{before}link={}{other}{}", &token[..at], &token[at + 1..]);
        let page = world.get(&changed).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "byte {at}");
        assert!(page.body.contains("This link is not valid"), "byte {at}");
    }
    assert_eq!(world.get("/login").await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.get("/login?link=").await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.get("/login?link=%ff%00").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_answer_counts_once_and_only_in_its_browser() {
    let mut world = World::new().await;
    world.gitter_answers(token()).await;
    let state = world.leave_for_gitter().await;
    let cookies = world.cookies.clone();

    // Not without the cookie, nor with the confirmation's in its place, nor another state.
    world.cookies.clear();
    assert_eq!(world.come_back(&state, "code=c").await.status, StatusCode::BAD_REQUEST);
    world.cookies.clone_from(&cookies);
    for (name, value) in &mut world.cookies {
        *value = cookies.iter().find(|(other, _)| other != name).expect("two").1.clone();
    }
    assert_eq!(world.come_back(&state, "code=c").await.status, StatusCode::BAD_REQUEST);
    world.cookies.clone_from(&cookies);
    for other in ["", "x", &state[1..], &format!("{state}x"), "AAAAAAAAAAAAAAAAAAAAAA"] {
        let page = world.come_back(other, "code=c").await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "state {other}");
    }
    assert_eq!(world.finished(), 0);

    assert_eq!(world.come_back(&state, "code=c").await.status, StatusCode::OK);
    world.cookies.clone_from(&cookies); // A browser that did not forget.
    let page = world.come_back(&state, "code=c").await;
    assert_eq!(page.status, StatusCode::GONE);
    assert_eq!(world.finished(), 1);
}

#[tokio::test]
async fn the_way_to_gitter_and_back_has_its_time() {
    let mut world = World::new().await;
    let state = world.leave_for_gitter().await;
    world.pass(LIFETIME_MS);
    assert_eq!(world.come_back(&state, "code=c").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_makes_no_sense_has_a_page() {
    let mut world = World::new().await;
    assert_eq!(world.get("/nowhere").await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.get("/callback").await.status, StatusCode::BAD_REQUEST);
    let page = world.send(Method::DELETE, "/login", None).await;
    assert_eq!(page.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(page.body.contains("That did not make sense"));
    let page = world.send(Method::POST, "/login", Some("x=1".into())).await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    let page = world.send(Method::POST, "/login", Some("x".repeat(MAX_BODY + 1))).await;
    assert_eq!(page.status, StatusCode::PAYLOAD_TOO_LARGE);
    let head = world.send(Method::HEAD, "/", None).await;
    assert_eq!((head.status, head.body.as_str()), (StatusCode::OK, ""));
}

#[tokio::test]
async fn every_page_is_guarded_by_headers() {
    let mut world = World::new().await;
    let link = world.link();
    let confirmation = world.get(link.as_str()).await;
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self' {}; frame-ancestors 'none'; \
         base-uri 'none'",
        world.gitter.uri()
    );
    let pages = [
        world.get("/").await,
        world.press(&confirmation).await,
        world.get("/callback").await,
        world.get("/nowhere").await,
        world.send(Method::PUT, "/", None).await,
        world.get("/style.css").await,
        confirmation,
    ];
    for page in &pages {
        assert_eq!(page.header("content-security-policy"), policy);
        assert_eq!(page.header("referrer-policy"), "no-referrer");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("x-frame-options"), "DENY");
        assert_eq!(page.header("x-robots-tag"), "noindex, nofollow");
        assert_eq!(page.header("strict-transport-security"), "max-age=31536000");
        let style = page.header("content-type").starts_with("text/css");
        let cache = if style { "public, max-age=3600" } else { "no-store" };
        assert_eq!(page.header("cache-control"), cache);
        assert!(!page.body.contains("<script") && !page.body.contains("style="));
    }
}

#[tokio::test]
async fn pages_read_well() {
    let login_url = Url::parse("https://bridge.example.org/gitter").expect("an address");
    let pages = Pages::new(&login_url, user_id!("@gitter:example.org"));
    let index = to_bytes(pages.index().into_body(), 1 << 20).await.expect("a body");
    insta::assert_snapshot!("index", String::from_utf8_lossy(&index));
    let outcomes = [
        Outcome::Replayed,
        Outcome::Forged,
        Outcome::Expired,
        Outcome::Denied,
        Outcome::CodeRefused,
        Outcome::Misconfigured,
        Outcome::GitterDown(StatusCode::BAD_GATEWAY),
        Outcome::GitterBusy,
        Outcome::OtherBrowser,
        Outcome::Internal,
        Outcome::NotFound,
        Outcome::BadRequest(StatusCode::METHOD_NOT_ALLOWED),
        Outcome::File(NoFile::Off),
        Outcome::File(NoFile::Unknown),
        Outcome::File(NoFile::Expired),
        Outcome::File(NoFile::Revoked),
        Outcome::File(NoFile::Gone),
        Outcome::File(NoFile::TooLarge),
        Outcome::File(NoFile::Busy),
        Outcome::File(NoFile::HomeserverDown(StatusCode::BAD_GATEWAY)),
    ];
    let mut texts = vec![];
    for outcome in &outcomes {
        let response = pages.outcome(outcome);
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        let body = String::from_utf8_lossy(&body).into_owned();
        let main = body.split("<main>").nth(1).and_then(|rest| rest.split("</main>").next());
        texts.push(format!("== {outcome:?}: {status}\n{}", main.expect("a main part").trim()));
    }
    insta::assert_snapshot!("problems", texts.join("\n\n"));
}

#[tokio::test]
async fn a_page_that_panics_is_an_error_and_counted() {
    let metrics = Metrics::new();
    let broken =
        axum::Router::new().route("/", get(async || -> StatusCode { panic!("on purpose") }));
    let pages = unharmed(broken.route("/fine", get(async || "fine")), &metrics);
    for (path, status) in [("/", 500), ("/fine", 200), ("/", 500)] {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answer = pages.clone().oneshot(request).await.expect("infallible");
        assert_eq!(answer.status(), status, "{path}");
    }
    assert!(metrics.text().contains("matrix_gitter_panics_total 2"));
}
