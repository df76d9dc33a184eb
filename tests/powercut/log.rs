//! Every write a disk got, in order: the log of qemu's `blklogwrites`, which has the format of Linux's dm-log-writes.
//!
//! Little endian. A superblock in the first sector {magic, version, entries: u64; sector size: u32}, then for each write
//! one sector {sector, sectors, flags, length: u64} with the data behind it; qemu leaves the length nought. A flush is
//! an entry without data.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Octets of a sector, which the log counts in.
const SECTOR: u64 = 512;

const MAGIC: u64 = 0x6a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One write.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// All that came before it is on the platter when it returns.
    pub flush: bool,
    /// Where on the disk its data goes.
    pub offset: u64,
    /// Octets of data.
    pub length: u64,
    /// Where in the log its data is.
    data: u64,
    /// Where in the log the entry ends. The log was that long when the write had returned, or longer.
    pub end: u64,
}

/// A log that is not written any more.
pub struct Log {
    file: File,
    /// In the order in which the disk got them.
    pub entries: Vec<Entry>,
}

impl Log {
    pub fn open(path: &Path) -> io::Result<Log> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let number = |at: u64| -> io::Result<u64> {
            let mut octets = [0; 8];
            file.read_exact_at(&mut octets, at)?;
            Ok(u64::from_le_bytes(octets))
        };
        assert_eq!(number(0)?, MAGIC, "{}: no log of writes", path.display());
        let mut entries = Vec::new();
        let mut at = SECTOR;
        while at + SECTOR <= length {
            let [sector, sectors, flags] = [number(at)?, number(at + 8)?, number(at + 16)?];
            assert!(flags < 16, "{}: entry {} is none", path.display(), entries.len());
            let size = if flags & DISCARD != 0 { 0 } else { sectors * SECTOR };
            let data = at + SECTOR;
            at = data + size;
            let flush = flags & (FLUSH | FUA) != 0;
            entries.push(Entry { flush, offset: sector * SECTOR, length: size, data, end: at });
        }
        Ok(Log { file, entries })
    }

    pub fn data(&self, entry: &Entry) -> io::Result<Vec<u8>> {
        let mut octets = vec![0; usize::try_from(entry.length).expect("a write that fits in memory")];
        self.file.read_exact_at(&mut octets, entry.data)?;
        Ok(octets)
    }
}
