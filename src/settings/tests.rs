use super::*;

const KEY: &str = "n3Jq8-sWmZ0xT5uYbKe1";

/// Settings with nothing wrong; rows replace or add lines.
fn lines() -> Vec<(&'static str, String)> {
    [
        ("unique_secret_key", KEY),
        ("matrix_appservice_port", "8445"),
        ("matrix_homeserver_url", "http://127.0.0.1:8008"),
        ("matrix_homeserver_domain", "example.com"),
        ("matrix_botname", "\"@gitter:example.com\""),
        ("matrix_appservice_token", "as-token-secret"),
        ("matrix_homeserver_token", "hs-token-secret"),
        ("gitter_login_port", "8001"),
        ("gitter_login_url", "https://login.example.com"),
        ("gitter_oauth_key", "oauth-key"),
        ("gitter_oauth_secret", "oauth-secret"),
    ]
    .map(|(key, value)| (key, value.to_owned()))
    .to_vec()
}

/// The YAML of [`lines`] with `changes`, each `key: value` (replaces the line of that key) or
/// `-key` (removes it).
pub(crate) fn yaml(changes: &[&str]) -> String {
    let mut lines: Vec<(String, String)> =
        lines().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    for change in changes {
        if let Some(key) = change.strip_prefix('-') {
            lines.retain(|(name, _)| name != key);
            continue;
        }
        let (key, value) = change.split_once(": ").expect("changes are `key: value`");
        match lines.iter_mut().find(|(name, _)| name == key) {
            Some(line) => value.clone_into(&mut line.1),
            None => lines.push((key.to_owned(), value.to_owned())),
        }
    }
    lines
        .into_iter()
        .map(|(key, value)| [key, ": ".to_owned(), value, "\n".to_owned()].concat())
        .collect()
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (format!("{VARIABLE_PREFIX}{name}").into(), (*value).into()))
        .collect()
}

fn build(text: &str, pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::build(Some((Path::new(DEFAULT_FILE), text)), variables(pairs), Against::Named)
}

pub(crate) fn good(changes: &[&str]) -> Settings {
    Settings::parse(&yaml(changes))
        .unwrap_or_else(|error| panic!("these settings are good: {error}"))
}

#[test]
fn every_default_parses_and_every_key_is_explained() {
    let settings = good(&[]);
    assert_eq!(settings.reconcile_interval, 10 * MINUTE);
    assert_eq!(settings.store_commit_window, Duration::from_millis(5));
    assert_eq!(settings.removal_brake_share.whole(), 25);
    assert_eq!(settings.portal_ghosts, PortalGhosts::AtMost(50));
    assert_eq!(
        settings.gitter_api_url.join("user").expect("a relative URL").as_str(),
        "https://api.gitter.im/v1/user"
    );
    assert_eq!(settings.oauth_callback_url().as_str(), "https://login.example.com/callback");
    assert_eq!(settings.oauth_authorize_url().as_str(), "https://gitter.im/login/oauth/authorize");
    assert_eq!(settings.warnings(), Vec::<String>::new());
    for key in Settings::keys() {
        assert!(key.meaning.trim().ends_with('.'), "{} is explained in a sentence", key.name);
        assert!(!key.meaning.contains('|'), "{} fits a table", key.name);
    }
}

#[test]
fn the_table_has_a_row_of_three_cells_for_every_key() {
    let table = markdown_table();
    let rows: Vec<&str> = table.lines().skip(2).collect();
    assert_eq!(rows.len(), Settings::keys().len());
    for (row, key) in rows.iter().zip(Settings::keys()) {
        assert!(row.starts_with(&format!("| `{}` | ", key.name)), "{row}");
        assert_eq!(row.matches('|').count(), 4, "{row}");
    }
    assert!(table.contains("\n| `reconcile_interval` | `10m` | How often everything is compared"));
}

