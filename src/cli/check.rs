//! `matrix-gitter check`: whether the bridge could run, and what to change if not. One line for
//! each check.

use std::{
    fmt,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Json, Router, http::HeaderMap, http::StatusCode, routing::post};
use reqwest::{Client, RequestBuilder, header::CONTENT_TYPE};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::task::JoinHandle;
use url::Url;

use crate::{
    http::{self, Destination, HttpError},
    settings::{DEFAULT_FILE, ListenError, Settings, registration, unreachable_fix},
    telemetry::Chain,
};

/// No answer looked at here is longer; a login page may be.
const LONGEST_ANSWER: usize = 1 << 20;
/// The homeserver waits 60 s itself for the bridge's answer to its ping.
const PING: Duration = Duration::from_secs(70);
const WEBSOCKET: Duration = Duration::from_secs(15);
const MISCONFIGURED: u8 = 2;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Ok,
    /// Works, but not as well as it could.
    Warn,
    Fail,
}

/// One check. The fix is empty when all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    mark: Mark,
    what: String,
    fix: String,
}

impl Line {
    fn ok(what: impl Into<String>) -> Self {
        Self { mark: Mark::Ok, what: what.into(), fix: String::new() }
    }
    fn warn(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { mark: Mark::Warn, what: what.into(), fix: fix.into() }
    }
    fn fail(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { mark: Mark::Fail, what: what.into(), fix: fix.into() }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.mark {
            Mark::Ok => "ok  ",
            Mark::Warn => "warn",
            Mark::Fail => "FAIL",
        };
        write!(f, "{mark}  {}", self.what)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; fix: {}", self.fix) }
    }
}

/// Runs all checks and prints their lines. The exit code says whether any failed, and 2 that the
/// settings themselves did.
pub(super) async fn run(file: Option<&Path>, out: &mut impl Write) -> Result<ExitCode, CheckError> {
    let settings = match Settings::load(file) {
        Ok(settings) => settings,
        Err(error) => {
            for problem in error.problems {
                let what =
                    format!("settings: {}: {} {}", problem.place, problem.key, problem.wrong);
                writeln!(out, "{}", Line::fail(what, problem.fix)).map_err(CheckError::Output)?;
            }
            return Ok(ExitCode::from(MISCONFIGURED));
        }
    };
    let mut lines = on_this_machine(file.unwrap_or(Path::new(DEFAULT_FILE)), &settings).await;
    lines.extend(live(&settings).await?);
    for line in &lines {
        writeln!(out, "{line}").map_err(CheckError::Output)?;
    }
    let failed = lines.iter().any(|line| line.mark == Mark::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The checks themselves could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    /// Standard output is closed.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
    /// No HTTP client.
    #[error("nothing can be probed")]
    Http(#[from] HttpError),
}

async fn on_this_machine(file: &Path, settings: &Settings) -> Vec<Line> {
    let mut lines =
        vec![readable_by_others(file).unwrap_or_else(|| Line::ok("settings: complete"))];
    lines.extend(
        settings
            .warnings()
            .into_iter()
            .map(|warning| Line::warn(format!("settings: {warning}"), "")),
    );
    lines.extend(registration_lines(settings));
    lines.push(database(&settings.database_path));
    lines.push(match settings.listen_login().await {
        Ok(_) => Line::ok(format!("login pages: port {} is free", settings.gitter_login_port)),
        Err(error) if error.is_in_use() => port_in_use(settings).await,
        Err(error) => cannot_listen("login pages", error),
    });
    lines
}

fn cannot_listen(check: &str, ListenError { problem, .. }: ListenError) -> Line {
    Line::fail(
        format!("{check}: {}: {} {}", problem.place, problem.key, problem.wrong),
        problem.fix,
    )
}

/// Whoever has the port of the login pages is the bridge itself if both ports are taken, as far as can be told from here.
async fn port_in_use(settings: &Settings) -> Line {
    let what = format!("login pages: port {} is in use", settings.gitter_login_port);
    if settings.listen_appservice().await.is_err_and(|error| error.is_in_use()) {
        return Line::ok(format!("{what}, as is matrix_appservice_port: the bridge is running"));
    }
    Line::fail(what, "stop the program that has it, or set another gitter_login_port")
}

fn readable_by_others(file: &Path) -> Option<Line> {
    let mode = file.metadata().ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        let what = format!(
            "settings: complete, but everybody on this machine can read {}",
            file.display()
        );
        Line::warn(what, format!("chmod o-r {}", file.display()))
    })
}

