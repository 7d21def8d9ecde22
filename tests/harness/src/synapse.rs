//! A real homeserver: Synapse from the Python package index, in a virtual environment under `target/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha1::Sha1;
use tempfile::TempDir;

use crate::http;
use crate::ports::{free_port, random_hex};
use crate::{Person, Process, Registration, Transcript};

mod venv;

const SHARED_SECRET: &str = "only-for-stories";

/// The homeserver's limits on its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// So high that nobody meets them; stories about other things need that.
    Relaxed,
    /// Synapse's own, as operators have them.
    Default,
}

/// What a [`Synapse`] is started with.
#[derive(Debug, Clone)]
pub struct SynapseConfig {
    /// Its Python, from [`Synapse::venv`].
    pub python: PathBuf,
    /// The bridges it knows.
    pub registrations: Vec<Registration>,
    /// Limits on users.
    pub limits: Limits,
    /// `default_room_version`; `None` for Synapse's own.
    pub room_version: Option<String>,
    /// `encryption_enabled_by_default_for_room_type`: `invite` or `all`; `None` for off.
    pub encrypt: Option<&'static str>,
    /// Further keys of `homeserver.yaml`, or others instead of these.
    pub extra: BTreeMap<String, Value>,
    /// Whether it is kept in a `static`, which is never dropped: its guard then clears away its directory.
    pub kept_in_static: bool,
}

impl SynapseConfig {
    /// Relaxed limits and Synapse's own defaults, for these bridges.
    #[must_use]
    pub fn new(python: PathBuf, registrations: Vec<Registration>) -> Self {
        Self {
            python,
            registrations,
            limits: Limits::Relaxed,
            room_version: None,
            encrypt: None,
            extra: BTreeMap::new(),
            kept_in_static: false,
        }
    }
}

/// A running Synapse with its database in a file, so that it can be restarted.
#[derive(Debug)]
pub struct Synapse {
    /// Its client-server API: `http://127.0.0.1:<port>`.
    pub url: String,
    config: SynapseConfig,
    // Before `dir`: it is stopped first, then its files are removed.
    process: Mutex<Process>,
    dir: TempDir,
}

impl Synapse {
    /// The server's name, the part of ids after the colon.
    pub const DOMAIN: &'static str = "localhost";

    /// Makes, or finds, the virtual environment `<target>/synapse-venv` and returns its Python.
    ///
    /// Callers of other processes wait for one that is making it. Takes about a minute with a network; blocks.
    /// `None` when this machine can't have it (no Python, no network) or `STORY_SKIP` is set, after saying so on stderr.
    ///
    /// # Errors
    /// With `CI=true`, instead of `None`. When the directory can't be written.
    pub fn venv(target: &Path) -> Result<Option<PathBuf>> {
        venv::prepare(target)
    }

    /// Starts it on a free port and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time or ends, with the tail of its log.
    pub async fn start(config: SynapseConfig) -> Result<Self> {
        let mut dir = tempfile::Builder::new().prefix("story-synapse-").tempdir()?;
        dir.disable_cleanup(crate::keep_directories());
        let port = free_port()?;
        write_files(dir.path(), port, &config)?;
        let process = Mutex::new(spawn(dir.path(), &config)?);
        let synapse = Self { url: format!("http://127.0.0.1:{port}"), config, process, dir };
        synapse.wait_ready().await?;
        Ok(synapse)
    }

    /// Where its configuration, database and log are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops it as an operator does (`SIGTERM`), within 60 s.
    ///
    /// # Errors
    /// When it did not stop in time.
    pub async fn stop(&mut self) -> Result<()> {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        process.terminate(Duration::from_secs(60)).await.map(|_| ())
    }