#[test]
fn values_are_read_as_they_are_meant() {
    let digits = good(&[
        "matrix_appservice_token: 00012345678901234567890",
        "gitter_oauth_secret: 1e5000000",
    ]);
    assert_eq!(digits.matrix_appservice_token.expose_secret(), "00012345678901234567890");
    assert_eq!(digits.gitter_oauth_secret.expose_secret(), "1e5000000");
    let written = good(&[
        "matrix_botname: gitter",
        "matrix_appservice_port: \"8446\"  # quoted",
        "portal_ghosts: all",
        "removal_brake_share: 30 %",
        "shutdown_timeout: 1m 30s",
        "appservice_url: http://bridge:8446/",
        "database_path: ",
    ]);
    assert_eq!(written.matrix_botname, "@gitter:example.com");
    assert_eq!(written.matrix_appservice_port, 8446);
    assert_eq!(written.portal_ghosts, PortalGhosts::All);
    assert_eq!(written.shutdown_timeout, Duration::from_secs(90));
    assert_eq!(written.appservice_address(), "http://bridge:8446");
    assert_eq!(written.database_path, Path::new("./database.redb"));
    assert_eq!(
        good(&["matrix_homeserver_url: http://hs/prefix"]).matrix_homeserver_url.as_str(),
        "http://hs/prefix/"
    );
    let files = good(&["media_links: off", "media_link_lifetime: 2d", "media_max_size: 3 MiB"]);
    assert!(!files.media_links);
    assert_eq!(files.media_link_lifetime, 48 * HOUR);
    assert_eq!(files.media_max_size, 3 << 20);
    let files = good(&[]);
    assert!(files.media_links);
    assert_eq!(files.media_link_lifetime, 30 * 24 * HOUR);
    assert_eq!(files.media_max_size, 50_000_000);
    let telling = |line: &str| good(&[line]).delivery_notices;
    assert_eq!(good(&[]).delivery_notices, DeliveryNotices::Both);
    for (line, words, event) in [
        ("delivery_notices: notice", true, false),
        ("delivery_notices: status", false, true),
        ("delivery_notices: both", true, true),
    ] {
        let how = telling(line);
        assert_eq!((how.in_words(), how.by_event()), (words, event), "row: {line}");
    }
    // The same port twice is no conflict on different addresses.
    assert_eq!(
        good(&["gitter_login_port: 8445", "gitter_login_bind: 127.0.0.2"]).gitter_login_port,
        8445
    );
}

#[test]
fn the_environment_wins_and_may_be_enough() {
    let settings = build(
        &yaml(&["gitter_login_port: nonsense"]),
        &[("GITTER_LOGIN_PORT", "9000"), ("LOG_FORMAT", "json"), ("DATABASE_PATH", "")],
    )
    .expect("the variable replaces the nonsense");
    assert_eq!((settings.gitter_login_port, settings.log_format), (9000, LogFormat::Json));
    assert_eq!(settings.database_path, Path::new("./database.redb"), "an empty variable is none");

    let all = lines();
    let upper: Vec<(String, &str)> =
        all.iter().map(|(key, value)| (key.to_uppercase(), value.trim_matches('"'))).collect();
    let pairs: Vec<(&str, &str)> =
        upper.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let settings =
        Settings::build(None, variables(&pairs), Against::Named).expect("no file is needed");
    assert_eq!(settings.matrix_botname, "@gitter:example.com");
    for key in Settings::keys() {
        assert!(key.variable().starts_with(VARIABLE_PREFIX), "{}", key.name);
    }
}

#[test]
fn variables_that_are_no_settings_of_ours_are_left_alone() {
    let others =
        [("CONFIG", "x.yaml"), ("SERVICE_HOST", "10.0.0.1"), ("PORT_8445_TCP_ADDR", "10.0.0.1")];
    build(&yaml(&[]), &others).expect("these are set by the command line and by Kubernetes");
}

#[test]
fn a_secret_can_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("token");
    std::fs::write(&path, "as-token-from-file\n").expect("a writable folder");
    let path = path.to_str().expect("a UTF-8 path");
    let in_yaml =
        yaml(&["-matrix_appservice_token", &format!("matrix_appservice_token_file: {path}")]);
    for (text, pairs) in
        [(in_yaml, vec![]), (yaml(&[]), vec![("MATRIX_APPSERVICE_TOKEN_FILE", path)])]
    {
        let settings = build(&text, &pairs).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.matrix_appservice_token.expose_secret(), "as-token-from-file");
    }
}

