//! `matrix-gitter registration`: the registration from the settings.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use crate::settings::Settings;

/// The registration could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// Not overwritten: the homeserver may be using it.
    #[error("{} exists; add --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The system refused.
    #[error("{} cannot be written", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Standard output is closed.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

/// Writes the registration to `output`, readable by its owner alone, or to `stdout`.
pub(super) fn write(
    settings: &Settings,
    output: Option<&Path>,
    force: bool,
    stdout: &mut impl Write,
) -> Result<(), WriteError> {
    let yaml = settings.registration().to_yaml();
    let Some(path) = output else {
        return stdout.write_all(yaml.as_bytes()).map_err(WriteError::Output);
    };
    if path.exists() && !force {
        return Err(WriteError::Exists(path.to_owned()));
    }
    // Written beside it and moved: a homeserver that starts now reads the old file or the new one,
    // never half of one.
    let beside = path.with_extension("yaml.new");
    private(&beside)
        .and_then(|mut file| file.write_all(yaml.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|source| WriteError::File(path.to_owned(), source))?;
    writeln!(
        stdout,
        "{} is written. Name it in the homeserver's configuration (Synapse: app_service_config_files), \
         let the homeserver's user read it, and restart the homeserver.",
        path.display()
    )
    .map_err(WriteError::Output)
}

/// Opens a new file that only its owner may read: it holds both tokens.
fn private(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::settings::{registration::read, tests::good};

    #[test]
    fn the_file_is_private_fits_its_settings_and_is_not_replaced_by_accident() {
        let settings = good(&[]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("registration.yaml");
        let mut said = Vec::new();
        write(&settings, Some(&path), false, &mut said).expect("the folder is writable");
        assert_eq!(read(&path).expect("it can be read").differences(&settings), []);
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(
            write(&settings, Some(&path), false, &mut said),
            Err(WriteError::Exists(_))
        ));
        write(&settings, Some(&path), true, &mut said).expect("it may be replaced");
        assert_eq!(
            fs::read_dir(folder.path()).expect("a folder").count(),
            1,
            "nothing is left beside it"
        );
        assert!(!String::from_utf8_lossy(&said).contains("token-secret"));
    }

    #[test]
    fn without_a_file_it_goes_to_standard_output() {
        let mut said = Vec::new();
        write(&good(&[]), None, false, &mut said).expect("a vector takes everything");
        assert_eq!(said, good(&[]).registration().to_yaml().as_bytes());
    }
}
