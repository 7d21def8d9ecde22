use axum::{
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use tokio::net::TcpListener;

use super::*;
use crate::settings::tests::good;

type Said = (u16, Value);

/// Homeserver and Gitter in one, as far as checks ask.
#[derive(Clone)]
struct World {
    versions: Said,
    whoami: Said,
    ghost: Said,
    /// `None`: calls the bridge with this `hs_token`, as a homeserver does.
    ping: Option<Said>,
    hs_token: &'static str,
    bridge: Arc<Mutex<String>>,
    user: Said,
    authorize: u16,
    token: Said,
}

impl Default for World {
    fn default() -> Self {
        let not_registered =
            "Application service has not registered this user (@gitter_check:example.com)";
        Self {
            versions: (200, json!({"versions": ["v1.1", "v1.15"]})),
            whoami: (200, json!({"user_id": "@gitter:example.com", "is_guest": false})),
            ghost: (403, json!({"errcode": "M_FORBIDDEN", "error": not_registered})),
            ping: None,
            hs_token: "hs-token-secret",
            bridge: Arc::default(),
            user: (401, json!({"error": "Unauthorized"})),
            authorize: 302,
            token: (
                403,
                json!({"error": "invalid_grant", "error_description": "Invalid authorization code"}),
            ),
        }
    }
}

async fn answer(State(world): State<World>, request: Request) -> Response {
    let token = request.headers().get("authorization").cloned();
    let (status, json) = match (request.method().as_str(), request.uri().path()) {
        ("GET", "/_matrix/client/versions") => world.versions,
        (_, path)
            if path.starts_with("/_matrix/")
                && token.is_none_or(|token| token != "Bearer as-token-secret") =>
        {
            (401, json!({"errcode": "M_UNKNOWN_TOKEN", "error": "Invalid access token passed."}))
        }
        ("GET", "/_matrix/client/v3/account/whoami") => {
            if request.uri().query() == Some("user_id=%40gitter_check%3Aexample.com") {
                world.ghost
            } else {
                world.whoami
            }
        }
        ("POST", "/_matrix/client/v1/appservice/gitter/ping") => match world.ping {
            Some(said) => said,
            None => call_bridge(&world).await,
        },
        ("GET", "/v1/user") => world.user,
        ("GET", "/login/oauth/authorize") => (world.authorize, Value::Null),
        ("POST", "/login/oauth/token") => world.token,
        _ => (404, Value::Null),
    };
    (StatusCode::from_u16(status).expect("tests use real statuses"), Json(json)).into_response()
}

async fn call_bridge(world: &World) -> Said {
    let url = world.bridge.lock().expect("nothing panics with it").clone();
    let client = http::client(Destination::Probe).expect("a client");
    match client
        .post(format!("{url}/_matrix/app/v1/ping"))
        .bearer_auth(world.hs_token)
        .json(&json!({}))
        .send()
        .await
    {
        Ok(answer) if answer.status() == 200 => (200, json!({"duration_ms": 3})),
        Ok(_) => (502, json!({"errcode": "M_BAD_STATUS", "error": "Ping returned status 403"})),
        Err(_) => {
            (502, json!({"errcode": "M_CONNECTION_FAILED", "error": "ConnectionRefusedError"}))
        }
    }
}

/// One that no other test of this process has, either.
fn free_port() -> u16 {
    harness::free_port().expect("a free port")
}

/// Starts the world and a websocket; returns settings that fit them, and a folder for files.
async fn settle(world: World, changes: &[&str]) -> (Settings, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let bridge = world.bridge.clone();
    tokio::spawn(async move {
        axum::serve(listener, Router::new().fallback(answer).with_state(world)).await
    });
    let websocket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let faye = websocket.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = websocket.accept().await {
            let _ = tokio_tungstenite::accept_async(stream).await;
        }
    });
    let mut all = vec![
        format!("matrix_homeserver_url: http://{at}"),
        format!("gitter_api_url: http://{at}/v1"),
        format!("gitter_oauth_url: http://{at}/login/oauth"),
        format!("gitter_faye_url: ws://{faye}/bayeux"),
        format!("matrix_appservice_port: {}", free_port()),
        format!("gitter_login_port: {}", free_port()),
        format!("database_path: {}", folder.path().join("database.redb").display()),
    ];
    all.extend(changes.iter().map(|change| (*change).to_owned()));
    let settings = good(&all.iter().map(String::as_str).collect::<Vec<_>>());
    *bridge.lock().expect("nothing panics with it") = settings.appservice_address();
    (settings, folder)
}