/// Changes of the file, variables, and what is wrong, in the admin's words.
type Mistake = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);

const MISTAKES: &[Mistake] = &[
    (
        &["matrix_appservice_port: 84x5"],
        &[],
        "settings.yaml:2:25: matrix_appservice_port is \"84x5\", which is not a port\n    fix: write a whole number from 1 to 65535",
    ),
    (
        &["matrix_appservice_port: 70000"],
        &[],
        "settings.yaml:2:25: matrix_appservice_port is \"70000\", which is not a port\n    fix: write a whole number from 1 to 65535",
    ),
    (
        &[],
        &[("GITTER_LOGIN_PORT", "0")],
        "variable MATRIX_GITTER_GITTER_LOGIN_PORT: gitter_login_port is \"0\", which is not a port\n    fix: write a whole number from 1 to 65535",
    ),
    (
        &["gitter_login_port: 8445"],
        &[],
        "settings.yaml:8:20: gitter_login_port is 8445, which is also matrix_appservice_port (settings.yaml:2:25)\n    fix: give the login pages a port of their own",
    ),
    (
        &["matrix_homeserver_url: localhost:8008"],
        &[],
        "settings.yaml:3:24: matrix_homeserver_url is \"localhost:8008\", which is not a URL of the right kind (localhost:)\n    fix: begin it with https:// or http://",
    ),
    (
        &["matrix_homeserver_url: not a url"],
        &[],
        "settings.yaml:3:24: matrix_homeserver_url is \"not a url\", which is not a URL (relative URL without a base)\n    fix: write it in full, for example https://host.example:1234/",
    ),
    (
        &["gitter_faye_url: https://ws.gitter.im/bayeux"],
        &[],
        "settings.yaml:12:18: gitter_faye_url is \"https://ws.gitter.im/bayeux\", which is not a URL of the right kind (https:)\n    fix: begin it with wss:// or ws://",
    ),
    (
        &["gitter_login_url: https://x.example/?a=b"],
        &[],
        "settings.yaml:9:19: gitter_login_url is \"https://x.example/?a=b\", which has something behind ? or #\n    fix: leave out the ? or # and what follows",
    ),
    (
        &["gitter_api_url: https://bob:hunter2@x.example/"],
        &[],
        "settings.yaml:12:17: gitter_api_url is a value (not shown), which holds a user name or password\n    fix: leave out what stands before the @",
    ),
    (
        &["matrix_homeserver_domain: https://example.com"],
        &[],
        "settings.yaml:4:27: matrix_homeserver_domain is \"https://example.com\", which is a URL, not a server name\n    fix: write the server_name of the homeserver, for example example.com",
    ),
    (
        &["matrix_homeserver_domain: exa mple"],
        &[],
        "settings.yaml:4:27: matrix_homeserver_domain is \"exa mple\", which is not a server name\n    fix: write the server_name of the homeserver, for example example.com",
    ),
    (
        &["matrix_botname: \"@gitter:other.org\""],
        &[],
        "settings.yaml:5:17: matrix_botname is \"@gitter:other.org\", which is not a user of example.com (matrix_homeserver_domain)\n    fix: write @gitter:example.com, or correct the domain",
    ),
    (
        &["matrix_botname: Git Ter"],
        &[],
        "settings.yaml:5:17: matrix_botname is \"Git Ter\", which is not a usable name for a bot\n    fix: use only a-z, 0-9 and . _ -, at most 64 of them, for example @gitter:example.com",
    ),
    (
        &["matrix_botname: @gitter:example.com"],
        &[],
        "settings.yaml:5:17: the file is not YAML of the form `key: value` from here on (unexpected character: `@')\n    fix: write `key: value` (not `key = value`), put values with @ : # % & * ! or spaces between double quotes, and begin every key at the start of its line",
    ),
    (
        &["unique_secret_key: change this before running"],
        &[],
        "settings.yaml:1:20: unique_secret_key is a value (not shown), which is the one of the example, known to everybody\n    fix: make one with `openssl rand -hex 32`, and keep it: another key makes stored logins unreadable",
    ),
    (
        &["unique_secret_key: tooshort"],
        &[],
        "settings.yaml:1:20: unique_secret_key is a value (not shown), which is shorter than 16 characters\n    fix: make one with `openssl rand -hex 32`, and keep it: another key makes stored logins unreadable",
    ),
    (
        &["unique_secret_key: aaaaaaaaaaaaaaaaaaaaaaaaa"],
        &[],
        "settings.yaml:1:20: unique_secret_key is a value (not shown), which repeats a few characters and can be guessed\n    fix: make one with `openssl rand -hex 32`, and keep it: another key makes stored logins unreadable",
    ),
    (
        &["matrix_appservice_token: hs-token-secret"],
        &[],
        "settings.yaml:7:26: matrix_homeserver_token is the same as matrix_appservice_token (settings.yaml:6:26); whoever learns one has the other\n    fix: make each of its own, for example with `openssl rand -hex 32`; tokens must be changed in the registration too",
    ),
    (
        &["matrix_appservice_token: \"with a space\""],
        &[],
        "settings.yaml:6:26: matrix_appservice_token is a value (not shown), which holds spaces or characters outside ASCII\n    fix: copy it from where it was made (registration or Gitter), or make a token with `openssl rand -hex 32`",
    ),
    (
        &["gitter_oauth_key: get this from Gitter"],
        &[],
        "settings.yaml:10:19: gitter_oauth_key is \"get this from Gitter\", which is the one of the example\n    fix: copy the OAuth key of your application from Gitter",
    ),
    (
        &["-gitter_oauth_key"],
        &[],
        "settings.yaml: gitter_oauth_key is missing\n    fix: set gitter_oauth_key in settings.yaml or MATRIX_GITTER_GITTER_OAUTH_KEY",
    ),
    (
        &["gitter_oauth_secret: "],
        &[],
        "settings.yaml: gitter_oauth_secret is missing\n    fix: set gitter_oauth_secret in settings.yaml or MATRIX_GITTER_GITTER_OAUTH_SECRET, or its file with gitter_oauth_secret_file or MATRIX_GITTER_GITTER_OAUTH_SECRET_FILE",
    ),
    (
        &["matrix_bot_name: x"],
        &[],
        "settings.yaml:12:1: matrix_bot_name is not a setting\n    fix: did you mean matrix_botname?",
    ),
    (
        &["debug: true"],
        &[],
        "settings.yaml:12:1: debug is not a setting\n    fix: remove it; all keys stand in settings.example.yaml",
    ),
    (
        &[],
        &[("GITTER_OAUTH_KYE", "x")],
        "variable MATRIX_GITTER_GITTER_OAUTH_KYE: MATRIX_GITTER_GITTER_OAUTH_KYE is not a setting\n    fix: did you mean MATRIX_GITTER_GITTER_OAUTH_KEY?",
    ),
    (
        &["database_path_file: x"],
        &[],
        "settings.yaml:12:1: database_path_file is not a setting\n    fix: did you mean database_path?",
    ),
    (
        &["gitter_login_port: [8001]"],
        &[],
        "settings.yaml:8:20: gitter_login_port is a list\n    fix: write one value behind the colon, on the same line",
    ),
    (
        &["gitter_login_port: {a: 1}"],
        &[],
        "settings.yaml:8:20: gitter_login_port is a mapping\n    fix: write one value behind the colon, on the same line",
    ),
    (
        &["media_max_size: 50"],
        &[],
        "settings.yaml:12:17: media_max_size is \"50\", which has no unit of size\n    fix: write a size from 1kB to 10000000kB, for example 50MB",
    ),
    (
        &["media_max_size: 99999999999999999999GB"],
        &[],
        "settings.yaml:12:17: media_max_size is \"99999999999999999999GB\", which is not a size\n    fix: write a size from 1kB to 10000000kB, for example 50MB",
    ),
    (
        &["media_max_size: 500 B"],
        &[],
        "settings.yaml:12:17: media_max_size is \"500 B\", which is out of bounds\n    fix: write a size from 1kB to 10000000kB, for example 50MB",
    ),
    (
        &["media_link_lifetime: 366d"],
        &[],
        "settings.yaml:12:22: media_link_lifetime is \"366d\", which is out of bounds\n    fix: write a duration from 1s to 31536000s, for example 500ms, 20s, 10m or 1h",
    ),
    (
        &["media_links: maybe"],
        &[],
        "settings.yaml:12:14: media_links is \"maybe\", which is neither on nor off\n    fix: write on or off",
    ),
    (
        &["delivery_notices: off"],
        &[],
        "settings.yaml:12:19: delivery_notices is \"off\", which is no way to tell senders\n    fix: write notice, status or both",
    ),
    (
        &["log_format: xml"],
        &[],
        "settings.yaml:12:13: log_format is \"xml\", which is not a form of log\n    fix: write text or json",
    ),
    (
        &["matrix_appservice_bind: localhost"],
        &[],
        "settings.yaml:12:25: matrix_appservice_bind is \"localhost\", which is not an IP address\n    fix: write 127.0.0.1 for this machine only, 0.0.0.0 or :: for every network, or one of its addresses",
    ),
    (
        &["reconcile_interval: 600"],
        &[],
        "settings.yaml:12:21: reconcile_interval is \"600\", which has no unit\n    fix: write a duration from 10s to 86400s, for example 500ms, 20s, 10m or 1h",
    ),
    (
        &["reconcile_interval: 1ms"],
        &[],
        "settings.yaml:12:21: reconcile_interval is \"1ms\", which is out of bounds\n    fix: write a duration from 10s to 86400s, for example 500ms, 20s, 10m or 1h",
    ),
    (
        &["reconcile_interval: soon"],
        &[],
        "settings.yaml:12:21: reconcile_interval is \"soon\", which is not a duration\n    fix: write a duration from 10s to 86400s, for example 500ms, 20s, 10m or 1h",
    ),
    (
        &["portal_ghosts: some"],
        &[],
        "settings.yaml:12:16: portal_ghosts is \"some\", which is neither a number nor `all`\n    fix: write a whole number (0 for none beforehand), or all",
    ),
    (
        &["removal_brake_share: 0.25"],
        &[],
        "settings.yaml:12:22: removal_brake_share is \"0.25\", which is not a percentage\n    fix: write a whole number from 0 to 100 and a percent sign, for example 25%",
    ),
    (
        &["gitter_requests_per_minute: 0"],
        &[],
        "settings.yaml:12:29: gitter_requests_per_minute is \"0\", which is out of bounds\n    fix: write a whole number from 1 to 100000",
    ),
    (
        &["database_path: /var/lib/"],
        &[],
        "settings.yaml:12:16: database_path is \"/var/lib/\", which is not the path of a file\n    fix: write the path of a file; a relative one starts at the working directory",
    ),
    (
        &["unique_secret_key_file: /nowhere/x"],
        &[],
        "settings.yaml:12:25: unique_secret_key_file is set together with unique_secret_key (settings.yaml:1:20)\n    fix: keep one of the two",
    ),
    (
        &["-unique_secret_key", "unique_secret_key_file: /nowhere/x"],
        &[],
        "settings.yaml:11:25: unique_secret_key_file is \"/nowhere/x\", which cannot be read: No such file or directory (os error 2)\n    fix: write the path of a readable file that holds the secret and nothing else",
    ),
    (
        &["registration_path: /nowhere/r.yaml"],
        &[],
        "/nowhere/r.yaml: the registration cannot be read: No such file or directory (os error 2)\n    fix: correct registration_path, allow this user to read it, or leave registration_path out",
    ),
];

