//! The bridge itself as a process, with settings of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::http;
use crate::ports::random_hex;
use crate::{Process, Registration, Synapse};

/// How long a stop in good order may take.
const STOP: Duration = Duration::from_secs(30);

/// What a [`Daemon`] is started with.
#[derive(Debug, Clone)]
pub struct DaemonConfig {
    /// The program `matrix-gitter`.
    pub binary: PathBuf,
    /// How the homeserver knows it.
    pub registration: Registration,
    /// The homeserver's client-server API.
    pub homeserver_url: String,
    /// Gitter's REST API, up to and without `/v1`'s trailing slash: `gitter_api_url`.
    pub gitter_api_url: String,
    /// Gitter's Faye endpoint: `gitter_faye_url`.
    pub gitter_faye_url: String,
    /// Gitter's `…/login/oauth`: `gitter_oauth_url`.
    pub gitter_oauth_url: String,
    /// Key and secret of the OAuth client that Gitter knows.
    pub oauth_client: (String, String),
    /// Further settings, or others instead of these.
    pub settings: BTreeMap<String, String>,
}

impl DaemonConfig {
    /// Where Gitter sends people back to after login: the OAuth client's registered redirect address.
    #[must_use]
    pub fn redirect_url(registration: &Registration) -> String {
        format!("{}/callback", login_url(registration))
    }

    /// The settings as they are written to `settings.yaml`.
    fn settings(&self, dir: &Path) -> BTreeMap<String, String> {
        let registration = &self.registration;
        let mut settings: BTreeMap<String, String> = [
            ("unique_secret_key", random_hex(32)),
            ("matrix_appservice_port", registration.appservice_port.to_string()),
            ("matrix_homeserver_url", self.homeserver_url.clone()),
            ("matrix_homeserver_domain", Synapse::DOMAIN.to_owned()),
            ("matrix_botname", format!("@{}:{}", registration.bot, Synapse::DOMAIN)),
            ("matrix_appservice_token", registration.appservice_token.clone()),
            ("matrix_homeserver_token", registration.homeserver_token.clone()),
            ("gitter_login_port", registration.login_port.to_string()),
            ("gitter_login_url", login_url(registration)),
            ("gitter_oauth_key", self.oauth_client.0.clone()),
            ("gitter_oauth_secret", self.oauth_client.1.clone()),
            ("gitter_api_url", self.gitter_api_url.clone()),
            ("gitter_faye_url", self.gitter_faye_url.clone()),
            ("gitter_oauth_url", self.gitter_oauth_url.clone()),
            ("database_path", dir.join("database.redb").display().to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        settings.extend(self.settings.clone());
        settings
    }
}

fn login_url(registration: &Registration) -> String {
    format!("http://127.0.0.1:{}", registration.login_port)
}

/// A running bridge. Its settings, database and log are in a directory of its own.
#[derive(Debug)]
pub struct Daemon {
    /// What it was started with.
    pub config: DaemonConfig,
    process: Process,
    dir: TempDir,
}

impl Daemon {
    /// Writes its files, starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time, with the tail of its log.
    pub async fn start(config: DaemonConfig) -> Result<Self> {
        let mut dir = tempfile::Builder::new().prefix("story-bridge-").tempdir()?;
        dir.disable_cleanup(crate::keep_directories());
        let domain = Synapse::DOMAIN;
        let registration = config.registration.to_json(domain);
        fs::write(dir.path().join("registration.yaml"), format!("{registration:#}\n"))?;
        let settings = config.settings(dir.path());
        let lines: Vec<_> =
            settings.iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect();
        fs::write(dir.path().join("settings.yaml"), lines.join("\n"))?;
        let process = spawn(&config.binary, dir.path())?;
        let mut daemon = Self { config, process, dir };
        daemon.wait_ready().await?;
        Ok(daemon)
    }

    /// The secrets among its settings.
    ///
    /// # Errors
    /// When its settings can't be read.
    pub fn secrets(&self) -> Result<Vec<String>> {
        let settings = fs::read_to_string(self.dir.path().join("settings.yaml"))?;
        let lines = settings.lines().filter_map(|line| line.split_once(": "));
        let secret = lines.filter(|(key, _)| {
            ["_secret", "_secret_key", "_token"].iter().any(|end| key.ends_with(end))
        });
        Ok(secret.map(|(_, value)| value.trim_matches('"').to_owned()).collect())
    }

    /// The appservice listener, where health and metrics are.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.config.registration.appservice_port)
    }

    /// The login pages.
    #[must_use]
    pub fn login_url(&self) -> String {
        login_url(&self.config.registration)
    }

    /// The bot's Matrix id.
    #[must_use]
    pub fn bot(&self) -> String {
        format!("@{}:{}", self.config.registration.bot, Synapse::DOMAIN)
    }

    /// Where its settings, database and log are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where its database is.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        let set = self.config.settings.get("database_path").map(PathBuf::from);
        set.unwrap_or_else(|| self.dir().join("database.redb"))
    }

