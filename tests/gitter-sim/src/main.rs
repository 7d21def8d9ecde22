//! The simulator on its own: `gitter-sim --port 5100 --demo-data --oauth-client KEY:SECRET:URI`.

use anyhow::{Context, Result};
use clap::Parser;
use gitter_sim::{GitterSim, RoomSpec, SimConfig, World};

/// A simulated Gitter for trying out and testing what talks to Gitter.
#[derive(Debug, Parser)]
struct Args {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 5100)]
    port: u16,
    /// Adds some people, rooms and messages.
    #[arg(long)]
    demo_data: bool,
    /// Registers an OAuth client; may be given more than once.
    #[arg(long, value_name = "KEY:SECRET:REDIRECT_URI")]
    oauth_client: Vec<String>,
    /// Calls per minute, person and client; 0 for no limit.
    #[arg(long, default_value_t = 100)]
    rate_limit: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = SimConfig {
        port: args.port,
        rate_limit: (args.rate_limit > 0).then_some(args.rate_limit),
        ..SimConfig::default()
    };
    let sim = GitterSim::start(config)
        .await
        .with_context(|| format!("listening on 127.0.0.1:{}", args.port))?;
    let world = sim.world();
    for client in &args.oauth_client {
        let mut parts = client.splitn(3, ':');
        let (key, secret, uri) = (parts.next(), parts.next(), parts.next());
        let (Some(key), Some(secret), Some(uri)) = (key, secret, uri) else {
            anyhow::bail!("--oauth-client takes KEY:SECRET:REDIRECT_URI");
        };
        world.add_oauth_client(key, secret, uri);
    }
    if args.demo_data {
        add_demo_data(&world);
    }
    println!("page   {}/", sim.web_url());
    println!("api    {}", sim.api_url());
    println!("oauth  {}", sim.oauth_url());
    println!("faye   {}", sim.faye_url());
    tokio::signal::ctrl_c().await.context("waiting for the signal to stop")?;
    sim.stop().await;
    Ok(())
}

fn add_demo_data(world: &World) {
    for (name, display) in [
        ("alice", "Alice Example"),
        ("bob", "Bob Example"),
        ("carol", "Carol Example"),
        ("dave", "Dave Example"),
    ] {
        world.add_user(name, display);
    }
    let rooms = [
        ("gitterHQ/gitter", "Gitter issues, feature requests and support"),
        ("acme/widgets", "Widgets & gadgets"),
        ("acme/lobby", "Everything else"),
    ];
    for (uri, topic) in rooms {
        world.add_room(RoomSpec {
            topic: topic.into(),
            admins: vec!["alice".into()],
            ..RoomSpec::public(uri)
        });
        world.join(uri, "bob");
    }
    world.join("acme/widgets", "carol");
    world.post("alice", "acme/widgets", "Welcome to **widgets**, @bob!");
    world.post("bob", "acme/widgets", "Thanks. See #12 and http://example.com/");
    world.post("alice", "gitterHQ/gitter", "Anyone here?");
}
