use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq)]
struct Text(Vec<u8>);

impl Item for Text {
    fn octets(&self) -> u64 {
        self.0.len() as u64
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_octets(&self.0, out);
    }

    fn take(from: &mut &[u8]) -> Option<Text> {
        take_octets(from).map(|octets| Text(octets.to_vec()))
    }
}

/// A folder for the index, and one that is indexed, which was left alone for a while.
struct Site {
    folder: OwnedFd,
    indexed: File,
    _scratch: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let scratch = tempfile::tempdir().unwrap();
        let below = scratch.path().join("indexed");
        std::fs::create_dir(&below).unwrap();
        let indexed = File::open(&below).unwrap();
        Site { folder: File::open(scratch.path()).unwrap().into(), indexed, _scratch: scratch }
    }

    fn place(&self) -> Place<'_> {
        Place { folder: &self.folder, name: OsStr::new("index"), kind: 7 }
    }

    /// The stamps as of a folder that had been left alone for ten seconds.
    fn stamps(&self) -> [Stamp; 2] {
        let mut stamp = stamp(&self.indexed).unwrap();
        stamp[3] -= 10_000_000_000;
        stamp[4] -= 10_000_000_000;
        [stamp, stamp]
    }

    fn write(&self, items: &[Text]) {
        Draft::begin(self.place(), now()).unwrap().write(&self.stamps(), items);
    }

    fn open(&self) -> Option<Index<Text>> {
        Index::open(self.place())
    }

    fn names(&self) -> Vec<std::ffi::OsString> {
        std::fs::read_dir(self._scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }
}

fn items(count: usize) -> Vec<Text> {
    (0..count).map(|number| Text(format!("message {number}").into())).collect()
}

#[test]
fn what_was_written_is_read_in_any_order() {
    for count in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 1000] {
        let site = Site::new();
        let items = items(count);
        site.write(&items);
        let index = site.open().unwrap();
        assert!(index.fits(0, &site.stamps()[0]) && index.fits(1, &site.stamps()[1]));
        let snapshot = Snapshot::Indexed(index);
        assert_eq!((snapshot.count(), snapshot.total()), (count, items.iter().map(Item::octets).sum()));
        for number in (0..count).rev().step_by(37).chain(0..count) {
            assert_eq!(snapshot.get(number).unwrap(), items[number]);
        }
        assert!(snapshot.get(count).is_err());
        assert_eq!(snapshot.all().unwrap(), items);
        assert_eq!(site.names().len(), 2, "something is left");
    }
}

#[test]
fn a_changed_folder_and_one_that_was_just_changed_do_not_fit() {
    let site = Site::new();
    site.write(&items(3));
    let index = site.open().unwrap();
    for part in 0..5 {
        let mut other = site.stamps()[0];
        other[part] += 1;
        assert!(!index.fits(0, &other), "{part}");
    }
    let fresh = stamp(&site.indexed).unwrap();
    let draft = Draft::begin(site.place(), now()).unwrap();
    assert!(!draft.will_count(&[fresh]) && draft.will_count(&site.stamps()));
    draft.write(&[fresh, fresh], &items(3));
    assert!(!site.open().unwrap().fits(0, &fresh), "changed within two seconds");
}

#[test]
fn no_flipped_bit_and_no_missing_end_is_believed() {
    let site = Site::new();
    let items = items(BLOCK + 2);
    site.write(&items);
    let path = site._scratch.path().join("index");
    let whole = std::fs::read(&path).unwrap();
    let is_right = || match site.open() {
        None => true,
        Some(index) => {
            let same = (index.count, index.total) == (items.len(), items.iter().map(Item::octets).sum());
            same && index.all().map_or(true, |all| all == items)
        }
    };
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        assert!(is_right(), "octet {at}");
    }
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(site.open().is_none_or(|index| index.all().is_err()), "length {length}");
    }
}

#[test]
fn another_kind_and_what_is_no_file_are_none() {
    let site = Site::new();
    site.write(&items(1));
    assert!(Index::<Text>::open(Place { kind: 8, ..site.place() }).is_none());
    forget(site.place()).unwrap();
    forget(site.place()).unwrap();
    assert!(site.open().is_none());
    std::fs::create_dir(site._scratch.path().join("index")).unwrap();
    assert!(site.open().is_none());
}

#[test]
fn an_index_that_somebody_else_made_is_none() {
    let site = Site::new();
    site.write(&items(1));
    assert!(site.open().is_some());
    // Only root can give files away.
    if geteuid().is_root() {
        std::os::unix::fs::chown(site._scratch.path().join("index"), Some(1), None).unwrap();
        assert!(site.open().is_none());
    }
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing() {
    let site = Site::new();
    drop(Draft::begin(site.place(), now()).unwrap());
    assert_eq!(site.names().len(), 1);
}

proptest! {
    #[test]
    fn numbers_come_back(number in any::<u64>()) {
        let mut out = Vec::new();
        put_number(number, &mut out);
        prop_assert_eq!(take_number(&mut out.as_slice()), Some(number));
    }

    #[test]
    fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut rest = octets.as_slice();
        while Text::take(&mut rest).is_some() && !rest.is_empty() {}
    }
}