fn registration_lines(settings: &Settings) -> Vec<Line> {
    let Some(path) = settings.registration_file() else {
        let fix = "set registration_path to the file the homeserver reads (or make one with `matrix-gitter registration`)";
        return vec![Line::warn("registration: none to compare with", fix)];
    };
    match registration::read(&path) {
        Ok(registration) => {
            let differences = registration.differences(settings);
            if differences.is_empty() {
                return vec![Line::ok(format!(
                    "registration: {} fits the settings",
                    path.display()
                ))];
            }
            let line = |difference: registration::Difference| {
                let mark = if difference.fatal { Mark::Fail } else { Mark::Warn };
                let what = format!(
                    "registration: {}: {} {}",
                    path.display(),
                    difference.field,
                    difference.wrong
                );
                Line { mark, what, fix: difference.fix }
            };
            differences.into_iter().map(line).collect()
        }
        Err(problem) => vec![Line::fail(
            format!("registration: {}: {}", problem.place, problem.wrong),
            problem.fix,
        )],
    }
}

/// Whether the database can be written; without touching it, because the bridge may be running on
/// it.
fn database(path: &Path) -> Line {
    let shown = path.display();
    if path.exists() {
        return match std::fs::OpenOptions::new().read(true).write(true).open(path) {
            Ok(_) => Line::ok(format!("database: {shown} can be written")),
            Err(error) => Line::fail(
                format!("database: {shown} cannot be written: {error}"),
                "give it to the user of the bridge, or set database_path",
            ),
        };
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let probe = folder.join(format!(".matrix-gitter-check-{}", std::process::id()));
    match std::fs::File::create_new(&probe) {
        Ok(_) => match std::fs::remove_file(&probe) {
            Ok(()) => Line::ok(format!("database: {shown} will be made")),
            Err(error) => Line::warn(
                format!("database: {} was left behind: {error}", probe.display()),
                "remove it",
            ),
        },
        Err(error) => {
            let fix = "make the folder and give it to the user of the bridge, or set database_path";
            Line::fail(format!("database: {shown} cannot be made: {error}"), fix)
        }
    }
}

async fn live(settings: &Settings) -> Result<Vec<Line>, CheckError> {
    let probe = http::client(Destination::Probe)?;
    let patient = http::client(Destination::Homeserver)?;
    let (homeserver, api, oauth, faye) = tokio::join!(
        homeserver(&probe, &patient, settings),
        gitter_api(&probe, settings),
        gitter_oauth(&probe, settings),
        gitter_faye(settings)
    );
    Ok([homeserver, vec![api], oauth, vec![faye]].concat())
}

/// An answer as far as checks look at it; `json` is null when the body is something else.
struct Answer {
    status: u16,
    json: Value,
}

impl Answer {
    fn errcode(&self) -> &str {
        self.json["errcode"].as_str().unwrap_or_default()
    }

    /// For people: status and what the server said.
    fn shown(&self) -> String {
        let said = self.json["error"].as_str().unwrap_or_default();
        format!("{} {} {}", self.status, self.errcode(), said.chars().take(200).collect::<String>())
            .trim()
            .to_owned()
    }
}

async fn ask(request: RequestBuilder) -> Result<Answer, String> {
    let response = request.send().await.map_err(|error| Chain(&error.without_url()).to_string())?;
    let status = response.status().as_u16();
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.contains("json"));
    let body =
        http::body(response, LONGEST_ANSWER).await.map_err(|error| Chain(&error).to_string())?;
    let json =
        if is_json { serde_json::from_slice(&body).unwrap_or(Value::Null) } else { Value::Null };
    Ok(Answer { status, json })
}

