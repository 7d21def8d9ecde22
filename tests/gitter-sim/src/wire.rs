//! Connections that can be cut at any moment, as a lost server or proxy would.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::World;

/// Handle on one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conn {
    pub(crate) cut: CancellationToken,
}

impl Connected<IncomingStream<'_, Wire>> for Conn {
    fn connect_info(stream: IncomingStream<'_, Wire>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Accepts connections, unless the world is down.
pub(crate) struct Wire {
    pub(crate) listener: TcpListener,
    pub(crate) world: World,
    pub(crate) stop: CancellationToken,
}

impl Listener for Wire {
    type Io = Guarded<TcpStream>;
    type Addr = Conn;

    async fn accept(&mut self) -> (Guarded<TcpStream>, Conn) {
        loop {
            match self.listener.accept().await {
                Ok((io, _)) if !self.world.is_down() => {
                    let _ = io.set_nodelay(true);
                    let conn = Conn { cut: self.world.gate() };
                    return (Guarded::new(io, &conn.cut, &self.stop), conn);
                }
                Ok(_) => {}
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Conn> {
        Ok(Conn::default())
    }
}

/// A stream that fails once it is cut.
pub(crate) struct Guarded<T> {
    io: T,
    cut: [Pin<Box<WaitForCancellationFutureOwned>>; 2],
    dead: bool,
}

impl<T> Guarded<T> {
    pub(crate) fn new(io: T, cut: &CancellationToken, stop: &CancellationToken) -> Self {
        let wait = |token: &CancellationToken| Box::pin(token.clone().cancelled_owned());
        Self { io, cut: [wait(cut), wait(stop)], dead: false }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        use std::future::Future;
        if !self.dead {
            self.dead = self.cut.iter_mut().any(|wait| wait.as_mut().poll(cx).is_ready());
        }
        if self.dead { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
