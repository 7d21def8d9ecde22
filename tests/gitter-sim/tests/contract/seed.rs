//! The world the recordings were made in.

use gitter_sim::{GitterSim, RoomSpec, SimConfig, World};

pub(crate) const CALLBACK: &str = "http://127.0.0.1:5199/callback";

/// Recorded tokens: their users and clients.
const TOKENS: [(&str, &str, &str); 18] = [
    ("4a72f9919d38aa61df6eba7849e601e09b57ab96", "alice", "bridge-client-key"),
    ("e1c9e1292ce08501dd5f3ec95ea39d6f799f1e58", "bob", "bridge-client-key"),
    ("1a2c755e72e5e8e1b684d81569f2803b55fcb0ab", "carol", "bridge-client-key"),
    ("b42e03231031a4883d651e69b99897ef818f2649", "dave", "bridge-client-key"),
    ("488d36335b56d36aa4f97b6153770112e7946c9c", "erin", "bridge-client-key"),
    ("178b797d0c37aaff51d4b9eb6333c40e06d03213", "frank", "bridge-client-key"),
    ("06c2a998fbdb942729f1e41501239739f1cdc925", "bridgebot", "approved-client-key"),
    ("501efab079983ba9dcd4e6f88675ae19ef0145a7", "bob", "second-client-key"),
    ("8aebb7c3437f588f83422a69f9ffaba4d216edec", "alice", "second-client-key"),
    ("83252c51239f88ffa1cbae92dea380ca249f77d4", "carol", "second-client-key"),
    ("464812f03f573e527f16e635d1f19b1f4eafe404", "frank", "other-client-key"),
    ("e4b0e4b915d14afe89070c1b67ac35d6b3650a2e", "ratelimited", "bridge-client-key"),
    ("0b93a093ef4e647b9e4d57a68744cf0dcecb4c97", "revoked", "bridge-client-key"),
    ("d512045e08452a55e1412b77a065a1d87ef8bda2", "heidi_gitlab", "bridge-client-key"),
    ("d653056bbf39f26bd0e30cb6bf26dbfddcb810ae", "leaver", "bridge-client-key"),
    ("b44252a7de1af2a96d3188ba9f52aeac026e677b", "leaver2", "bridge-client-key"),
    ("79d3d908cbf9f9f15c71302e73bc96e6b05c89d4", "newbie", "bridge-client-key"),
    ("a702acb69011134075c77295c9a7728810be27c2", "bob", "revoked-client-key"),
];

/// The world, without a rate limit (the calls of an hour are replayed in a second).
pub(crate) async fn start() -> (GitterSim, World) {
    let sim = GitterSim::start(SimConfig { rate_limit: None, ..SimConfig::default() }).await;
    let sim = sim.expect("a free port");
    let world = sim.world();
    let people = [
        ("a001", "alice", "Alice Example"),
        ("a002", "bob", "Bob Example"),
        ("a003", "carol", "Carol Example"),
        ("a004", "dave", "Dave Example"),
        ("a005", "erin", "Erin Example"),
        ("a006", "frank", "Frank Example"),
        ("a007", "bridgebot", "Bridge Bot"),
        ("a008", "ratelimited", "Rate Limited"),
        ("a009", "revoked", "Revoked User"),
        ("a00a", "heidi_gitlab", "Heidi GitLab"),
        ("a00b", "leaver", "Lea Ver"),
        ("a00c", "leaver2", "Lea Ver 2"),
    ];
    for (id, name, display) in people {
        world.add_user_with_id(&format!("5f000000000000000000{id}"), name, display);
    }
    for n in 1..=35 {
        let id = format!("5f000000000000000000b0{n:02}");
        world.add_user_with_id(&id, &format!("member{n:02}"), &format!("Member {n}"));
    }
    add_clients(&world);
    add_rooms(&world);
    (sim, world)
}

fn add_clients(world: &World) {
    world.add_oauth_client("bridge-client-key", "bridge-client-secret", CALLBACK);
    let other = "http://127.0.0.1:5199/other";
    world.add_oauth_client("other-client-key", "other-client-secret", other);
    world.add_oauth_client("second-client-key", "second-client-secret", CALLBACK);
    let uri = "http://127.0.0.1:5199/trusted";
    world.add_client("trusted-client-key", "trusted-client-secret", uri, true, false);
    world.add_client("approved-client-key", "approved-client-secret", CALLBACK, false, true);
    let uri = "http://127.0.0.1:5199/revoked";
    world.add_oauth_client("revoked-client-key", "revoked-client-secret", uri);
    world.revoke_client("revoked-client-key");
}

fn add_rooms(world: &World) {
    world.add_group(Some("5f000000000000000000d001"), "gitterHQ", "Gitter HQ");
    world.add_group(Some("5f000000000000000000d002"), "acme", "Acme");
    let rows: [(&str, &str, &str, &[&str]); 9] = [
        (
            "e001",
            "gitterHQ/gitter",
            "Gitter issues, feature requests and support",
            &["bob", "bridgebot"],
        ),
        ("e002", "gitterHQ/sandbox", "Test your bots here", &[]),
        ("e003", "acme/widgets", "Widgets & gadgets", &["bob", "carol", "bridgebot"]),
        ("e004", "acme/secret", "Private room", &["bob"]),
        ("e005", "acme/crowd", "Many members", &[]),
        ("e006", "acme/empty", "", &[]),
        ("e007", "acme/bans", "Room with a ban", &["bob", "dave"]),
        ("e008", "acme/stream", "Room for realtime recordings", &["bob"]),
        ("e009", "acme/gitlabonly", "Only GitLab users", &[]),
    ];
    for (id, uri, topic, members) in rows {
        world.add_room(RoomSpec {
            id: Some(format!("5f000000000000000000{id}")),
            uri: uri.into(),
            topic: topic.into(),
            public: id != "e004",
            admins: vec!["alice".into()],
            tags: if id == "e001" { vec!["gitter".into(), "chat".into()] } else { Vec::new() },
            providers: if id == "e009" { vec!["gitlab".into()] } else { Vec::new() },
        });
        for member in members {
            world.join(uri, member);
        }
    }
    (1..=35).for_each(|n| world.join("acme/crowd", &format!("member{n:02}")));
    world.leave("acme/empty", "alice");
    world.add_former_uri("acme/oldwidgets", "acme/widgets");
    world.one_to_one("alice", "bob");
}

/// Recorded tokens and ours for them.
pub(crate) type Tokens = Vec<(&'static str, String)>;

/// The tokens of those of the recorded people who exist (newbie comes later).
pub(crate) fn our_tokens(world: &World) -> Tokens {
    let people = TOKENS.iter().filter(|(_, user, _)| world.has_user(user));
    people.map(|(token, user, client)| (*token, world.token_for(user, client))).collect()
}

/// A text with every recorded token replaced by ours.
pub(crate) fn with_our_tokens(tokens: &Tokens, text: &str) -> String {
    tokens.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
}
