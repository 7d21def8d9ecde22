//! The command line. `run` is the daemon; the other commands look, and write nothing but what they
//! are asked for. Only `restore` and
//! `rebuild-from-matrix` change the database, of a bridge that is stopped.

mod backup;
mod check;
mod rebuild;
mod registration;

pub use rebuild::{RebuildError, fill as rebuild_from_matrix};

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{app, settings::Settings, shutdown::Shutdown, telemetry};

/// A bridge between Matrix and Gitter.
#[derive(Debug, Parser)]
#[command(name = "matrix-gitter", version, about, long_about = None)]
pub struct Cli {
    /// Settings file [default: settings.yaml, if it exists]
    #[arg(long, short, global = true, value_name = "FILE", env = "MATRIX_GITTER_CONFIG")]
    pub config: Option<PathBuf>,
    /// What to do [default: run]
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the bridge until SIGTERM
    Run,
    /// Check the settings, and live whether homeserver and Gitter accept them
    Check,
    /// Save the database to a file; a running bridge goes on meanwhile
    Backup {
        /// Write to this file instead of a new one in `backup_folder`
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Put a backup in the database's place; the bridge must be stopped
    Restore {
        /// The backup
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make a new database from the rooms on the homeserver, when it is lost and there is no backup
    RebuildFromMatrix {
        /// Keep the database that is there beside the new one
        #[arg(long)]
        replace: bool,
    },
    /// Write the registration that the homeserver needs
    Registration {
        /// Write to this file instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace the file if it exists
        #[arg(long, requires = "output")]
        force: bool,
    },
}

/// Does what the command line says.
///
/// # Errors
///
/// A [`SettingsError`](crate::settings::SettingsError) when the settings can't be used; otherwise
/// whatever ended the command.
pub async fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let file = cli.config.as_deref();
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => {
            let settings = Settings::load(file)?;
            telemetry::start(settings.log_format, &settings.log_level)?;
            let shutdown = Shutdown::new(settings.shutdown_timeout);
            shutdown.listen_to_signals()?;
            app::run(settings, shutdown).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check => Ok(check::run(file, &mut std::io::stdout()).await?),
        Command::Backup { to } => {
            let settings = Settings::load(file)?;
            backup::backup(&settings, to.as_deref(), &mut std::io::stdout()).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Restore { file: from } => {
            let settings = Settings::load(file)?;
            backup::restore(&settings, &from, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::RebuildFromMatrix { replace } => {
            let settings = Settings::load(file)?;
            rebuild::rebuild(&settings, replace, &mut std::io::stdout()).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Registration { output, force } => {
            // The registration at hand is what is about to be replaced: it need not fit.
            let settings = Settings::load_without_registration(file)?;
            registration::write(&settings, output.as_deref(), force, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn running_is_the_default_and_the_config_may_stand_anywhere() {
        let parse = |words: &[&str]| {
            Cli::try_parse_from([&["matrix-gitter"], words].concat())
                .expect("these words are allowed")
        };
        assert_eq!(parse(&[]).command, None);
        for words in [
            &["--config", "a.yaml", "check"],
            &["check", "--config", "a.yaml"],
            &["check", "-c", "a.yaml"],
        ] {
            let cli = parse(words);
            assert_eq!(
                (cli.command, cli.config),
                (Some(Command::Check), Some(PathBuf::from("a.yaml"))),
                "{words:?}"
            );
        }
        assert!(
            Cli::try_parse_from(["matrix-gitter", "registration", "--force"]).is_err(),
            "force needs a file"
        );
    }
}