#[test]
fn every_mistake_is_explained() {
    for (changes, pairs, expected) in MISTAKES {
        let error = build(&yaml(changes), pairs).expect_err(expected);
        let found: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
        assert_eq!(found, [*expected], "row: {changes:?} {pairs:?}");
    }
}

#[test]
fn all_mistakes_are_reported_together() {
    let text = yaml(&[
        "matrix_appservice_port: x",
        "unique_secret_key: short",
        "-gitter_oauth_key",
        "colour: red",
        "matrix_botname: \"@a:b.c\"",
    ]) + "colour: blue\n";
    let error = build(&text, &[("LOG_FORMAT", "xml")]).expect_err("much is wrong");
    let keys: Vec<&str> = error.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "colour",
            "colour",
            "unique_secret_key",
            "matrix_appservice_port",
            "matrix_botname",
            "gitter_oauth_key",
            "log_format"
        ]
    );
    assert!(
        error
            .to_string()
            .starts_with("7 things in the settings must be put right:\n  settings.yaml:"),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("settings.yaml:12:1: colour is written twice, first at settings.yaml:11:1"),
        "{error}"
    );
}

#[test]
fn an_empty_or_strange_file_is_no_panic() {
    for text in [
        "",
        "# nothing\n---\n",
        "- a\n- b\n",
        "just words",
        "? [a, b]\n: c\n",
        "a: &x\n",
        "a: *nowhere\n",
        "\u{0}",
        "a: !!binary x\n",
        "{",
        "1: 2",
    ] {
        Settings::parse(text).expect_err(text);
    }
    assert_eq!(
        Settings::parse("# nothing").expect_err("nothing is there").problems.len(),
        11,
        "every required key is named"
    );
}

