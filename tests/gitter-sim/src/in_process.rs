//! The same Gitter without sockets, for simulations: requests are values, lines are memory.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, Response, header};
use axum::serve::{IncomingStream, Listener};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::wire::{Conn, Guarded};
use crate::{World, server};

/// What a line holds in each direction before its writer waits, in bytes.
const LINE: usize = 64 << 10;

/// Why a request brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// Nobody takes connections: nothing was done.
    Down,
    /// The connection was cut; the request may have been carried out.
    Cut,
}

impl World {
    /// Sets where this Gitter believes to be, such as `http://gitter.test`: links in answers begin with it.
    pub fn set_origin(&self, origin: &str) {
        origin.clone_into(&mut self.lock().origin);
    }

    /// Answers one request (REST, `OAuth`, pages; no websocket), as the server does.
    ///
    /// # Errors
    ///
    /// When this Gitter is down, or a fault cuts the connection.
    pub async fn call(&self, mut request: Request) -> Result<Response<Body>, NoAnswer> {
        if self.is_down() {
            return Err(NoAnswer::Down);
        }
        let conn = Conn { cut: self.gate() };
        request.extensions_mut().insert(ConnectInfo(conn.clone()));
        let answer = server::handle(State(self.clone()), ConnectInfo(conn.clone()), request);
        let mut answer = conn.cut.run_until_cancelled(answer).await.ok_or(NoAnswer::Cut)?;
        if conn.cut.is_cancelled() {
            return Err(NoAnswer::Cut);
        }
        let now = jiff::Timestamp::from_millisecond(self.lock().now()).unwrap_or_default();
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(date) = HeaderValue::try_from(date) {
            answer.headers_mut().insert(header::DATE, date);
        }
        Ok(answer)
    }

    /// Takes connections without a network for as long as the returned future runs, for websockets above all.
    pub fn open_door(&self) -> (Door, impl Future<Output = ()> + Send + 'static) {
        let (knock, lines) = mpsc::unbounded_channel();
        let router = Router::new().fallback(server::handle).with_state(self.clone());
        let service = router.into_make_service_with_connect_info::<Conn>();
        let lines = Lines { lines, world: self.clone() };
        let serve = async move {
            // Only ever ends by being dropped.
            let _ = axum::serve(lines, service).await;
        };
        (Door { knock, world: self.clone() }, serve)
    }
}

/// Where connections are made.
#[derive(Debug, Clone)]
pub struct Door {
    knock: mpsc::UnboundedSender<DuplexStream>,
    world: World,
}

impl Door {
    /// A new connection, on which nothing was said yet.
    ///
    /// # Errors
    ///
    /// When this Gitter is down.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        if self.world.is_down() {
            return Err(refused());
        }
        let (ours, theirs) = tokio::io::duplex(LINE);
        self.knock.send(theirs).map_err(|_| refused())?;
        Ok(ours)
    }
}

struct Lines {
    lines: mpsc::UnboundedReceiver<DuplexStream>,
    world: World,
}

impl Listener for Lines {
    type Io = Guarded<DuplexStream>;
    type Addr = Conn;

    async fn accept(&mut self) -> (Self::Io, Conn) {
        match self.lines.recv().await {
            Some(io) => {
                let conn = Conn { cut: self.world.gate() };
                (Guarded::new(io, &conn.cut, &CancellationToken::new()), conn)
            }
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Conn> {
        Ok(Conn::default())
    }
}

impl Connected<IncomingStream<'_, Lines>> for Conn {
    fn connect_info(stream: IncomingStream<'_, Lines>) -> Self {
        stream.remote_addr().clone()
    }
}
