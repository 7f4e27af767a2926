//! Where things are when nobody says otherwise: the XDG base directories.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::settings;

/// Environment variable that names the data folder, for programs that pass no option on.
pub(super) const DIR_VARIABLE: &str = "POSTERN_DIR";

/// The data folder: `$POSTERN_DIR`, else the one on the medium that this program lies on, else `postern` in
/// `$XDG_DATA_HOME`, else `~/.local/share/postern`.
pub(super) fn data() -> PathBuf {
    match set(DIR_VARIABLE) {
        Some(dir) => dir.into(),
        None => medium().unwrap_or_else(|| base("XDG_DATA_HOME", ".local/share").join("postern")),
    }
}

/// Folder of the store on a portable medium, beside the program.
pub(super) const MEDIUM_DATA: &str = "data";

/// The data folder beside this program, where it lies on a portable medium.
fn medium() -> Option<PathBuf> {
    // Without /proc the system does not say; then the word that the program was called by does.
    let called = || std::env::args_os().next().map(PathBuf::from);
    let program = std::env::current_exe().ok().or_else(called)?;
    let data = program.parent()?.join(MEDIUM_DATA);
    data.join(settings::FILE).is_file().then_some(data)
}

/// The folder of programs' settings: `$XDG_CONFIG_HOME`, else `~/.config`.
pub(super) fn config() -> PathBuf {
    base("XDG_CONFIG_HOME", ".config")
}

/// The home folder; the current one where there is none.
pub(super) fn home() -> PathBuf {
    std::env::home_dir().unwrap_or_else(|| PathBuf::from("."))
}

/// The specification has relative paths in its variables passed over.
fn base(variable: &str, below_home: &str) -> PathBuf {
    set(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| home().join(below_home))
}

/// Whether a data folder lies on a portable medium, as 'postern keypack export' makes it.
pub(super) fn is_on_medium(data: &Path) -> bool {
    let medium = data.parent().filter(|_| data.ends_with(MEDIUM_DATA));
    medium.is_some_and(|medium| ["postern", "start"].iter().all(|name| medium.join(name).is_file()))
}

fn set(variable: &str) -> Option<OsString> {
    std::env::var_os(variable).filter(|value| !value.is_empty())
}

/// A path as a person types it: `~/` is the home folder.
pub(super) fn typed(text: &str) -> PathBuf {
    match text.strip_prefix("~/") {
        Some(rest) => home().join(rest),
        None => PathBuf::from(text),
    }
}
