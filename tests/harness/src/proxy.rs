//! A way between two servers that can be made bad: slow, cut, dumb, or full of wrong answers.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Read at once from either side.
const CHUNK: usize = 16 * 1024;

/// What is wrong with the way. It holds for connections that are there as well as for new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hurt {
    /// Nothing.
    None,
    /// Each piece takes so long, in either direction.
    Slow(Duration),
    /// Connections are cut, new ones too.
    Cut,
    /// A question arrives, its answer is cut after so many bytes; 0: it is lost as a whole.
    Half(usize),
    /// No question arrives; the way itself answers with this status, and for `429` with a time to wait.
    Answer(u16),
    /// Nothing arrives and nobody says so.
    Blackhole,
}

/// A TCP proxy on loopback. Dropping it closes the way.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    hurt: watch::Sender<Hurt>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Opens a way to the port `to`, where somebody may listen later only.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn open(to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (hurt, watched) = watch::channel(Hurt::None);
        let task = tokio::spawn(async move {
            // Tasks of connections end with this one: the set is dropped.
            let mut ways = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    Ok((client, _)) = listener.accept() => {
                        ways.spawn(carry(client, to, watched.clone()));
                    }
                    Some(_) = ways.join_next() => {}
                }
            }
        });
        Ok(Self { port, hurt, task })
    }

    /// Makes the way bad, or good again.
    pub fn hurt(&self, how: Hurt) {
        self.hurt.send_replace(how);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection, until somebody ends it; errors are ends.
async fn carry(mut client: TcpStream, to: u16, mut hurt: watch::Receiver<Hurt>) -> Option<()> {
    if *hurt.borrow() == Hurt::Cut {
        return None;
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await.ok()?;
    let (mut asked, mut answered) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut left = None;
    loop {
        let now = *hurt.borrow_and_update();
        if now == Hurt::Cut {
            return None;
        }
        if now == Hurt::Blackhole {
            hurt.changed().await.ok()?;
            continue;
        }
        tokio::select! {
            changed = hurt.changed() => { changed.ok()?; left = None; }
            read = client.read(&mut asked) => {
                let asked = &asked[..read.ok().filter(|n| *n > 0)?];
                match now {
                    Hurt::Answer(status) => return refuse(&mut client, status, asked).await,
                    Hurt::Slow(time) => sleep(time).await,
                    _ => {}
                }
                server.write_all(asked).await.ok()?;
            }
            read = server.read(&mut answered) => {
                let answered = &answered[..read.ok().filter(|n| *n > 0)?];
                let fits = match now {
                    Hurt::Half(bytes) => {
                        let room = *left.get_or_insert(bytes);
                        left = Some(room.saturating_sub(answered.len()));
                        room.min(answered.len())
                    }
                    _ => answered.len(),
                };
                if let Hurt::Slow(time) = now {
                    sleep(time).await;
                }
                client.write_all(&answered[..fits]).await.ok()?;
                if fits < answered.len() {
                    return None;
                }
            }
        }
    }
}

/// Answers a question that never arrives.
async fn refuse(client: &mut TcpStream, status: u16, asked: &[u8]) -> Option<()> {
    let mut head = asked.to_vec();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < CHUNK {
        let mut more = [0; 1024];
        let read = client.read(&mut more).await.ok().filter(|n| *n > 0)?;
        head.extend_from_slice(&more[..read]);
    }
    let wait = if status == 429 { "Retry-After: 1\r\n" } else { "" };
    let body = "<html>The way is bad</html>";
    let answer = format!(
        "HTTP/1.1 {status} Bad Way\r\n{wait}Content-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes()).await.ok()?;
    client.shutdown().await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says back what it hears.
    async fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut heard, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = heard.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        port
    }

    /// What comes back when `words` are said, up to the end or the same length.
    async fn said(proxy: &Proxy, words: &[u8]) -> Vec<u8> {
        let address = (Ipv4Addr::LOCALHOST, proxy.port);
        let mut way = TcpStream::connect(address).await.expect("the proxy listens");
        let mut back = Vec::new();
        if way.write_all(words).await.is_err() {
            return back;
        }
        while back.len() < words.len() {
            match way.read_buf(&mut back).await {
                Ok(read) if read > 0 => {}
                _ => break,
            }
        }
        back
    }

    #[tokio::test]
    async fn a_way_is_good_until_it_is_hurt_and_good_again_after() {
        let proxy = Proxy::open(echo().await).await.expect("a way");
        let words = b"GET / HTTP/1.1\r\n\r\n";
        assert_eq!(said(&proxy, words).await, words);
        proxy.hurt(Hurt::Slow(Duration::from_millis(1)));
        assert_eq!(said(&proxy, words).await, words);
        proxy.hurt(Hurt::Half(3));
        assert_eq!(said(&proxy, words).await, &words[..3]);
        proxy.hurt(Hurt::Answer(503));
        assert!(said(&proxy, words).await.starts_with(b"HTTP/1.1 503"));
        proxy.hurt(Hurt::Cut);
        assert!(said(&proxy, words).await.is_empty());
        proxy.hurt(Hurt::None);
        assert_eq!(said(&proxy, words).await, words);
    }

    #[tokio::test]
    async fn what_fell_into_a_black_hole_arrives_when_it_is_gone() {
        let proxy = Proxy::open(echo().await).await.expect("a way");
        proxy.hurt(Hurt::Blackhole);
        let words = said(&proxy, b"hello");
        tokio::pin!(words);
        assert!(futures_now(&mut words).await.is_none(), "nothing comes back");
        proxy.hurt(Hurt::None);
        assert_eq!(words.await, b"hello");
    }

    /// What a future gives when everything that can happen now has happened.
    async fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::time::timeout(Duration::from_millis(50), future).await.ok()
    }
}
