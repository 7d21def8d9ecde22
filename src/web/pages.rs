//! The pages themselves: templates beside this file, and a page for each way a login can end.

use askama::Template;
use axum::{
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use ruma::UserId;
use url::Url;

use super::{LoggedIn, link::below};

/// How a visit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    LoggedIn {
        account: String,
        logged_in: LoggedIn,
    },
    /// A link or an answer that was used before.
    Replayed,
    /// A link nobody here made, or changed since.
    Forged,
    Expired,
    /// The person said no.
    Denied,
    CodeRefused,
    /// Gitter doesn't know the bridge: for its admin.
    Misconfigured,
    /// With the status that says how.
    GitterDown(StatusCode),
    /// It limits calls.
    GitterBusy,
    /// No cookie, or not that of this login.
    OtherBrowser,
    Internal,
    NotFound,
    BadRequest(StatusCode),
    /// About a file, for people on Gitter who followed a link.
    File(NoFile),
}

/// Why a file is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoFile {
    /// No file is shown to anybody.
    Off,
    /// A link nobody here made, or changed since.
    Unknown,
    Expired,
    /// Its message was deleted.
    Revoked,
    /// The homeserver no longer has it.
    Gone,
    TooLarge,
    /// Too many are being fetched already.
    Busy,
    /// With the status that says how.
    HomeserverDown(StatusCode),
}

/// What all pages have in common.
pub(super) struct Pages {
    home: String,
    login: String,
    style: String,
    bot: String,
    bot_link: String,
}

#[derive(Template)]
#[template(config = "src/web/askama.toml", path = "index.html")]
struct IndexPage<'a> {
    all: &'a Pages,
}

#[derive(Template)]
#[template(config = "src/web/askama.toml", path = "confirm.html")]
struct ConfirmPage<'a> {
    all: &'a Pages,
    account: &'a str,
    link: &'a str,
    page: &'a str,
}

#[derive(Template)]
#[template(config = "src/web/askama.toml", path = "success.html")]
struct SuccessPage<'a> {
    all: &'a Pages,
    account: &'a str,
    who: &'a LoggedIn,
}

#[derive(Template)]
#[template(config = "src/web/askama.toml", path = "problem.html")]
struct ProblemPage<'a> {
    all: &'a Pages,
    title: &'static str,
    what: &'static str,
    next: &'static str,
    /// Whether the bot can help.
    bot: bool,
}

/// `GET /style.css`; the same for everybody.
pub(super) async fn style() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=3600"),
    ];
    (headers, include_str!("style.css")).into_response()
}

impl Pages {
    pub(super) fn new(login_url: &Url, bot: &UserId) -> Self {
        Self {
            // Paths only: the cookies belong to the host the page was opened with.
            home: below(login_url, "").path().to_owned(),
            login: below(login_url, "login").path().to_owned(),
            style: below(login_url, "style.css").path().to_owned(),
            bot: bot.to_string(),
            bot_link: bot.matrix_to_uri().to_string(),
        }
    }

    pub(super) fn index(&self) -> Response {
        page(StatusCode::OK, &IndexPage { all: self })
    }

    pub(super) fn confirm(&self, account: &str, link: &str, token: &str) -> Response {
        page(StatusCode::OK, &ConfirmPage { all: self, account, link, page: token })
    }

