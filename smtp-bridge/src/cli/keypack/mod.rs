//! `postern keypack`: packs as things that are moved, looked at and destroyed.

mod devices;
mod elf;
mod expire;
mod image;
mod looks;
mod merge;
mod paper;
mod portable;
mod split;
mod wipe;

use clap::{Args, Subcommand};

use super::process::Failure;
pub use elf::fuzz as fuzz_elf;
pub(super) use portable::put_new;
pub(super) use wipe::end_file;

/// Arguments of `postern keypack`.
#[derive(Args)]
pub(super) struct KeypackArgs {
    #[command(subcommand)]
    command: KeypackCommand,
}

#[derive(Subcommand)]
enum KeypackCommand {
    /// Show the packs that are known here, with value and keys as last heard.
    List(looks::ListArgs),
    /// Show what a pack is, without a secret of it.
    Inspect(looks::InspectArgs),
    /// Put a pack, a data folder or a medium under another passphrase.
    Passphrase(looks::ChangeArgs),
    /// Print a pack that was not used yet as QR codes.
    Print(paper::PrintArgs),
    /// Put a pack together from codes that were scanned.
    Read(paper::ReadArgs),
    /// Make a second pack of some of the keys and value of this one.
    Split(split::SplitArgs),
    /// Make a pack of some keys and value for somebody else.
    Gift(split::SplitArgs),
    /// Make a pack for another device of yours: the same value, addresses and mail.
    Device(devices::DeviceArgs),
    /// Show the devices of the account.
    Devices(devices::DevicesArgs),
    /// End another device of the account.
    Drop(devices::DropArgs),
    /// Bring keys and value of another pack to this one.
    Merge(merge::MergeArgs),
    /// End a pack, now or on a day: aliases, value and keys.
    Expire(expire::ExpireArgs),
    /// Destroy packs, data folders or media: keys first.
    PanicWipe(wipe::WipeArgs),
    /// Move a pack to a medium that runs by itself: keys, value, mail and this program.
    Export(Box<portable::ExportArgs>),
    /// Move a pack from a medium back to this machine.
    Import(portable::ImportArgs),
}

pub(super) async fn run(args: KeypackArgs) -> Result<(), Failure> {
    match args.command {
        KeypackCommand::List(args) => looks::list(&args).await,
        KeypackCommand::Inspect(args) => looks::look(&args),
        KeypackCommand::Passphrase(args) => looks::change(&args),
        KeypackCommand::Print(args) => paper::print(&args),
        KeypackCommand::Read(args) => paper::read(&args),
        KeypackCommand::Split(args) => split::split(&args).await,
        KeypackCommand::Gift(args) => split::gift(&args).await,
        KeypackCommand::Device(args) => devices::device(&args).await,
        KeypackCommand::Devices(args) => devices::devices(&args).await,
        KeypackCommand::Drop(args) => devices::drop_device(&args).await,
        KeypackCommand::Merge(args) => merge::merge(&args).await,
        KeypackCommand::Expire(args) => expire::expire(&args).await,
        KeypackCommand::PanicWipe(args) => wipe::wipe(&args).await,
        KeypackCommand::Export(args) => portable::export(&args),
        KeypackCommand::Import(args) => portable::import(&args),
    }
}