/// Versions, token, namespace, and the way back; each only if the one before allows a meaningful
/// answer.
async fn homeserver(probe: &Client, patient: &Client, settings: &Settings) -> Vec<Line> {
    let base = &settings.matrix_homeserver_url;
    let at = |path: &str| base.join(path).expect("a base URL and a relative path");
    let mut lines = vec![match ask(probe.get(at("_matrix/client/versions"))).await {
        Ok(answer) if answer.status == 200 && answer.json["versions"].is_array() => {
            let newest = answer.json["versions"]
                .as_array()
                .and_then(|versions| versions.last())
                .and_then(Value::as_str)
                .unwrap_or("unknown");
            Line::ok(format!("homeserver: {base} answers, Matrix up to {newest}"))
        }
        Ok(answer) => {
            let what =
                format!("homeserver: what answers at {base} is no homeserver ({})", answer.shown());
            Line::fail(what, "set matrix_homeserver_url to the address of its client-server API")
        }
        Err(error) => Line::fail(
            format!("homeserver: {base} does not answer: {error}"),
            unreachable_fix("matrix_homeserver_url", base),
        ),
    }];
    if lines[0].mark == Mark::Fail {
        return lines;
    }
    let token = settings.matrix_appservice_token.expose_secret();
    let whoami = at("_matrix/client/v3/account/whoami");
    lines.push(match ask(probe.get(whoami.clone()).bearer_auth(token)).await {
        Ok(answer) if answer.json["user_id"] == settings.matrix_botname.as_str() => {
            Line::ok(format!("token: matrix_appservice_token is accepted for {}", settings.matrix_botname))
        }
        Ok(answer) if answer.status == 200 => {
            let user = answer.json["user_id"].as_str().unwrap_or("nobody");
            let fix = "set matrix_botname to the sender_localpart of the registration, or use the as_token of the right one";
            Line::fail(format!("token: matrix_appservice_token belongs to {user}, not to {}", settings.matrix_botname), fix)
        }
        Ok(answer) => {
            let fix = "name the registration in the homeserver's configuration, restart the homeserver, and copy its as_token into matrix_appservice_token";
            Line::fail(format!("token: the homeserver refuses matrix_appservice_token ({})", answer.shown()), fix)
        }
        Err(error) => Line::fail(format!("token: {error}"), unreachable_fix("matrix_homeserver_url", base)),
    });
    if lines[1].mark == Mark::Fail {
        return lines;
    }
    lines.push(namespace(probe, whoami, settings).await);
    lines.push(
        ping(
            patient,
            &at(&format!("_matrix/client/v1/appservice/{}/ping", registration::id(settings))),
            settings,
        )
        .await,
    );
    lines
}

/// Asks as a ghost: the refusal of one that does not exist yet differs from that of somebody else's
/// name.
async fn namespace(probe: &Client, whoami: Url, settings: &Settings) -> Line {
    let ghost = format!("@{}check:{}", settings.ghost_prefix(), settings.matrix_homeserver_domain);
    let request = probe
        .get(whoami)
        .query(&[("user_id", &ghost)])
        .bearer_auth(settings.matrix_appservice_token.expose_secret());
    match ask(request).await {
        Ok(answer)
            if answer.status == 200
                || answer.json["error"]
                    .as_str()
                    .is_some_and(|error| error.contains("not registered")) =>
        {
            Line::ok(format!("namespace: ghosts such as {ghost} are the bridge's"))
        }
        Ok(answer) if answer.errcode() == "M_FORBIDDEN" || answer.errcode() == "M_EXCLUSIVE" => {
            let fix = format!(
                "write the namespace regex '{}', and restart the homeserver",
                settings.registration().users[0].regex
            );
            Line::fail(
                format!(
                    "namespace: the homeserver refuses ghosts such as {ghost} ({})",
                    answer.shown()
                ),
                fix,
            )
        }
        Ok(answer) => {
            Line::warn(format!("namespace: unclear answer about {ghost} ({})", answer.shown()), "")
        }
        Err(error) => Line::warn(format!("namespace: {error}"), ""),
    }
}

