//! Putting a configuration in its place, without losing what was there.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::super::process::Failure;
use super::super::terminal;

/// Makes a folder that only its owner may look into, and those above it.
pub(super) fn folder(path: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Failure(format!("cannot make {}: {error}", path.display())))
}

/// Writes a file with mode 0600. An older one is replaced only with consent, and kept beside it. Says what was done.
pub(super) fn file(path: &Path, text: &[u8], consent: bool) -> Result<String, Failure> {
    // A link into somebody's collection of settings is followed, not replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let shown = path.display();
    let failed = |error: io::Error| Failure(format!("cannot write {shown}: {error}"));
    let kept = match fs::read(&path) {
        Ok(old) if old == text => {
            fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
            return Ok(format!("{shown} is as it should be already"));
        }
        Ok(_) => {
            agree(&path, consent)?;
            Some(keep(&path).map_err(failed)?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        folder(parent)?;
    }
    let mut fresh = path.clone().into_os_string();
    fresh.push(".postern-new");
    let fresh = PathBuf::from(fresh);
    let write = || {
        // What an interrupted run left may have other permissions.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)
    };
    write().map_err(failed)?;
    Ok(match kept {
        Some(kept) => format!("{shown} is written; the older file is {}", kept.display()),
        None => format!("{shown} is written"),
    })
}

fn agree(path: &Path, consent: bool) -> Result<(), Failure> {
    let exists = format!("{} exists", path.display());
    if consent {
        Ok(())
    } else if !terminal::is_there() {
        Err(Failure(format!(
            "{exists}: add --yes to replace it; it is kept beside the new one"
        )))
    } else if terminal::agrees(&format!("{exists}. Replace it? It is kept beside the new one."))? {
        Ok(())
    } else {
        Err(Failure(format!("{exists} and is left as it is")))
    }
}

/// A copy under a name that is free.
fn keep(path: &Path) -> io::Result<PathBuf> {
    for number in 1.. {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 1 {
            ".bak".to_owned()
        } else {
            format!(".bak{number}")
        });
        let kept = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&kept) {
            Ok(mut file) => {
                file.write_all(&fs::read(path)?)?;
                file.sync_all()?;
                return Ok(kept);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("the numbers do not end")
}
