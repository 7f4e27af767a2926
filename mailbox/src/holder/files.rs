//! The store itself: how it is opened.

use std::path::Path;
use std::sync::Arc;

use keypacks::pack::{Identifier, Issue, PassphraseCost};
use keypacks::rotation::Policy;

use super::books::Books;
use super::create;
use super::folders;
use super::messages::CHANGED_MAX;
use super::rows::{FACTS, FactsRow, PAD, ROTATION};
use super::shelf::Shelf;
use super::stage::{self, HolderStage, Shown};
use crate::StoreError;
use crate::base::Bounds;
use crate::commit::{self, Committer};
use crate::disk::Disk;
use crate::entropy::Entropy;
use crate::holder_store::{FolderError, FolderId, HolderStore, PackFacts};
use crate::index::{Source, Write};
use crate::pad::PadFile;
use crate::tables::Single;
use crate::used::UsedKeys;

mod operations;

/// How a holder's store behaves. The default is right for all but tests.
#[derive(Clone, Copy)]
pub struct HolderOptions {
    /// How much may be committed before the index takes it over.
    pub bounds: Bounds,
    /// What a guess at the passphrase costs, for stores that are made.
    pub passphrase_cost: PassphraseCost,
    /// **For tests only**: keeps every used chain state in memory and in a file `used-keys`, so that a search for used
    /// keys can be shown to find them.
    pub keep_used_keys: bool,
}

impl Default for HolderOptions {
    fn default() -> Self {
        Self {
            bounds: Bounds::SMALL,
            passphrase_cost: PassphraseCost::DEFAULT,
            keep_used_keys: false,
        }
    }
}

/// The store of one pack's holder. Clones share it; the folder is free again when the last one is gone and the
/// actor has ended.
#[derive(Clone)]
pub struct HolderFiles {
    pub(super) shelf: Arc<Shelf>,
    shown: Arc<Shown>,
    committer: Committer<HolderStage>,
    facts: Arc<PackFacts>,
    pad: Option<Arc<PadFile>>,
}

impl HolderFiles {
    /// Makes a store from what a pack file holds. Whoever calls it overwrites the pack's root afterwards:
    /// [`super::init_from_pack`] does both. [`StoreError::Invalid`]: the folder holds a store already.
    pub fn create(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        issue: &Issue,
        passphrase: &[u8],
        options: &HolderOptions,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<(), StoreError> {
        create::create(disk, folder, issue, None, passphrase, options, entropy)
    }

    /// Opens a store. Takes as long as the passphrase costs.
    ///
    /// The future is the committing actor and its keeper, which must run for operations to be answered: on a thread of its own
    /// ([`commit::on_thread`]), since it blocks on the disk, or within a simulation. It ends when the last clone of
    /// the store is gone.
    pub fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        passphrase: &[u8],
        options: &HolderOptions,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), StoreError> {
        let (base, slots_key) = create::open_base(disk, folder, passphrase, options.bounds, entropy)?;
        let shelf = Arc::new(Shelf::new(base));
        let mut slots = create::open_slots(&**disk, folder, slots_key, entropy)?;
        let chains = stage::read_slot(&mut slots, shelf.base.index.commit_number())?;
        let load = || Books::load(&shelf, &shelf.base.view()?, &chains, (1, 1));
        let (mut books, used) = load()?;
        shelf.base.slab.set_used(&used)?;
        if folders::found(&shelf)? {
            books = load()?.0;
        }
        let commit = shelf.base.index.commit_number();
        let facts = Arc::new(facts(&shelf.base.view()?)?);
        let pad = create::open_pad(&**disk, folder, PAD.get(&shelf.base.view()?, Single)?)?;
        let used = match options.keep_used_keys {
            true => Some(UsedKeys::new(disk.open(&folder.join("used-keys"), true)?)),
            false => None,
        };
        let shown = Arc::new(Shown::new(books));
        let stage = HolderStage::new(Arc::clone(&shelf), Arc::clone(&shown), slots, commit, used)?;
        let (committer, actor, keeper) = commit::committer(stage);
        let both = async move {
            tokio::join!(actor.run(), keeper.run());
        };
        Ok((
            Self {
                shelf,
                shown,
                committer,
                facts,
                pad,
            },
            both,
        ))
    }

    /// Commits what waits, erases what is finished, lets files and lock go; returns when that is done.
    pub async fn stop(&self) {
        self.committer.stop().await;
    }

    pub(super) fn books(&self) -> Arc<Books> {
        self.shown.books()
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        apply: impl FnMut(&mut HolderStage, &Write<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.committer.run(apply).await
    }

    /// Runs an operation that may be refused for want of a folder: before its first write, as every refusal.
    async fn run_on_folders<T: Send + 'static>(
        &self,
        mut apply: impl FnMut(&mut HolderStage, &Write<'_>) -> Result<T, FolderError> + Send + 'static,
    ) -> Result<T, FolderError> {
        let outcome = self.run(move |stage, write| match apply(stage, write) {
            Err(FolderError::Store(error)) => Err(error),
            outcome => Ok(outcome),
        });
        outcome.await?
    }

    /// What was found of a message: nothing, if it was expunged between the look at its row and the one at its key or body.
    pub(super) fn unless_gone<T>(
        &self,
        folder: FolderId,
        uid: u32,
        found: Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match found {
            // Its row goes first: a moment later it is not shown any more, and after that its key is overwritten.
            Err(_) if !self.books().has(folder, uid) || self.shelf.is_expunged(folder, uid) => Ok(None),
            found => found,
        }
    }

    /// Removes messages of a folder that is to be deleted, until so many are left that one commit can remove them with it.
    async fn empty(&self, folder: FolderId) -> Result<(), FolderError> {
        if folder == FolderId::INBOX {
            return Ok(());
        }
        loop {
            let snapshot = self.folder(folder).ok_or(FolderError::NoFolder)?;
            if snapshot.entries.len() <= CHANGED_MAX {
                return Ok(());
            }
            let some = snapshot.entries.iter().take(CHANGED_MAX).map(|entry| entry.uid);
            self.expunge(folder, some.collect()).await?;
        }
    }
}

pub(super) fn facts(source: &impl Source) -> Result<PackFacts, StoreError> {
    let FactsRow {
        identifier,
        relay_address,
        relay_domain,
        relay_public,
    } = FACTS.get(source, Single)?.ok_or(StoreError::Corrupt)?;
    let rotation = match ROTATION.get(source, Single)? {
        Some(row) => Policy::decode(&row.policy).map_err(|_| StoreError::Corrupt)?,
        None => Policy::default(),
    };
    Ok(PackFacts {
        identifier: Identifier(identifier),
        relay_address,
        relay_domain,
        relay_public,
        rotation,
    })
}
