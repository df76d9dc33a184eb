//! A disk's octets in memory, without the blocks that are nought.

use super::disk::Kind;
use super::log::Log;
use crate::common::chance::Chance;
use nix::unistd::{Whence, lseek};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: usize = 4096;

pub struct Image {
    size: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
}

impl Image {
    pub fn read(path: &Path) -> io::Result<Image> {
        let file = File::open(path)?;
        let mut image = Image { size: file.metadata()?.len(), blocks: BTreeMap::new() };
        let mut block = [0; BLOCK];
        let mut at = 0;
        // Over the holes, which are nearly all of it.
        while let Ok(data) = lseek(&file, at, Whence::SeekData) {
            let begin = data as u64 / BLOCK as u64 * BLOCK as u64;
            at = lseek(&file, data, Whence::SeekHole)?;
            for at in (begin..at as u64).step_by(BLOCK) {
                file.read_exact_at(&mut block, at)?;
                if block.iter().any(|octet| *octet != 0) {
                    image.write(at, &block);
                }
            }
        }
        Ok(image)
    }

    pub fn write(&mut self, offset: u64, octets: &[u8]) {
        let (mut offset, mut octets) = (offset, octets);
        while !octets.is_empty() {
            let within = offset as usize % BLOCK;
            let (now, later) = octets.split_at(octets.len().min(BLOCK - within));
            let block = self.blocks.entry(offset / BLOCK as u64).or_insert_with(|| Box::new([0; BLOCK]));
            block[within..within + now.len()].copy_from_slice(now);
            offset += now.len() as u64;
            octets = later;
        }
    }

    /// Makes a new file of it.
    pub fn store(&self, path: &Path) -> io::Result<File> {
        let _ = std::fs::remove_file(path);
        let file = File::create_new(path)?;
        file.set_len(self.size)?;
        for (number, block) in &self.blocks {
            file.write_all_at(&block[..], number * BLOCK as u64)?;
        }
        Ok(file)
    }
}

/// What of the writes since the last flush reached the platter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All of them: a disk without a cache.
    Prefix,
    /// Any of them, and one in five only in part: a cache that writes back as it likes. Of two writes to the same place
    /// the later one wins, as in every disk.
    Subset,
}

/// A disk whose writes are replayed up to one position after another.
pub struct Replay {
    log: Log,
    /// All up to the last flush.
    flushed: Image,
    next: usize,
    kind: Kind,
}

impl Replay {
    /// From the folder of a recorder: the image as it was, and the log.
    pub fn open(folder: &Path, kind: Kind) -> io::Result<Replay> {
        Ok(Replay { log: Log::open(&folder.join("log"))?, flushed: Image::read(&folder.join("base"))?, next: 0, kind })
    }

    /// Makes the disk as a cut leaves it that comes when the log is `position` long. Positions never go back.
    pub fn cut(&mut self, position: u64, mode: Mode, chance: &mut Chance, path: &Path) -> io::Result<()> {
        let entries = &self.log.entries;
        let done = entries.partition_point(|entry| entry.end <= position);
        let durable = entries[..done].iter().rposition(|entry| entry.flush).map_or(0, |last| last + 1);
        for entry in &entries[self.next.min(durable)..durable] {
            self.flushed.write(entry.offset, &self.log.data(entry)?);
        }
        self.next = self.next.max(durable);
        let file = self.flushed.store(path)?;
        for entry in entries[durable..done].iter().filter(|entry| entry.length > 0) {
            let mut data = self.log.data(entry)?;
            if mode == Mode::Subset {
                if chance.percent(50) {
                    continue;
                }
                if chance.percent(20) {
                    let atom = self.kind.atom(entry.offset, entry.length);
                    data.truncate(chance.below(data.len().div_ceil(atom)) * atom);
                }
            }
            file.write_all_at(&data, entry.offset)?;
        }
        Ok(())
    }
}