    /// Ends it at once, as a power cut does.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.get_mut().unwrap_or_else(PoisonError::into_inner).kill().map(|_| ())
    }

    /// Starts it again with the same files and port, after stopping it if it runs, and waits until it answers.
    ///
    /// # Errors
    /// When it does not stop, or does not answer in time.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.process = Mutex::new(spawn(self.dir.path(), &self.config)?);
        self.wait_ready().await
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).log_tail(lines)
    }

    /// Makes a user and signs them in, without limits or a browser; what they see goes to `transcript` too.
    ///
    /// `POST /_synapse/admin/v1/register`, see
    /// <https://element-hq.github.io/synapse/latest/admin_api/register_api.html>.
    ///
    /// # Errors
    /// When the name is taken or the server does not answer.
    pub async fn register_user(
        &self,
        name: &str,
        password: &str,
        transcript: &Transcript,
    ) -> Result<Person> {
        let client = http::client()?;
        let url = format!("{}/_synapse/admin/v1/register", self.url);
        let nonce = http::json("asking for a nonce", client.get(&url)).await?;
        let nonce = nonce["nonce"].as_str().context("no nonce")?;
        let mut mac = Hmac::<Sha1>::new_from_slice(SHARED_SECRET.as_bytes())
            .context("keying the registration's MAC")?;
        mac.update(format!("{nonce}\0{name}\0{password}\0notadmin").as_bytes());
        let mac = crate::ports::hex(&mac.finalize().into_bytes());
        let body = json!({
            "nonce": nonce, "username": name, "password": password, "admin": false, "mac": mac,
        });
        let answer =
            http::json(&format!("registering {name}"), client.post(&url).json(&body)).await?;
        let text =
            |key: &str| answer[key].as_str().map(str::to_owned).context("a field is missing");
        Person::connect(&self.url, text("user_id")?, text("access_token")?, transcript).await
    }

    async fn wait_ready(&self) -> Result<()> {
        let client = http::client()?;
        let url = format!("{}/_matrix/client/versions", self.url);
        let deadline = tokio::time::Instant::now() + crate::patience();
        let mut look = tokio::time::interval(Duration::from_millis(50));
        loop {
            look.tick().await;
            if client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            self.process.lock().unwrap_or_else(PoisonError::into_inner).check_alive()?;
            if tokio::time::Instant::now() > deadline {
                bail!("Synapse does not answer; its log ends:\n{}", self.log_tail(40));
            }
        }
    }
}

fn spawn(dir: &Path, config: &SynapseConfig) -> Result<Process> {
    let mut command = Command::new(&config.python);
    command.args(["-m", "synapse.app.homeserver", "-c", "homeserver.yaml"]).current_dir(dir);
    let sweep = (config.kept_in_static && !crate::keep_directories()).then_some(dir);
    Process::spawn("Synapse", command, &dir.join("synapse.log"), sweep)
}

fn write_files(dir: &Path, port: u16, config: &SynapseConfig) -> Result<()> {
    let write = |name: &str, content: &Value| -> Result<PathBuf> {
        let path = dir.join(name);
        fs::write(&path, format!("{content:#}\n"))?; // JSON is YAML
        Ok(path)
    };
    let mut registrations = Vec::new();
    for registration in &config.registrations {
        let name = format!("{}.yaml", registration.bot);
        registrations.push(write(&name, &registration.to_json(Synapse::DOMAIN))?);
    }
    write(
        "log.yaml",
        &json!({
            "version": 1,
            "formatters": { "p": { "format": "%(asctime)s %(levelname)s %(name)s %(message)s" } },
            "handlers": { "c": { "class": "logging.StreamHandler", "formatter": "p" } },
            "root": { "level": "WARNING", "handlers": ["c"] },
            "disable_existing_loggers": false,
        }),
    )?;
    let mut settings = json!({
        "server_name": Synapse::DOMAIN,
        "report_stats": false,
        "listeners": [{
            "port": port, "type": "http", "bind_addresses": ["127.0.0.1"],
            "resources": [{ "names": ["client"] }],
        }],
        "database": { "name": "sqlite3", "args": { "database": dir.join("homeserver.db") } },
        "app_service_config_files": registrations,
        "signing_key_path": dir.join("signing.key"),
        "media_store_path": dir.join("media"),
        "log_config": dir.join("log.yaml"),
        "registration_shared_secret": SHARED_SECRET,
        "macaroon_secret_key": random_hex(16),
        "form_secret": random_hex(16),
        "trusted_key_servers": [],
        "presence": { "enabled": false },
        "url_preview_enabled": false,
    });
    if let Some(version) = &config.room_version {
        settings["default_room_version"] = json!(version);
    }
    if let Some(kind) = config.encrypt {
        settings["encryption_enabled_by_default_for_room_type"] = json!(kind);
    }
    if config.limits == Limits::Relaxed {
        let high = json!({ "per_second": 1000, "burst_count": 1000 });
        for key in ["rc_message", "rc_registration", "rc_joins_per_room", "rc_room_creation"] {
            settings[key] = high.clone();
        }
        settings["rc_login"] = json!({ "address": high, "account": high, "failed_attempts": high });
        settings["rc_joins"] = json!({ "local": high, "remote": high });
        settings["rc_invites"] = json!({ "per_room": high, "per_user": high, "per_issuer": high });
    }
    for (key, value) in &config.extra {
        settings[key] = value.clone();
    }
    write("homeserver.yaml", &settings)?;
    Ok(())
}