fn shown(lines: &[Line]) -> String {
    lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

async fn live_lines(world: World, changes: &[&str]) -> String {
    let (settings, _folder) = settle(world, changes).await;
    shown(&live(&settings).await.expect("clients can be made"))
}

#[tokio::test]
async fn when_all_is_well_every_line_says_so() {
    let (settings, _folder) = settle(World::default(), &[]).await;
    let lines = live(&settings).await.expect("clients can be made");
    let begins: Vec<&str> =
        lines.iter().map(|line| line.what.split(':').next().unwrap_or_default()).collect();
    assert_eq!(
        begins,
        ["homeserver", "token", "namespace", "ping", "Gitter", "login", "login", "realtime"]
    );
    assert!(lines.iter().all(|line| line.mark == Mark::Ok), "{}", shown(&lines));
    assert!(settings.listen_appservice().await.is_ok(), "the stand-in has freed the port");
}

#[tokio::test]
async fn every_failure_has_its_line_and_its_fix() {
    let w = World::default;
    let unknown = json!({"errcode": "M_UNKNOWN_TOKEN", "error": "Invalid access token passed."});
    let masquerade = json!({"errcode": "M_FORBIDDEN", "error": "Application service cannot masquerade as this user (@gitter_check:example.com)."});
    let rows: Vec<(World, &str)> = vec![
        (
            World { versions: (404, Value::Null), ..w() },
            "is no homeserver (404); fix: set matrix_homeserver_url",
        ),
        (
            World { whoami: (401, unknown), ..w() },
            "FAIL  token: the homeserver refuses matrix_appservice_token (401 M_UNKNOWN_TOKEN Invalid access token passed.); fix: name the registration",
        ),
        (
            World { whoami: (200, json!({"user_id": "@irc:example.com"})), ..w() },
            "FAIL  token: matrix_appservice_token belongs to @irc:example.com, not to @gitter:example.com; fix: ",
        ),
        (
            World { ghost: (403, masquerade), ..w() },
            "); fix: write the namespace regex '^@gitter_.*:example\\.com$', and restart",
        ),
        (
            World { ping: Some((400, json!({"errcode": "M_URL_NOT_SET"}))), ..w() },
            "FAIL  ping: the homeserver does not reach the bridge (400 M_URL_NOT_SET); fix: set url: http://127.0.0.1:",
        ),
        (
            World { ping: Some((502, json!({"errcode": "M_CONNECTION_FAILED"}))), ..w() },
            "fix: make url in the registration lead from the homeserver to http://127.0.0.1:",
        ),
        (
            World { hs_token: "another", ..w() },
            "FAIL  ping: the homeserver calls with another token than matrix_homeserver_token; fix: copy hs_token",
        ),
        (
            World { ping: Some((200, json!({"duration_ms": 3}))), ..w() },
            "FAIL  ping: the homeserver reaches another program, not http://127.0.0.1:",
        ),
        (
            World { user: (200, json!([])), ..w() },
            "is not Gitter's API (200); fix: check that the server runs",
        ),
        (
            World { authorize: 401, ..w() },
            "FAIL  login: Gitter does not know gitter_oauth_key with this redirect URI; fix: register https://login.example.com/callback",
        ),
        (
            World { token: (401, json!({"error": "server_error"})), ..w() },
            "FAIL  login: Gitter does not know gitter_oauth_key with gitter_oauth_secret; fix: copy",
        ),
    ];
    for (world, expected) in rows {
        let lines = live_lines(world, &[]).await;
        assert!(lines.contains(expected), "{expected}\nnot in\n{lines}");
        assert_eq!(lines.matches("FAIL  ").count(), 1, "only that fails:\n{lines}");
        assert!(!lines.contains("-secret"), "{lines}");
    }
}

#[tokio::test]
async fn what_does_not_answer_names_the_key() {
    let dead = free_port();
    let lines = live_lines(
        World::default(),
        &[
            &format!("matrix_homeserver_url: http://127.0.0.1:{dead}"),
            &format!("gitter_api_url: http://127.0.0.1:{dead}"),
            &format!("gitter_oauth_url: http://127.0.0.1:{dead}"),
            &format!("gitter_faye_url: ws://127.0.0.1:{dead}"),
        ],
    )
    .await;
    assert_eq!(lines.matches("FAIL  ").count(), 4, "{lines}");
    for key in ["matrix_homeserver_url", "gitter_api_url", "gitter_oauth_url", "gitter_faye_url"] {
        assert!(
            lines.contains(&format!("can be reached from here, or correct {key}")),
            "{key} is not named in\n{lines}"
        );
    }
    let gone = Url::parse("https://api.gitter.im/v1/").expect("a URL");
    assert_eq!(
        unreachable_fix("gitter_api_url", &gone),
        "gitter.im no longer serves this: set gitter_api_url to the address of the Gitter server in use"
    );
}

#[tokio::test]
async fn a_running_bridge_answers_its_ping_itself() {
    let (settings, _folder) = settle(World::default(), &[]).await;
    let running =
        StandIn::start(settings.listen_appservice().await.expect("a free port"), &settings);
    let lines = shown(&live(&settings).await.expect("clients can be made"));
    assert!(
        lines
            .contains("ok    ping: the homeserver reaches the bridge (the running bridge) in 3 ms"),
        "{lines}"
    );
    let mut others = settings.clone();
    others.matrix_homeserver_token = "another-token-secret".into();
    let lines = shown(&live(&others).await.expect("clients can be made"));
    assert!(
        lines.contains("FAIL  ping: the running bridge has another matrix_homeserver_token than"),
        "{lines}"
    );
    let _pages = settings.listen_login().await.expect("a free port");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lines = shown(&on_this_machine(&folder.path().join("settings.yaml"), &settings).await);
    assert!(lines.contains("as is matrix_appservice_port: the bridge is running"), "{lines}");
    running.stop().await;
}

#[tokio::test]
async fn files_and_ports_are_looked_at() {
    let (settings, folder) = settle(World::default(), &[]).await;
    let file = folder.path().join("settings.yaml");
    std::fs::write(&file, "").expect("a writable folder");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    let lines = shown(&on_this_machine(&file, &settings).await);
    assert!(lines.starts_with("ok    settings: complete\nwarn  registration: none to compare with; fix: set registration_path"), "{lines}");
    assert!(lines.contains("database.redb will be made\nok    login pages: port"), "{lines}");
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("a folder").count(),
        1,
        "nothing is left behind"
    );

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("our own file");
    let registration = folder.path().join("registration.yaml");
    std::fs::write(
        &registration,
        settings.registration().to_yaml().replace("rate_limited: false", "rate_limited: true"),
    )
    .expect("a writable folder");
    let (settings, _other) = settle(
        World::default(),
        &[
            &format!("registration_path: {}", registration.display()),
            "database_path: /nowhere/a.redb",
        ],
    )
    .await;
    let _taken = settings.listen_login().await.expect("a free port");
    let lines = shown(&on_this_machine(&file, &settings).await);
    assert!(
        lines.contains("warn  settings: complete, but everybody on this machine can read"),
        "{lines}"
    );
    assert!(lines.contains("rate_limited is true: the homeserver slows the bridge down; fix: set rate_limited: false"), "{lines}");
    assert!(
        lines.contains("FAIL  database: /nowhere/a.redb cannot be made: No such file or directory"),
        "{lines}"
    );
    assert!(lines.contains("is in use; fix: stop the program that has it"), "{lines}");
}

#[tokio::test]
async fn wrong_settings_are_lines_and_status_two() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("settings.yaml");
    std::fs::write(&file, "matrix_appservice_port: many\n").expect("a writable folder");
    let mut out = Vec::new();
    let code = run(Some(&file), &mut out).await.expect("a vector takes everything");
    let out = String::from_utf8(out).expect("text");
    assert_eq!(code, ExitCode::from(MISCONFIGURED));
    assert_eq!(out.lines().count(), 11, "one line each:\n{out}");
    assert!(out.contains("settings.yaml:1:25: matrix_appservice_port is \"many\", which is not a port; fix: write a whole number from 1 to 65535"), "{out}");
}
