//! One way to make HTTP clients, and errors that say who refused what.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect::Policy};
use serde_json::Value;

/// A homeserver's or a page's "no", with what it said; found with `error.downcast_ref::<Refusal>()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Matrix' error code, such as `M_FORBIDDEN`; empty when there was none.
    pub errcode: String,
    /// What was said to people.
    pub message: String,
    /// What was being asked.
    pub asked: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, errcode, message, asked } = self;
        write!(f, "{asked} was refused: {status} {errcode} {message}")
    }
}

impl std::error::Error for Refusal {}

/// A client for servers on this machine: no redirects followed, no certificates needed.
pub(crate) fn client() -> Result<Client> {
    Client::builder()
        .redirect(Policy::none())
        .tls_certs_only([])
        .no_proxy()
        .timeout(Duration::from_secs(60))
        .build()
        .context("making an HTTP client")
}

/// Sends a request and reads JSON; anything but 2xx is a [`Refusal`].
pub(crate) async fn json(asked: &str, request: RequestBuilder) -> Result<Value> {
    read(asked, request.send().await.with_context(|| asked.to_owned())?).await
}

/// Reads JSON from an answer; anything but 2xx is a [`Refusal`].
pub(crate) async fn read(asked: &str, response: Response) -> Result<Value> {
    let status = response.status();
    let text = response.text().await.with_context(|| format!("reading the answer to {asked}"))?;
    let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if status.is_success() {
        return Ok(value);
    }
    Err(refusal(asked, status, &value, &text).into())
}

fn refusal(asked: &str, status: StatusCode, value: &Value, text: &str) -> Refusal {
    let said = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let mut message = said("error");
    if message.is_empty() {
        message = text.chars().take(300).collect();
    }
    Refusal { status: status.as_u16(), errcode: said("errcode"), message, asked: asked.to_owned() }
}
