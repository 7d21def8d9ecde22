//! Command line in, exit code out.

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;
use matrix_gitter::{cli, settings::SettingsError, telemetry::Chain};

/// The command line or the settings must be changed; the same status as clap's for a wrong command
/// line.
const MISCONFIGURED: u8 = 2;

/// How long what was cut off may still take to let go of the disk: a backup can't be asked to stop.
const LAST: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(cli::execute(cli::Cli::parse()));
            runtime.shutdown_timeout(LAST);
            outcome
        }
        Err(error) => {
            Err(anyhow::Error::new(error).context("the asynchronous runtime cannot be started"))
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("matrix-gitter: {}", Chain(error.as_ref()));
        ExitCode::from(if error.is::<SettingsError>() { MISCONFIGURED } else { 1 })
    })
}
