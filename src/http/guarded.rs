//! Fetching what strangers point at, without being led into the bridge's own network.
//!
//! # Guarantees
//!
//! - Nothing is asked of an address that is not public, except of the servers the admin has named
//!   (`only_public_addresses_are_public`, `what_leads_into_the_own_network_is_not_followed`).
//! - A name is resolved once for a connection, each of its addresses is looked at, and the connection is made to one of these:
//!   a name that changes its mind in between leads nowhere else.
//! - A redirect is looked at like the first address.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::{
    Method, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::LOCATION,
};
use url::{Host, Url};

use super::{Destination, Http, HttpError, Unanswered, body, builder, built};

/// How many redirects are followed.
const REDIRECTS: usize = 3;

/// Something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address is none that strangers may have the bridge ask.
    #[error("{0} is not a public address")]
    Private(Url),
    /// It could not be asked for.
    #[error("it could not be asked for")]
    Http(#[from] reqwest::Error),
    /// Nobody answers.
    #[error("it could not be asked for")]
    Unanswered(#[from] Unanswered),
    /// It could not be read to its end.
    #[error("it could not be read")]
    Body(#[from] HttpError),
    /// One redirect too many, or one to nowhere.
    #[error("it is nowhere to be found")]
    Lost,
}

/// Fetches from public addresses, and from servers of the admin's own. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Guarded {
    own: Arc<Vec<Url>>,
    to_own: Http,
    to_public: Http,
}

impl Guarded {
    /// `own` are servers that may be asked although their addresses may be private: the admin has named them. They are asked by
    /// `to_own`.
    ///
    /// What is public is asked without a proxy: through one, nobody knows which address answers. What carries `to_own` instead of
    /// the network carries that, too.
    ///
    /// # Errors
    ///
    /// When TLS can't be set up.
    pub fn new(own: Vec<Url>, to_own: Http) -> Result<Self, HttpError> {
        let public = || builder(Destination::Media).no_proxy().dns_resolver(OnlyPublic);
        let to_public = if to_own.is_carried() {
            to_own.clone()
        } else {
            built(Destination::Media, public)?.into()
        };
        Ok(Self { own: Arc::new(own), to_own, to_public })
    }

    /// Fetches at most `largest` bytes; the caller bounds the time.
    ///
    /// # Errors
    ///
    /// See [`FetchError`].
    pub async fn fetch(&self, url: &Url, largest: usize) -> Result<Vec<u8>, FetchError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let response = self.ask(&url).await?;
            if !response.status().is_redirection() {
                return Ok(body(response.error_for_status()?, largest).await?);
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            url = to.and_then(|to| url.join(to).ok()).ok_or(FetchError::Lost)?;
        }
        Err(FetchError::Lost)
    }

    async fn ask(&self, url: &Url) -> Result<Response, FetchError> {
        let http = if self.is_own(url) { &self.to_own } else { self.public(url)? };
        Ok(http.send(http.request(Method::GET, url.clone())).await?)
    }

    fn is_own(&self, url: &Url) -> bool {
        self.own.iter().any(|own| own.origin() == url.origin())
    }

    /// For addresses that are not the admin's.
    fn public(&self, url: &Url) -> Result<&Http, FetchError> {
        // Numbers are not names: the resolver would not be asked for them. And other ports are nobody's web server.
        let named = matches!(url.host(), Some(Host::Domain(name)) if name.contains('.'));
        let web = matches!(url.scheme(), "http" | "https") && url.port().is_none();
        if named && web { Ok(&self.to_public) } else { Err(FetchError::Private(url.clone())) }
    }
}

/// The system's resolver, but for names of which any address is not public.
struct OnlyPublic;

impl Resolve for OnlyPublic {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(all_public(found.collect())?)
        })
    }
}

fn all_public(found: Vec<SocketAddr>) -> Result<Addrs, std::io::Error> {
    match found.iter().find(|address| !is_public(address.ip())) {
        Some(_) => Err(std::io::Error::other("the name leads to an address that is not public")),
        None => Ok(Box::new(found.into_iter())),
    }
}

