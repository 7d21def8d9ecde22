//! Answers other than success, always as JSON with a code.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// Why a request was not served, as the homeserver is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    #[error("The homeserver's token is missing from the Authorization header")]
    MissingToken,
    #[error("This is not the homeserver's token")]
    WrongToken,
    #[error("No such path")]
    Unrecognized,
    #[error("This path does not take this method")]
    WrongMethod,
    #[error("A part of the path is too long or not UTF-8")]
    BadPath,
    #[error("Not known here")]
    NotFound,
    #[error("The body is not JSON")]
    NotJson,
    #[error("The body is not of the expected shape")]
    BadJson,
    #[error("The body is too large")]
    TooLarge,
    #[error("The body ended early")]
    Unreadable,
    #[error("The body came too slowly")]
    TooSlow,
    #[error("Something went wrong here, please send it again")]
    Internal,
}

impl ApiError {
    fn status(self) -> StatusCode {
        match self {
            Self::MissingToken => StatusCode::UNAUTHORIZED,
            Self::WrongToken => StatusCode::FORBIDDEN,
            Self::Unrecognized | Self::NotFound => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadPath | Self::NotJson | Self::BadJson | Self::Unreadable => {
                StatusCode::BAD_REQUEST
            }
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::MissingToken => "M_MISSING_TOKEN",
            Self::WrongToken => "M_FORBIDDEN",
            Self::Unrecognized | Self::WrongMethod => "M_UNRECOGNIZED",
            Self::BadPath => "M_INVALID_PARAM",
            Self::NotFound => "M_NOT_FOUND",
            Self::NotJson => "M_NOT_JSON",
            Self::BadJson => "M_BAD_JSON",
            Self::TooLarge => "M_TOO_LARGE",
            Self::Unreadable | Self::TooSlow | Self::Internal => "M_UNKNOWN",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"errcode": self.code(), "error": self.to_string()});
        (self.status(), Json(body)).into_response()
    }
}
