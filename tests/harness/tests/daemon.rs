//! Starting, killing and restarting a daemon, with a program of a few lines in its place.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use harness::{Daemon, DaemonConfig, Registration};

/// Counts its starts in a file; is not ready at first; stops with status 3; ends at once when told so by a setting.
const PROGRAM: &str = r##"#!/usr/bin/env python3
import http.server, os, re, signal, sys
assert sys.argv[1:] == ["run", "--config", "settings.yaml"], sys.argv
settings = dict(re.findall(r'^(\w+): "(.*)"$', open("settings.yaml").read(), re.M))
starts = 1 + (int(open("starts").read()) if os.path.exists("starts") else 0)
open("starts", "w").write(str(starts))
if settings.get("log_level") == "wrong":
    sys.exit("log_level: no such level")
signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
asked = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        ok = self.path == "/metrics" or self.path == "/health/ready" and asked > 2
        self.send_response(200 if ok else 503)
        self.end_headers()
        self.wfile.write(f"# HELP starts\nstarts {starts}\n".encode())
http.server.HTTPServer(("127.0.0.1", int(settings["matrix_appservice_port"])), Handler).serve_forever()
"##;

fn config(dir: &Path) -> Result<DaemonConfig> {
    let binary = dir.join("program");
    std::fs::write(&binary, PROGRAM)?;
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755))?;
    Ok(DaemonConfig {
        binary,
        registration: Registration::new("gitter")?,
        homeserver_url: "http://127.0.0.1:9".to_owned(),
        gitter_api_url: "http://127.0.0.1:9/v1".to_owned(),
        gitter_faye_url: "ws://127.0.0.1:9/bayeux".to_owned(),
        gitter_oauth_url: "http://127.0.0.1:9/login/oauth".to_owned(),
        oauth_client: ("key".to_owned(), "secret".to_owned()),
        settings: BTreeMap::new(),
    })
}

#[tokio::test]
async fn a_daemon_is_killed_stopped_and_started_again_on_the_same_files() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut daemon = Daemon::start(config(dir.path())?).await?;
    assert_eq!(daemon.metrics().await?["starts"].to_string(), "1");
    assert!(daemon.start_again().is_err(), "it still runs");

    daemon.kill9()?;
    assert!(daemon.metrics().await.is_err());
    daemon.start_again()?;
    daemon.wait_ready().await?;
    assert_eq!(daemon.metrics().await?["starts"].to_string(), "2");

    assert_eq!(daemon.terminate().await?.code(), Some(3));
    daemon.start_again()?;
    daemon.wait_ready().await?;
    daemon.restart().await?;
    assert_eq!(daemon.metrics().await?["starts"].to_string(), "4");
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_ends_at_its_start_is_reported_with_its_log() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut config = config(dir.path())?;
    config.settings.insert("log_level".to_owned(), "wrong".to_owned());
    let error = Daemon::start(config).await.expect_err("it ended");
    assert!(error.to_string().contains("log_level: no such level"), "{error:#}");
    Ok(())
}