    pub(super) fn outcome(&self, outcome: &Outcome) -> Response {
        const NEW_LINK: &str = "In your Matrix client, say “login” to the bot to get a new link.";
        let (status, title, what, next) = match outcome {
            Outcome::LoggedIn { account, logged_in } => {
                let success = SuccessPage { all: self, account, who: logged_in };
                return page(StatusCode::OK, &success);
            }
            Outcome::Replayed => (
                StatusCode::GONE,
                "This link was used before",
                "Each login link works once. If you have just logged in with it, all is well: the bot has written to you.",
                "Otherwise say “login” to the bot in your Matrix client to get a new link.",
            ),
            Outcome::Forged => (
                StatusCode::FORBIDDEN,
                "This link is not valid",
                "It is incomplete, or was changed on its way.",
                "Open the bot’s link directly from your Matrix client, or say “login” to the bot to get a new one.",
            ),
            Outcome::Expired => (
                StatusCode::GONE,
                "This link has expired",
                "Login links work for ten minutes.",
                NEW_LINK,
            ),
            Outcome::Denied => (
                StatusCode::FORBIDDEN,
                "You did not allow it",
                "You told Gitter not to give this bridge access, so nothing was linked or changed.",
                "If you change your mind, say “login” to the bot in your Matrix client to get a new link.",
            ),
            Outcome::CodeRefused => (
                StatusCode::FORBIDDEN,
                "Gitter refused the login",
                "Gitter sent you back here with an approval that it then did not accept. Nothing was linked or changed.",
                NEW_LINK,
            ),
            Outcome::Misconfigured => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Gitter does not know this bridge",
                "Gitter refused the bridge itself, not you. Nothing was linked or changed.",
                "Please tell the admin of this bridge; its log says what to look at.",
            ),
            Outcome::GitterDown(status) => (
                *status,
                "Gitter does not answer",
                "Gitter is out of reach at the moment, so the login could not be finished.",
                "Please try again later: say “login” to the bot in your Matrix client to get a new link.",
            ),
            Outcome::GitterBusy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Gitter asks to wait",
                "Gitter takes nothing more from you or this bridge for a moment, so the login could not be finished.",
                "Please try again in a minute or two: say “login” to the bot in your Matrix client to get a new link.",
            ),
            Outcome::OtherBrowser => (
                StatusCode::BAD_REQUEST,
                "This login was not started here",
                "A login has to be finished within ten minutes, in the browser it was started in, and with cookies allowed.",
                "Say “login” to the bot in your Matrix client, and open the new link in one browser only.",
            ),
            Outcome::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something went wrong",
                "The fault is on our side, and has been written to the log.",
                "Please say “login” to the bot in your Matrix client to try again. If that does not help, tell the admin of this bridge.",
            ),
            Outcome::NotFound => (
                StatusCode::NOT_FOUND,
                "There is nothing here",
                "This address does not lead to any page.",
                "If it came from the bot, open it directly from your Matrix client: it may have been cut off.",
            ),
            Outcome::BadRequest(status) => (
                *status,
                "That did not make sense",
                "Your browser asked for something this page can’t do.",
                NEW_LINK,
            ),
            Outcome::File(why) => return self.no_file(*why),
        };
        page(status, &ProblemPage { all: self, title, what, next, bot: true })
    }

    fn no_file(&self, why: NoFile) -> Response {
        const SHOWN: &str = "It led to a file that somebody on Matrix showed to people on Gitter.";
        const ASK: &str = "Ask the person who sent it to send it again.";
        const LATER: &str = "Please try again in a minute.";
        let (status, title, what, next) = match why {
            NoFile::Off => (
                StatusCode::GONE,
                "Files are not shown here",
                "The admin of this bridge has switched off showing files of Matrix on Gitter.",
                "Ask the person who sent it for another way.",
            ),
            NoFile::Unknown => (
                StatusCode::NOT_FOUND,
                "There is no such file",
                "This link is incomplete, or was changed on its way.",
                "Open it directly from the message on Gitter.",
            ),
            NoFile::Expired => (StatusCode::GONE, "This link has expired", SHOWN, ASK),
            NoFile::Revoked => (
                StatusCode::GONE,
                "This file was taken back",
                "The message it belonged to was deleted.",
                ASK,
            ),
            NoFile::Gone => (
                StatusCode::NOT_FOUND,
                "This file is gone",
                "The Matrix server it was on no longer has it.",
                ASK,
            ),
            NoFile::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "This file is too large",
                "It is larger than the files this bridge passes on.",
                "Ask the person who sent it for another way.",
            ),
            NoFile::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many files at once",
                "This bridge is passing on as many files as it can.",
                LATER,
            ),
            NoFile::HomeserverDown(status) => (
                status,
                "The file can’t be fetched",
                "The Matrix server it is on does not answer right now.",
                LATER,
            ),
        };
        page(status, &ProblemPage { all: self, title, what, next, bot: false })
    }
}

fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "page not rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