/// Lets the homeserver call the bridge. When the bridge is not running, a stand-in answers on its
/// port.
async fn ping(patient: &Client, url: &Url, settings: &Settings) -> Line {
    let stand_in = match settings.listen_appservice().await {
        Ok(listener) => Some(StandIn::start(listener, settings)),
        Err(error) if error.is_in_use() => None,
        Err(error) => return cannot_listen("ping", error),
    };
    let who = if stand_in.is_some() { "" } else { " (the running bridge)" };
    let request = patient
        .post(url.clone())
        .bearer_auth(settings.matrix_appservice_token.expose_secret())
        .json(&json!({}));
    let answer = ask(request.timeout(PING)).await;
    let called = match stand_in {
        Some(stand_in) => stand_in.stop().await,
        None => running_bridge(patient, settings).await,
    };
    let address = settings.appservice_address();
    match answer {
        Ok(answer) if answer.status == 200 && called == Called::Never => {
            let what = format!("ping: the homeserver reaches another program, not {address}");
            let fix = format!(
                "set url: {address} in the registration and restart the homeserver, or correct matrix_appservice_port"
            );
            Line::fail(what, fix)
        }
        Ok(answer) if answer.status == 200 && called == Called::Refused => {
            let fix = "copy hs_token of the registration into matrix_homeserver_token, or restart the bridge if it was changed on purpose";
            Line::fail(
                "ping: the running bridge has another matrix_homeserver_token than these settings",
                fix,
            )
        }
        Ok(answer) if answer.status == 200 => {
            let ms = answer.json["duration_ms"].as_u64().unwrap_or_default();
            Line::ok(format!("ping: the homeserver reaches the bridge{who} in {ms} ms"))
        }
        Ok(_) if called == Called::Refused => {
            let fix = "copy hs_token of the registration the homeserver reads into matrix_homeserver_token";
            Line::fail(
                "ping: the homeserver calls with another token than matrix_homeserver_token",
                fix,
            )
        }
        Ok(answer) => {
            let fix = match answer.errcode() {
                "M_URL_NOT_SET" => {
                    format!("set url: {address} in the registration, and restart the homeserver")
                }
                "M_FORBIDDEN" => {
                    format!("the registration's id must be {}", registration::id(settings))
                }
                "M_UNRECOGNIZED" => {
                    return Line::warn(
                        "ping: this homeserver has none",
                        "use a newer homeserver to have this checked",
                    );
                }
                "M_BAD_STATUS" if who.is_empty() => format!(
                    "another program answers at the registration's url; it should be {address}"
                ),
                "M_BAD_STATUS" => {
                    "the program on matrix_appservice_port is not this bridge, or has other tokens"
                        .to_owned()
                }
                _ => format!(
                    "make url in the registration lead from the homeserver to {address} (matrix_appservice_bind, firewall, containers)"
                ),
            };
            Line::fail(
                format!("ping: the homeserver does not reach the bridge ({})", answer.shown()),
                fix,
            )
        }
        Err(error) => Line::fail(format!("ping: {error}"), "see the homeserver's log"),
    }
}

/// What came to the port of the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Called {
    Never,
    /// With a token other than `matrix_homeserver_token`.
    Refused,
    Rightly,
}