/// Whether an address is one of the public internet: not of this machine, of its networks, of a provider's inside (and so of
/// no cloud's metadata), nor reserved.
///
/// <https://www.iana.org/assignments/iana-ipv4-special-registry>,
/// <https://www.iana.org/assignments/iana-ipv6-special-registry>.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 240.., _, _) // this network, private, this machine, reserved and broadcast
            | (100, 64..=127, _) // carrier-grade NAT
            | (169, 254, _) // link-local, metadata
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2) // protocols, documentation
            | (192, 88, 99) // relays to IPv6
            | (198, 18 | 19, _) // benchmarks
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special && !ip.is_multicast()
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let inner = |high: u16, low: u16| {
        is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            inner(high, low)
        }
        [0x2002, high, low, ..] => inner(high, low),
        // Protocols and tunnels, documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Global unicast; all else is local, multicast or not given out.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::path};

    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        let rows = [
            ("1.1.1.1", true),
            ("100.63.255.255", true),
            ("172.32.0.1", true),
            ("2606:4700::1111", true),
            ("64:ff9b::101:101", true),
            ("::ffff:1.1.1.1", true),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("100.100.100.200", false),
            ("127.0.0.1", false),
            ("127.1.2.3", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.168.0.1", false),
            ("192.0.0.8", false),
            ("192.0.2.1", false),
            ("198.19.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::127.0.0.1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("64:ff9b::7f00:1", false),
            ("64:ff9b:1::1", false),
            ("2002:7f00:1::", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("fe80::1", false),
            ("fc00::1", false),
            ("fd00:ec2::254", false),
            ("ff02::1", false),
        ];
        for (ip, public) in rows {
            assert_eq!(is_public(ip.parse().expect("an address")), public, "row: {ip}");
        }
        let two =
            |second: &str| ["1.1.1.1:0", second].map(|a| a.parse().expect("an address")).to_vec();
        assert!(all_public(two("1.0.0.1:0")).is_ok());
        assert!(all_public(two("10.0.0.1:0")).is_err(), "one is enough");
    }

    #[tokio::test]
    async fn what_leads_into_the_own_network_is_not_followed() {
        let (own, inside) = (MockServer::start().await, MockServer::start().await);
        let to = |url: String| ResponseTemplate::new(302).insert_header("Location", url);
        let found = || ResponseTemplate::new(200).set_body_string("here");
        Mock::given(path("/there")).respond_with(found()).mount(&own).await;
        Mock::given(path("/secret")).respond_with(found()).mount(&inside).await;
        let secret = format!("{}/secret", inside.uri());
        for (from, url) in [
            ("/to-there", format!("{}/there", own.uri())),
            ("/to-secret", secret.clone()),
            ("/to-name", secret.replace("127.0.0.1", "localhost")),
            ("/round", format!("{}/round", own.uri())),
            ("/to-file", "file:///etc/passwd".to_owned()),
        ] {
            Mock::given(path(from)).respond_with(to(url)).mount(&own).await;
        }
        let guarded = Guarded::new(
            vec![own.uri().parse().expect("a url")],
            super::super::client(Destination::Media).expect("a client").into(),
        )
        .expect("clients");
        let get = async |url: &str| guarded.fetch(&url.parse().expect("a url"), 10).await;

        let direct = get(&format!("{}/there", own.uri())).await.expect("the admin has named it");
        assert_eq!(direct, b"here");
        get(&format!("{}/to-there", own.uri())).await.expect("a redirect is followed");
        for refused in ["/to-secret", "/to-name", "/round", "/to-file"] {
            let got = get(&format!("{}{refused}", own.uri())).await;
            assert!(got.is_err(), "row: {refused}: {got:?}");
        }
        assert!(matches!(get(&secret).await, Err(FetchError::Private(_))));
        // A name with a dot, which the resolver leads to this machine.
        let (port, named) = (inside.address().port(), "http://localhost./secret");
        assert!(get(named).await.is_err());
        assert!(get(&format!("http://localhost.:{port}/secret")).await.is_err());
        let asked = inside.received_requests().await.expect("requests are recorded");
        assert!(asked.is_empty(), "{asked:?}");
        let long = guarded.fetch(&format!("{}/there", own.uri()).parse().expect("a url"), 3).await;
        assert!(matches!(long, Err(FetchError::Body(HttpError::TooLong(3)))), "{long:?}");
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_not_resolved() {
        let resolved = OnlyPublic.resolve("localhost".parse().expect("a name")).await;
        assert!(resolved.is_err());
    }
}