    /// The process, for signals and its id.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn process_status(&mut self) -> Result<Option<ExitStatus>> {
        self.process.status()
    }

    /// Waits until `GET /health/ready` answers 200.
    ///
    /// # Errors
    /// When it ends or is not ready in time, with the tail of its log.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let client = http::client()?;
        let url = format!("{}/health/ready", self.url());
        let deadline = tokio::time::Instant::now() + crate::patience();
        let mut look = tokio::time::interval(Duration::from_millis(50));
        loop {
            look.tick().await;
            let last = match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => {
                    format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default())
                }
                Err(error) => error.to_string(),
            };
            self.process.check_alive()?;
            if tokio::time::Instant::now() > deadline {
                bail!("the bridge is not ready ({last}); its log ends:\n{}", self.log_tail(40));
            }
        }
    }

    /// Ends it at once, as `kill -9` does; its files stay.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill().map(|_| ())
    }

    /// Asks it to stop (`SIGTERM`) and returns how it ended.
    ///
    /// # Errors
    /// When it has not stopped after 30 s; it is killed then.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.terminate(STOP).await
    }

    /// Waits until it has ended by itself, and returns how.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit).await
    }

    /// Starts it again on the same files, after `kill9`, `terminate` or its own end, without waiting.
    ///
    /// # Errors
    /// When it still runs or can't be started.
    pub fn start_again(&mut self) -> Result<()> {
        anyhow::ensure!(self.process.status()?.is_some(), "the bridge still runs");
        self.process = spawn(&self.config.binary, self.dir.path())?;
        Ok(())
    }

    /// Stops it in good order when it runs, starts it again on the same files, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not stop, does not start, or is not ready in time.
    pub async fn restart(&mut self) -> Result<()> {
        self.terminate().await?;
        self.start_again()?;
        self.wait_ready().await
    }

    /// Its metrics by name with labels, as `GET /metrics` writes them.
    ///
    /// # Errors
    /// When it does not answer, or not with numbers.
    pub async fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let url = format!("{}/metrics", self.url());
        let answer = http::client()?.get(url).send().await?.error_for_status()?;
        parse_metrics(&answer.text().await?)
    }

    /// Runs another of its commands, such as `["check"]`, with the same settings; returns status and both outputs.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn run(&self, arguments: &[&str]) -> Result<(ExitStatus, String)> {
        let mut command = tokio::process::Command::new(&self.config.binary);
        command.args(arguments).args(CONFIG_ARGUMENTS).current_dir(self.dir.path());
        let output = command.output().await?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status, String::from_utf8_lossy(&text).into_owned()))
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }
}

const CONFIG_ARGUMENTS: [&str; 2] = ["--config", "settings.yaml"];

fn spawn(binary: &Path, dir: &Path) -> Result<Process> {
    let mut command = Command::new(binary);
    command.arg("run").args(CONFIG_ARGUMENTS).current_dir(dir);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MATRIX_GITTER_") {
            command.env_remove(name); // would change the settings just written
        }
    }
    Process::spawn("the bridge", command, &dir.join("bridge.log"), None)
}

/// A YAML string in double quotes, which is a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn parse_metrics(text: &str) -> Result<BTreeMap<String, f64>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').context("a metric without a value")?;
            Ok((name.to_owned(), value.parse().with_context(|| format!("the metric {line}"))?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_by_name_and_labels() {
        let text = "# HELP a b\nwrites_total 3\nsent{to=\"a b\"} 2.5\n# EOF\n";
        let metrics = parse_metrics(text).expect("they parse");
        assert_eq!(metrics["writes_total"].to_string(), "3");
        assert_eq!(metrics["sent{to=\"a b\"}"].to_string(), "2.5");
        assert!(parse_metrics("nonsense").is_err());
    }
}