/// Whether the bridge that has the port already takes `matrix_homeserver_token` of these settings: if not, that the homeserver
/// reaches it says nothing about them.
async fn running_bridge(patient: &Client, settings: &Settings) -> Called {
    let bound = settings.matrix_appservice_bind;
    let host = match bound {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let at = SocketAddr::new(host, settings.matrix_appservice_port);
    let request = patient
        .post(format!("http://{at}/_matrix/app/v1/ping"))
        .bearer_auth(settings.matrix_homeserver_token.expose_secret())
        .json(&json!({}));
    match ask(request.timeout(WEBSOCKET)).await {
        Ok(answer) if matches!(answer.status, 401 | 403) => Called::Refused,
        // Whatever else it may be: the homeserver's own ping says more.
        _ => Called::Rightly,
    }
}

/// Answers the homeserver's ping in the bridge's place.
///
/// <https://spec.matrix.org/v1.19/application-service-api/#post_matrixappv1ping>
struct StandIn {
    server: JoinHandle<()>,
    called: Arc<Mutex<Called>>,
}

impl StandIn {
    fn start(listener: tokio::net::TcpListener, settings: &Settings) -> Self {
        let called = Arc::new(Mutex::new(Called::Never));
        let noted = called.clone();
        let expected = format!("Bearer {}", settings.matrix_homeserver_token.expose_secret());
        let answer = move |headers: HeaderMap| async move {
            let given = headers
                .get("authorization")
                .map(axum::http::HeaderValue::as_bytes)
                .unwrap_or_default();
            let right = bool::from(given.ct_eq(expected.as_bytes()));
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            *noted = if right { Called::Rightly } else { Called::Refused };
            if right {
                return (StatusCode::OK, Json(json!({})));
            }
            (StatusCode::FORBIDDEN, Json(json!({"errcode": "M_FORBIDDEN", "error": "wrong token"})))
        };
        let router = Router::new().route("/_matrix/app/v1/ping", post(answer));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::debug!(error = %Chain(&error), "the stand-in for the bridge ended");
            }
        });
        Self { server, called }
    }

    /// Frees the port; says what came.
    async fn stop(self) -> Called {
        self.server.abort();
        // The port is free only when the task is gone; that it was aborted is no news.
        let _ = self.server.await;
        *self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn gitter_api(probe: &Client, settings: &Settings) -> Line {
    let base = &settings.gitter_api_url;
    let url = base.join("user").expect("a base URL and a relative path");
    match ask(probe.get(url).header("Accept", "application/json")).await {
        Ok(answer) if answer.status == 401 && answer.json.is_object() => {
            Line::ok(format!("Gitter: {base} answers"))
        }
        Ok(answer) => {
            let what =
                format!("Gitter: what answers at {base} is not Gitter's API ({})", answer.shown());
            Line::fail(what, unreachable_fix("gitter_api_url", base))
        }
        Err(error) => Line::fail(
            format!("Gitter: {base} does not answer: {error}"),
            unreachable_fix("gitter_api_url", base),
        ),
    }
}

/// The page a browser is sent to, then key and secret: a made-up code is refused with 403 only
/// after both were found right.
async fn gitter_oauth(probe: &Client, settings: &Settings) -> Vec<Line> {
    let base = &settings.gitter_oauth_url;
    let callback = settings.oauth_callback_url();
    let query = [
        ("client_id", settings.gitter_oauth_key.as_str()),
        ("response_type", "code"),
        ("redirect_uri", callback.as_str()),
    ];
    let mut lines = vec![match ask(probe
        .get(settings.oauth_authorize_url())
        .query(&query)
        .header("Accept", "text/html"))
    .await
    {
        // Without a session Gitter asks for a login before it looks at the client and its redirect URI.
        Ok(answer) if matches!(answer.status, 200 | 302 | 303) => {
            Line::ok(format!("login: {base} answers; compare the redirect URI there: {callback}"))
        }
        Ok(answer) if answer.status == 401 => {
            let fix = format!(
                "register {callback} as redirect URI at Gitter, letter for letter, and copy gitter_oauth_key from there"
            );
            Line::fail("login: Gitter does not know gitter_oauth_key with this redirect URI", fix)
        }
        Ok(answer) => {
            let what =
                format!("login: what answers at {base} is not Gitter's login ({})", answer.shown());
            Line::fail(what, unreachable_fix("gitter_oauth_url", base))
        }
        Err(error) => Line::fail(
            format!("login: {base} does not answer: {error}"),
            unreachable_fix("gitter_oauth_url", base),
        ),
    }];
    if lines[0].mark == Mark::Fail {
        return lines;
    }
    let form = [
        ("grant_type", "authorization_code"),
        ("code", "matrix-gitter-check"),
        ("client_id", settings.gitter_oauth_key.as_str()),
        ("client_secret", settings.gitter_oauth_secret.expose_secret()),
        ("redirect_uri", callback.as_str()),
    ];
    lines.push(match ask(probe.post(settings.oauth_token_url()).form(&form)).await {
        Ok(answer) if answer.status == 403 || answer.json["error"] == "invalid_grant" => {
            Line::ok("login: Gitter accepts gitter_oauth_key and gitter_oauth_secret")
        }
        Ok(answer) if answer.status == 401 => {
            let fix =
                "copy gitter_oauth_key and gitter_oauth_secret from your application at Gitter";
            Line::fail("login: Gitter does not know gitter_oauth_key with gitter_oauth_secret", fix)
        }
        Ok(answer) => Line::warn(
            format!(
                "login: unclear answer to gitter_oauth_key and gitter_oauth_secret ({})",
                answer.shown()
            ),
            "",
        ),
        Err(error) => {
            Line::fail(format!("login: {error}"), unreachable_fix("gitter_oauth_url", base))
        }
    });
    lines
}

async fn gitter_faye(settings: &Settings) -> Line {
    let url = &settings.gitter_faye_url;
    let fix =
        || format!("{}; without it the bridge polls", unreachable_fix("gitter_faye_url", url));
    match tokio::time::timeout(WEBSOCKET, tokio_tungstenite::connect_async(url.as_str())).await {
        Ok(Ok(_)) => Line::ok(format!("realtime: {url} answers")),
        Ok(Err(error)) => {
            Line::fail(format!("realtime: {url} does not answer: {}", Chain(&error)), fix())
        }
        Err(_) => Line::fail(format!("realtime: {url} does not answer in time"), fix()),
    }
}

#[cfg(test)]
mod tests;