#[test]
fn no_error_shows_a_secret() {
    let secret = "s3cretValue";
    for key in Settings::keys().iter().filter(|key| key.secret) {
        for value in [
            secret.to_owned(),
            format!("*{secret}"),
            format!("&{secret} x"),
            format!("!{secret} x"),
            format!("[{secret}"),
            format!("\"{secret}"),
            format!("@{secret}"),
            format!("{{{secret}: {secret}}}"),
            format!("%{secret}"),
            format!("\"\\{secret}\""),
            format!("é {secret}"),
        ] {
            if let Err(error) =
                build(&yaml(&[&format!("{}: {value}", key.name), "log_format: xml"]), &[])
            {
                assert!(
                    !format!("{error} {error:?}").contains("s3cret"),
                    "{}: {value}: {error}",
                    key.name
                );
            }
        }
    }
}

#[test]
fn debug_output_holds_no_secret() {
    let settings = good(&[]);
    let printed = format!("{settings:?} {:?}", settings.registration());
    for secret in [KEY, "as-token-secret", "hs-token-secret", "oauth-secret"] {
        assert!(!printed.contains(secret), "{printed}");
    }
    assert!(printed.contains("@gitter:example.com"));
}

#[test]
fn insecure_addresses_and_useless_rates_are_warned_of() {
    let settings = good(&[
        "gitter_login_url: http://login.example.com/",
        "gitter_requests_per_minute: 200",
        "matrix_homeserver_url: http://synapse:8008",
    ]);
    assert_eq!(
        settings.warnings(),
        [
            "gitter_login_url is http://login.example.com/: tokens cross the network in the clear; use https",
            "gitter_requests_per_minute is 200: Gitter itself refuses more than 100 of each account",
        ]
    );
}

#[test]
fn the_bot_and_its_ghosts_are_ours() {
    let settings = good(&[]);
    for (user, ours) in [
        ("@gitter:example.com", true),
        ("@gitter_a:example.com", true),
        ("@gitterfan:example.com", false),
        ("@gitter_a:other.org", false),
    ] {
        assert_eq!(settings.is_ours(<&UserId>::try_from(user).expect("a user id")), ours, "{user}");
    }
}

#[tokio::test]
async fn a_port_in_use_names_its_key() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let settings = good(&[&format!("matrix_appservice_port: {port}")]);
    let error = settings.listen_appservice().await.expect_err("the port is taken");
    assert!(error.is_in_use());
    assert_eq!(
        SettingsError::from(error).to_string(),
        format!(
            "one thing in the settings must be put right:\n  settings.yaml:2:25: matrix_appservice_port is {port}, which another program has on 127.0.0.1\n    \
             fix: stop that program (is the bridge running already?) or set another matrix_appservice_port"
        )
    );
}
