//! A browser for plain pages: keeps cookies, sends forms, follows redirects only when told to.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use anyhow::{Context, Result, bail};
use reqwest::{Client, Method, Request, Response, header};
use url::Url;

use crate::http;

mod html;

pub(crate) use html::decode_entities;
pub use html::{Field, Form};

/// Login takes at most so many pages and redirects; more is a loop.
const STEPS: usize = 20;

/// What to answer when Gitter asks whether the bridge may act for the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Allow it.
    Approve,
    /// Deny it.
    Deny,
}

/// A page as it was answered.
#[derive(Debug, Clone)]
pub struct Page {
    /// Where it is.
    pub url: Url,
    /// The HTTP status.
    pub status: u16,
    /// Headers in lower case; of repeated ones the last, of cookies none.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub html: String,
}

impl Page {
    /// The words on the page, without tags, scripts and styles, spaces folded.
    #[must_use]
    pub fn text(&self) -> String {
        html::text(&self.html)
    }

    /// Its forms, in order.
    #[must_use]
    pub fn forms(&self) -> Vec<Form> {
        html::forms(&self.html)
    }

    /// Where it redirects to; `None` when it does not, or to no address.
    #[must_use]
    pub fn redirect(&self) -> Option<Url> {
        let is_redirect = matches!(self.status, 301 | 302 | 303 | 307 | 308);
        let location = self.headers.get("location").filter(|_| is_redirect)?;
        self.url.join(location).ok()
    }
}

/// Carries a browser's requests instead of the network.
pub type Carry = Arc<dyn Fn(Request) -> Carried + Send + Sync>;
/// The answer to come.
pub type Carried = Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

/// One person's browser.
pub struct Browser {
    client: Client,
    carry: Option<Carry>,
    /// Cookies by origin and name. `Secure` ones are sent to loopback too, as browsers do.
    cookies: BTreeMap<(String, String), String>,
}

