use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq)]
struct Text(Vec<u8>);

impl Item for Text {
    fn octets(&self) -> u64 {
        self.0.len() as u64
    }

    fn name(&self) -> Option<(bool, &[u8])> {
        Some((self.0.len().is_multiple_of(2), &self.0))
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
            let finds = |mut names: Names| items.iter().all(|item| item.name().is_some_and(|(f, n)| names.find(f, n)));
            same && index.names().map_or(true, |names| names.is_none_or(finds))
                && index.all().map_or(true, |all| all == items)
        }
    };
    // All of the head, and enough of the rest: each try is a file.
    let places = || (0..230).chain((230..whole.len()).step_by(7));
    for at in places() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        assert!(is_right(), "octet {at}");
    }
    for length in places() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let has_names = |index: &Index<Text>| index.names().is_ok_and(|names| names.is_some());
        assert!(is_right() && site.open().is_none_or(|index| !has_names(&index)), "length {length}");
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
    if crate::needs::root() {
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

#[test]
fn every_name_of_an_index_is_found_and_no_other() {
    for count in [1, 2, BLOCK + 1, 3000] {
        let site = Site::new();
        let items = items(count);
        site.write(&items);
        let mut names = site.open().unwrap().names().unwrap().unwrap();
        for item in items.iter().skip(1) {
            let (folder, name) = item.name().unwrap();
            assert!(names.find(folder, name) && !names.find(!folder, name));
        }
        assert!(!names.find(true, b"another") && !names.find(false, b""));
        let (folder, _) = items[0].name().unwrap();
        assert_eq!(names.missing(folder).collect::<Vec<_>>(), [0]);
        assert_eq!(names.missing(!folder).count(), 0);
    }
    let site = Site::new();
    site.write(&[]);
    assert!(site.open().unwrap().names().unwrap().is_none());
}

fn changed(site: &Site, count: usize) -> Delta<Text> {
    let index = site.open().unwrap();
    let new = vec![(0, Text(b"first".to_vec())), (count, Text(b"last".to_vec()))];
    let mut delta = Delta::of(&index, vec![1, 3], new).unwrap().unwrap();
    delta.write(site.place(), &index, &site.stamps(), now(), false);
    delta
}

#[test]
fn what_changed_counts_beside_its_own_index_only_and_no_flipped_bit_is_believed() {
    let site = Site::new();
    let items = items(BLOCK + 2);
    site.write(&items);
    changed(&site, items.len());
    let index = site.open().unwrap();
    let delta = Delta::open(site.place(), &index).unwrap();
    assert!(delta.fits(0, &site.stamps()[0]) && delta.fits(1, &site.stamps()[1]));
    let expected = Snapshot::Changed(index, delta).all().unwrap();
    assert_eq!((expected[0].0.as_slice(), expected[2].clone()), (b"first".as_slice(), items[2].clone()));
    let path = site._scratch.path().join("index.delta");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x04;
        std::fs::write(&path, &damaged).unwrap();
        assert!(Delta::open(site.place(), &site.open().unwrap()).is_none(), "octet {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(Delta::open(site.place(), &site.open().unwrap()).is_none(), "length {at}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(Delta::open(site.place(), &site.open().unwrap()).is_some());
    site.write(&items);
    assert!(Delta::open(site.place(), &site.open().unwrap()).is_none(), "of the index before");
    forget(site.place()).unwrap();
    assert!(!path.exists());
}

#[test]
fn changes_that_do_not_fit_an_index_are_none() {
    let site = Site::new();
    site.write(&items(5));
    let index = site.open().unwrap();
    let of = |gone: &[usize], new: &[usize]| {
        let new = new.iter().map(|before| (*before, Text(b"x".to_vec()))).collect();
        Delta::of(&index, gone.to_vec(), new).unwrap().is_some()
    };
    assert!(of(&[0, 4], &[0, 0, 5]) && of(&[], &[]));
    assert!(!of(&[5], &[]) && !of(&[1, 1], &[]) && !of(&[2, 1], &[]) && !of(&[], &[6]) && !of(&[], &[2, 1]));
}

proptest! {
    #[test]
    fn changes_are_numbered_as_in_a_list_that_is_changed(
        count in 1_usize..300,
        gone in proptest::collection::btree_set(0_usize..300, 0..40),
        new in proptest::collection::vec(0_usize..300, 0..40),
    ) {
        let site = Site::new();
        let items = items(count);
        site.write(&items);
        let gone: Vec<usize> = gone.into_iter().filter(|number| *number < count).collect();
        let mut new: Vec<usize> = new.into_iter().filter(|before| *before <= count).collect();
        new.sort();
        let new: Vec<(usize, Text)> = new.into_iter().enumerate().map(|(n, at)| (at, Text(vec![b'n'; n]))).collect();
        let mut expected = Vec::new();
        for number in 0..=count {
            expected.extend(new.iter().filter(|(before, _)| *before == number).map(|(_, item)| item.clone()));
            expected.extend(items.get(number).filter(|_| !gone.contains(&number)).cloned());
        }
        let index = site.open().unwrap();
        let mut delta = Delta::of(&index, gone, new).unwrap().unwrap();
        delta.write(site.place(), &index, &site.stamps(), now(), false);
        let snapshot = Snapshot::Changed(index, delta);
        prop_assert_eq!(snapshot.all().unwrap(), expected.clone());
        prop_assert_eq!(snapshot.total(), expected.iter().map(Item::octets).sum::<u64>());
        let index = site.open().unwrap();
        let again = Delta::open(site.place(), &index).unwrap();
        prop_assert_eq!(Snapshot::Changed(index, again).all().unwrap(), expected);
    }

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
