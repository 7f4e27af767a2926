//! What kind of file system a folder lies in, as far as it keeps what was overwritten.
//!
//! Forgetting here is a write to the same place of a file. Where that does not reach the same place of the disk, whoever
//! uses this project is told. What lies below a file system (snapshots of volumes, flash) is not seen from here.

use std::path::{Path, PathBuf};

/// What is to be said of the file system of a folder; nothing where it erases, or where nothing is known.
pub(super) fn caveat(folder: &Path) -> Option<String> {
    let folder = std::fs::canonicalize(folder).ok()?;
    match std::fs::read_to_string("/proc/self/mounts") {
        Ok(mounts) => deepest(&mounts, &folder).as_ref().and_then(does_not_erase),
        // Without /proc there is a number for the kind, and no options.
        Err(_) => does_not_erase(&Mount {
            point: PathBuf::new(),
            kind: kind_of(rustix::fs::statfs(&folder).ok()?.f_type as u64)?.to_owned(),
            options: String::new(),
        }),
    }
}

/// The kinds that are of interest, by the kernel's numbers (`linux/magic.h` and the file systems' own).
fn kind_of(magic: u64) -> Option<&'static str> {
    Some(match magic & 0xffff_ffff {
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xca45_1a4e => "bcachefs",
        0xf2f5_2010 => "f2fs",
        0x3434 => "nilfs2",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        0xff53_4d42 => "cifs",
        0x0102_1997 => "9p",
        0x00c3_6400 => "ceph",
        _ => return None,
    })
}

/// A line of `/proc/self/mounts`.
struct Mount {
    point: PathBuf,
    kind: String,
    options: String,
}

/// The mount that a folder is in: the longest point above it, and of two at one point the later.
fn deepest(mounts: &str, folder: &Path) -> Option<Mount> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some(Mount {
            point: PathBuf::from(words.next()?.replace("\\040", " ")),
            kind: words.next()?.to_owned(),
            options: words.next()?.to_owned(),
        })
    });
    mounts
        .filter(|mount| folder.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

fn does_not_erase(mount: &Mount) -> Option<String> {
    let why = match &mount.kind[..] {
        "ext3" | "ext4" if mount.options.split(',').any(|option| option == "data=journal") => {
            "keeps what is written in its journal"
        }
        // Without a journal of data, and in place. FAT and exFAT are what sticks have; the flash below is another matter.
        "ext2" | "ext3" | "ext4" | "xfs" | "vfat" | "msdos" | "exfat" => return None,
        "btrfs" | "zfs" | "bcachefs" => "writes to another place instead of over what is there",
        "f2fs" | "nilfs2" => "writes everything behind what is there",
        "tmpfs" | "ramfs" => return Some("lies in memory: everything is lost when this machine stops".to_owned()),
        "overlay" => "lies over another, of which nothing is known here",
        // A local block device, through a program: exFAT or NTFS mostly.
        "fuseblk" => "is a program's, of which nothing is known here",
        kind if kind.starts_with("nfs")
            || kind.starts_with("fuse")
            || matches!(kind, "cifs" | "smb3" | "9p" | "ceph") =>
        {
            "lies on another machine"
        }
        _ => "is not one that is known to erase",
    };
    Some(format!(
        "its file system ({}) {why}: what is forgotten may be read from it later; use ext4 or XFS, or an encrypted volume whose key is kept elsewhere",
        mount.kind
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(mounts: &str, folder: &str) -> Option<String> {
        deepest(mounts, Path::new(folder)).as_ref().and_then(does_not_erase)
    }

    #[test]
    fn a_file_system_that_does_not_erase_is_named() {
        let mounts = "/dev/vda / ext4 rw,relatime 0 0\n\
            /dev/vdb /srv btrfs rw 0 0\n\
            tmpfs /tmp tmpfs rw 0 0\n\
            /dev/vdc /srv/a\\040b xfs rw 0 0\n\
            /dev/vdd /log ext4 rw,data=journal 0 0\n\
            far:/x /far nfs4 rw 0 0\n\
            over /over overlay rw 0 0\n\
            /dev/sda1 /stick vfat rw 0 0\n";
        for folder in ["/var/lib/postern", "/srv/a b/data", "/stick/data"] {
            assert!(words(mounts, folder).is_none(), "{folder}");
        }
        for (folder, expected) in [
            ("/srv/data", "btrfs"),
            ("/tmp/x", "memory"),
            ("/log", "journal"),
            ("/far/data", "another machine"),
            ("/over/x", "over another"),
        ] {
            let said = words(mounts, folder).unwrap_or_default();
            assert!(said.contains(expected), "{folder}: {said}");
        }
        assert!(words("", "/x").is_none());
    }

    #[test]
    fn the_kernels_number_says_the_same_as_its_table() {
        let kind = |folder: &str| kind_of(rustix::fs::statfs(folder).expect("asked").f_type as u64);
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("readable");
        for folder in ["/dev/shm", "/", "/tmp"] {
            let known = deepest(&mounts, Path::new(folder)).expect("mounted").kind;
            assert!(
                kind(folder).is_none_or(|kind| known.starts_with(kind)),
                "{folder} is {known}"
            );
        }
    }
}
