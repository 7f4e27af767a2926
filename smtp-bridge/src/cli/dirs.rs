//! Where things are when nobody says otherwise: the XDG base directories.

use std::ffi::OsString;
use std::path::PathBuf;

/// Environment variable that names the data folder, for programs that pass no option on.
pub(super) const DIR_VARIABLE: &str = "POSTERN_DIR";

/// The data folder: `$POSTERN_DIR`, else `postern` in `$XDG_DATA_HOME`, else `~/.local/share/postern`.
pub(super) fn data() -> PathBuf {
    match set(DIR_VARIABLE) {
        Some(dir) => dir.into(),
        None => base("XDG_DATA_HOME", ".local/share").join("postern"),
    }
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
