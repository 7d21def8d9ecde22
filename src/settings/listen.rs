//! The two listening sockets, with errors that name the key to change.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::net::TcpListener;

use super::{Problem, Settings, SettingsError};

/// A port that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct ListenError {
    /// What to change, and where it stands.
    pub problem: Problem,
    kind: io::ErrorKind,
}

impl ListenError {
    /// Whether another program, perhaps the bridge itself, has the port.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.kind == io::ErrorKind::AddrInUse
    }
}

impl From<ListenError> for SettingsError {
    fn from(error: ListenError) -> Self {
        error.problem.into()
    }
}

impl Settings {
    /// Listens for the homeserver.
    ///
    /// # Errors
    ///
    /// When the port is in use, not allowed, or the address is not of this machine.
    pub async fn listen_appservice(&self) -> Result<TcpListener, ListenError> {
        let keys = ("matrix_appservice_port", "matrix_appservice_bind");
        self.listen(keys, self.matrix_appservice_bind, self.matrix_appservice_port).await
    }

    /// Listens for browsers that come to log in.
    ///
    /// # Errors
    ///
    /// When the port is in use, not allowed, or the address is not of this machine.
    pub async fn listen_login(&self) -> Result<TcpListener, ListenError> {
        let keys = ("gitter_login_port", "gitter_login_bind");
        self.listen(keys, self.gitter_login_bind, self.gitter_login_port).await
    }

    async fn listen(
        &self,
        (port_key, bind_key): (&'static str, &'static str),
        ip: IpAddr,
        port: u16,
    ) -> Result<TcpListener, ListenError> {
        let address = SocketAddr::new(ip, port);
        TcpListener::bind(address).await.map_err(|source| {
            let (key, wrong, fix) = match source.kind() {
                io::ErrorKind::AddrInUse => (
                    port_key,
                    format!("is {port}, which another program has on {ip}"),
                    format!("stop that program (is the bridge running already?) or set another {port_key}"),
                ),
                io::ErrorKind::PermissionDenied => (
                    port_key,
                    format!("is {port}, and ports below 1024 need a privilege"),
                    format!("set {port_key} to 1024 or more, behind a reverse proxy"),
                ),
                io::ErrorKind::AddrNotAvailable => (
                    bind_key,
                    format!("is {ip}, which is not an address of this machine"),
                    format!("set {bind_key} to an address that `ip address` shows, or leave it out"),
                ),
                _ => (
                    port_key,
                    format!("is {port}, and {address} cannot be listened on: {source}"),
                    format!("check {port_key} and {bind_key}"),
                ),
            };
            let (key, place) = (key.to_owned(), self.place(key));
            let problem = Problem { key, place, wrong, fix };
            ListenError { problem, kind: source.kind() }
        })
    }
}
