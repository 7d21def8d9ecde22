//! Files of the homeserver, fetched as they are asked for.

use std::time::Duration;

use reqwest::{
    Method, Response, StatusCode,
    header::{LOCATION, RANGE},
};
use ruma::MxcUri;
use secrecy::ExposeSecret as _;
use url::Url;

use super::{Call, Client, Doing, ERROR_MAX, Kind, MatrixError, V1, outcome, read};
use crate::metrics::Destination;

/// How long the homeserver may look for a file elsewhere, in milliseconds.
const ELSEWHERE_MS: &str = "20000";
/// How long it may be until the file begins.
const BEGIN: Duration = Duration::from_secs(30);

impl Client {
    /// Asks for a file, or for the `range` of it (a `Range` header); the answer is 200, 206 or 416, its body not read yet.
    ///
    /// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}`, see
    /// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid>. One redirect, as
    /// to a store behind the homeserver, is followed, without the token. The client should be one for
    /// [`Media`](crate::http::Destination::Media), as others end a long answer.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such file; else as every call.
    pub async fn download(
        &self,
        mxc: &MxcUri,
        range: Option<&str>,
    ) -> Result<Response, MatrixError> {
        let got = self.begin_download(mxc, range).await;
        if let Some(metrics) = &self.inner.metrics {
            metrics.http(Destination::Homeserver, outcome(got.as_ref().err()));
        }
        got
    }

    async fn begin_download(
        &self,
        mxc: &MxcUri,
        range: Option<&str>,
    ) -> Result<Response, MatrixError> {
        let what = "fetching a file";
        let Ok((server, id)) = mxc.parts() else {
            return Err(MatrixError::NotFound { doing: what });
        };
        let path = &["media", "download", server.as_str(), id];
        let call = self.get(what, Kind::User, V1, path).with("timeout_ms", ELSEWHERE_MS);
        let Call { doing, url, sound, .. } = call;
        if !sound {
            return Err(MatrixError::NotFound { doing: what });
        }
        let mut response = self.begin(doing, &url, range, true).await?;
        if matches!(
            response.status(),
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        ) {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| url.join(to).ok());
            let to = to.filter(|to| matches!(to.scheme(), "http" | "https"));
            let to = to.ok_or_else(|| doing.malformed("a redirect to nowhere"))?;
            response = self.begin(doing, &to, range, false).await?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(response)
            }
            status => {
                let headers = response.headers().clone();
                let body = read(response, ERROR_MAX).await.unwrap_or_default();
                Err(doing.answered(status, &headers, &body))
            }
        }
    }

    async fn begin(
        &self,
        doing: Doing,
        url: &Url,
        range: Option<&str>,
        with_token: bool,
    ) -> Result<Response, MatrixError> {
        let mut request = self.inner.http.request(Method::GET, url.clone());
        if with_token {
            request = request.bearer_auth(self.inner.token.expose_secret());
        }
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let begun = tokio::time::timeout(BEGIN, self.inner.http.send(request)).await;
        begun.map_err(|late| doing.unavailable(late))?.map_err(|error| doing.lost(error))
    }
}