impl Browser {
    /// A browser without cookies.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new() -> Result<Self> {
        Ok(Self { client: http::client()?, carry: None, cookies: BTreeMap::new() })
    }

    /// A browser without cookies and without a network: `carry` takes what `client` would send.
    #[must_use]
    pub fn carried(client: Client, carry: Carry) -> Self {
        Self { client, carry: Some(carry), cookies: BTreeMap::new() }
    }

    /// Opens an address. A redirect is a page like any other.
    ///
    /// # Errors
    /// When the address is none or nobody answers.
    pub async fn open(&mut self, url: &str) -> Result<Page> {
        let url = Url::parse(url).with_context(|| format!("{url} is no address"))?;
        self.request(Method::GET, url, None).await
    }

    /// Opens an address and follows redirects to the page at their end.
    ///
    /// # Errors
    /// As [`Browser::open`], or when the redirects don't end.
    pub async fn visit(&mut self, url: &str) -> Result<Page> {
        let mut page = self.open(url).await?;
        for _ in 0..STEPS {
            let Some(next) = page.redirect() else { return Ok(page) };
            page = self.request(Method::GET, next, None).await?;
        }
        bail!("{url} redirects without end")
    }

    /// Sends a form of `page`, as its submit button named `button` does (`None`: its first button), with `typed` in
    /// the place of what the fields hold.
    ///
    /// # Errors
    /// When the form's action is no address or nobody answers.
    pub async fn submit(
        &mut self,
        page: &Page,
        form: &Form,
        button: Option<&str>,
        typed: &[(&str, &str)],
    ) -> Result<Page> {
        let mut url = page.url.join(&form.action).context("the action of a form")?;
        let mut data = form.data(button);
        for (name, value) in typed {
            data.retain(|(known, _)| known != name);
            data.push(((*name).to_owned(), (*value).to_owned()));
        }
        if form.method == "post" {
            let encoded =
                url::form_urlencoded::Serializer::new(String::new()).extend_pairs(data).finish();
            return self.request(Method::POST, url, Some((encoded, &page.url))).await;
        }
        url.query_pairs_mut().clear().extend_pairs(data);
        self.request(Method::GET, url, None).await
    }

    /// Logs in to Gitter through a bridge's login link as `gitter_user`, and answers the question for consent;
    /// returns the bridge's last page.
    ///
    /// On the bridge's pages the first form is sent. On Gitter's, the form that offers or asks for a user name is filled in; any
    /// other is the question for consent, which is denied with its button `cancel`. A page without a form ends the way.
    ///
    /// # Errors
    /// When a page can't be reached, or the way does not end.
    pub async fn log_in(
        &mut self,
        link: &str,
        gitter_user: &str,
        consent: Consent,
    ) -> Result<Page> {
        let mut page = self.open(link).await?;
        let bridge = page.url.origin();
        let mut was_away = false;
        for _ in 0..STEPS {
            if let Some(next) = page.redirect() {
                page = self.request(Method::GET, next, None).await?;
                continue;
            }
            let forms = page.forms();
            let at_bridge = page.url.origin() == bridge;
            if at_bridge && was_away || forms.is_empty() || page.status >= 400 {
                return Ok(page);
            }
            was_away |= !at_bridge;
            page = if at_bridge {
                self.submit(&page, &forms[0], None, &[]).await?
            } else if let Some((form, field)) = user_choice(&forms, gitter_user) {
                let Field { name, .. } = field;
                self.submit(&page, form, None, &[(name, gitter_user)]).await?
            } else {
                let form = forms.iter().find(|form| form.field("transaction_id").is_some());
                let form = form.unwrap_or(&forms[0]);
                let button = (consent == Consent::Deny).then_some("cancel");
                self.submit(&page, form, button, &[]).await?
            };
        }
        bail!("logging in goes round in circles; now at {}: {}", page.url, page.text())
    }

    async fn request(
        &mut self,
        method: Method,
        url: Url,
        form: Option<(String, &Url)>,
    ) -> Result<Page> {
        let origin = url.origin().ascii_serialization();
        let mut request = self.client.request(method, url.clone());
        request = request.header(header::ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8");
        if let Some((body, from)) = form {
            request = request
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(header::ORIGIN, from.origin().ascii_serialization())
                .body(body);
        }
        let jar = self.cookies.iter().filter(|((place, _), _)| *place == origin);
        let cookies: Vec<String> =
            jar.map(|((_, name), value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        let answer = match &self.carry {
            None => request.send().await.map_err(anyhow::Error::from),
            Some(carry) => carry(request.build()?).await,
        };
        let answer = answer.with_context(|| format!("opening {url}"))?;
        for cookie in answer.headers().get_all(header::SET_COOKIE) {
            self.take_cookie(&origin, cookie.to_str()?);
        }
        let mut headers = BTreeMap::new();
        for (name, value) in answer.headers() {
            if name != header::SET_COOKIE {
                headers.insert(
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                );
            }
        }
        let status = answer.status().as_u16();
        let html = answer.text().await.with_context(|| format!("reading {url}"))?;
        Ok(Page { url, status, headers, html })
    }

    fn take_cookie(&mut self, origin: &str, cookie: &str) {
        let mut parts = cookie.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let key = (origin.to_owned(), name.to_owned());
        if parts.any(|part| part.eq_ignore_ascii_case("max-age=0")) {
            self.cookies.remove(&key);
        } else {
            self.cookies.insert(key, value.to_owned());
        }
    }
}

/// The form and the field by which a user is chosen: one that offers `user`, else one that asks for a name.
fn user_choice<'a>(forms: &'a [Form], user: &str) -> Option<(&'a Form, &'a Field)> {
    let fields =
        || forms.iter().flat_map(|form| form.fields.iter().map(move |field| (form, field)));
    fields()
        .find(|(_, field)| field.value == user || field.choices.iter().any(|choice| choice == user))
        .or_else(|| {
            fields().find(|(_, field)| {
                field.kind == "text" && ["user", "username", "login"].contains(&field.name.as_str())
            })
        })
}
