//! The browser on a bridge's way to Gitter and back, with the simulator's real pages and a bridge of three answers.

use anyhow::{Context, Result};
use gitter_sim::{GitterSim, SimConfig};
use harness::{Browser, Consent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers one request as a bridge does: a page with a form, a redirect to `authorize`, the page at the end.
async fn answer(mut stream: TcpStream, authorize: &str) -> Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        anyhow::ensure!(stream.read_buf(&mut request).await? > 0, "the browser went away");
    }
    let request = String::from_utf8(request)?;
    let line = request.lines().next().context("an empty request")?;
    let told_cookie = request.to_lowercase().contains("cookie: __host-try=42");
    let (status, extra, body) = if line.starts_with("GET /login?link=1&two=2 ") {
        let form = r#"<form method="post" action="/start"><input type="hidden" name="link"
            value="&quot;1&quot;"><button>Go</button></form>"#;
        (
            "200 OK",
            "Set-Cookie: __Host-try=42; Path=/; Secure; HttpOnly\r\n".to_owned(),
            form.to_owned(),
        )
    } else if line.starts_with("POST /start ") && told_cookie {
        ("303 See Other", format!("Location: {authorize}\r\n"), String::new())
    } else if line.starts_with("GET /callback?") && told_cookie {
        ("200 OK", String::new(), format!("<h1>End</h1><p>{line}</p>"))
    } else {
        ("400 Bad Request", String::new(), line.to_owned())
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{extra}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    Ok(())
}

async fn log_in(user: &str, consent: Consent) -> Result<String> {
    let gitter = GitterSim::start(SimConfig::default()).await?;
    for name in ["alice", "bob"] {
        gitter.world().add_user(name, name);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let bridge = format!("http://{}", listener.local_addr()?);
    let redirect = format!("{bridge}/callback");
    gitter.world().add_oauth_client("key", "secret", &redirect);
    let authorize = format!(
        "{}/authorize?response_type=code&client_id=key&state=s%20t&redirect_uri={}",
        gitter.oauth_url(),
        redirect.replace(':', "%3A").replace('/', "%2F"),
    );
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream, &authorize).await?;
        }
        anyhow::Ok(())
    });
    let link = format!("{bridge}/login?link=1&two=2");
    let page = Browser::new()?.log_in(&link, user, consent).await?;
    serving.abort();
    assert_eq!(page.status, 200, "{}", page.text());
    Ok(page.text())
}

#[tokio::test]
async fn who_approves_comes_back_with_a_code_and_the_state() -> Result<()> {
    let text = log_in("bob", Consent::Approve).await?;
    assert!(text.starts_with("End GET /callback?code="), "{text}");
    assert!(text.contains("&state=s%20t") || text.contains("&state=s+t"), "{text}");
    Ok(())
}

#[tokio::test]
async fn who_denies_comes_back_with_an_error() -> Result<()> {
    let text = log_in("alice", Consent::Deny).await?;
    assert!(text.contains("error=access_denied"), "{text}");
    Ok(())
}
