use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

fn scratch() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("home/Maildir");
    (folder, path)
}

fn put(path: &Path, base: &str, content: &str) {
    deliver(path, true, base, false, &mut content.as_bytes()).unwrap();
}

fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read(maildir: &Maildir, number: usize) -> io::Result<String> {
    let mut text = String::new();
    maildir.open(number)?.read_to_string(&mut text)?;
    Ok(text)
}

fn ids(maildir: &Maildir) -> Vec<String> {
    maildir.entries().unwrap().iter().map(|entry| entry.unique_id.clone()).collect()
}

/// Content that ends in an error, as a pipe does whose writer is gone.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { self.0.read(buffer) }
    }
}

#[test]
fn a_delivered_message_is_in_new_with_its_sizes() {
    let (_scratch, path) = scratch();
    put(&path, "1700000000.Q1R0.mx", "a\nb\n");
    assert_eq!(names(path.join("new")), ["1700000000.Q1R0.mx,S=4,W=6"]);
    assert_eq!(names(path.join("tmp")), [""; 0]);
    assert_eq!(fs::read_to_string(path.join("new/1700000000.Q1R0.mx,S=4,W=6")).unwrap(), "a\nb\n");
    for folder in ["", "tmp", "new", "cur"] {
        assert_eq!(fs::metadata(path.join(folder)).unwrap().permissions().mode() & 0o777, 0o700, "{folder}");
    }
    assert_eq!(fs::metadata(path.join("new/1700000000.Q1R0.mx,S=4,W=6")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_repeat_finds_the_message_in_new() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "text\n");
    put(&path, "1.a", "text\n");
    assert_eq!(names(path.join("new")).len(), 1);
    assert_eq!(names(path.join("tmp")).len(), 0);
}

#[test]
fn a_repeat_with_search_finds_the_message_in_cur() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "text\n");
    fs::rename(path.join("new/1.a,S=5,W=6"), path.join("cur/1.a,S=5,W=6:2,S")).unwrap();
    deliver(&path, true, "1.a", true, &mut "text\n".as_bytes()).unwrap();
    assert_eq!(names(path.join("new")).len(), 0);
    // Another name that only begins alike is another message.
    deliver(&path, true, "1", true, &mut "text\n".as_bytes()).unwrap();
    assert_eq!(names(path.join("new")), ["1,S=5,W=6"]);
}

#[test]
fn what_a_crash_left_in_tmp_is_replaced() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "one\n");
    fs::write(path.join("tmp/2.b"), "half of a mess").unwrap();
    put(&path, "2.b", "two\n");
    assert_eq!(fs::read_to_string(path.join("new/2.b,S=4,W=5")).unwrap(), "two\n");
    assert_eq!(names(path.join("tmp")).len(), 0);
}

#[test]
fn a_delivery_that_still_goes_on_is_left_alone() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "one\n");
    let other = fs::File::create(path.join("tmp/2.b")).unwrap();
    let other = Flocked::take(other).unwrap();
    assert!(deliver(&path, true, "2.b", false, &mut "two\n".as_bytes()).is_err());
    assert_eq!(names(path.join("tmp")), ["2.b"]);
    drop(other);
    put(&path, "2.b", "two\n");
}

#[test]
fn content_that_breaks_off_leaves_nothing() {
    let (_scratch, path) = scratch();
    assert!(deliver(&path, true, "1.a", false, &mut Broken(b"half")).is_err());
    assert_eq!((names(path.join("new")).len(), names(path.join("tmp")).len()), (0, 0));
}

#[test]
fn a_base_that_is_a_path_is_refused() {
    let (_scratch, path) = scratch();
    for base in ["../1.a", "/tmp/x", "", "."] {
        assert!(deliver(&path, true, base, false, &mut "x\n".as_bytes()).is_err());
    }
}

#[test]
fn folders_that_are_symbolic_links_are_refused() {
    let (scratch, path) = scratch();
    put(&path, "1.a", "one\n");
    fs::remove_dir_all(path.join("new")).unwrap();
    symlink(scratch.path(), path.join("new")).unwrap();
    assert!(deliver(&path, true, "2.b", false, &mut "two\n".as_bytes()).is_err());
    assert!(matches!(Maildir::open(&path), Err(Error::Unusable(_))));
}

#[test]
fn a_session_sees_messages_in_the_order_they_came() {
    let (_scratch, path) = scratch();
    put(&path, "1000000000.b", "three\n");
    put(&path, "999999999.c", "one\n");
    put(&path, "1000000000.a", "two\n");
    fs::rename(path.join("new/999999999.c,S=4,W=5"), path.join("cur/999999999.c,S=4,W=5:2,T")).unwrap();
    let maildir = Maildir::open(&path).unwrap();
    assert_eq!(ids(&maildir), ["999999999.c,S=4,W=5", "1000000000.a,S=4,W=5", "1000000000.b,S=6,W=7"]);
    assert_eq!(maildir.entries().unwrap().iter().map(|entry| entry.octets).collect::<Vec<_>>(), [5, 5, 7]);
    assert_eq!(read(&maildir, 1).unwrap(), "two\n");
    assert!(read(&maildir, 3).is_err());
}

#[test]
fn a_missing_maildir_is_made_and_empty() {
    let (_scratch, path) = scratch();
    assert_eq!(Maildir::open(&path).unwrap().entries().unwrap(), []);
    assert!(path.join("tmp").is_dir());
}

#[test]
fn a_second_session_finds_it_in_use_until_the_first_ends() {
    let (_scratch, path) = scratch();
    let first = Maildir::open(&path).unwrap();
    assert!(matches!(Maildir::open(&path), Err(Error::InUse)));
    put(&path, "1.a", "mail still arrives\n");
    drop(first);
    assert_eq!(Maildir::open(&path).unwrap().entries().unwrap().len(), 1);
}

#[test]
fn sizes_are_believed_if_they_can_be_true_and_else_counted() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "no end");
    assert_eq!(names(path.join("new")), ["1.a,S=6"]);
    fs::write(path.join("new/2.b"), "a\nb\n").unwrap();
    fs::write(path.join("new/3.c,S=9,W=4"), "a\nb\n").unwrap();
    fs::write(path.join("new/4.d,S=1000,W=1001"), "a\n").unwrap();
    let maildir = Maildir::open(&path).unwrap();
    assert_eq!(maildir.entries().unwrap().iter().map(|entry| entry.octets).collect::<Vec<_>>(), [8, 6, 6, 1001]);
}

#[test]
fn a_message_renamed_by_another_program_is_found_and_removed() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "one\n");
    put(&path, "2.b", "two\n");
    put(&path, "3.c", "three\n");
    let mut maildir = Maildir::open(&path).unwrap();
    fs::rename(path.join("new/1.a,S=4,W=5"), path.join("cur/1.a,S=4,W=5:2,S")).unwrap();
    assert_eq!(read(&maildir, 0).unwrap(), "one\n");
    fs::rename(path.join("cur/1.a,S=4,W=5:2,S"), path.join("cur/1.a,S=4,W=5:2,FS")).unwrap();
    fs::remove_file(path.join("new/2.b,S=4,W=5")).unwrap();
    assert_eq!(maildir.remove(&[0, 1]).unwrap(), 0);
    assert_eq!((names(path.join("new")), names(path.join("cur"))), (vec!["3.c,S=6,W=7".to_owned()], vec![]));
}

#[test]
fn a_message_that_cannot_be_removed_is_counted() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "one\n");
    put(&path, "2.b", "two\n");
    let mut maildir = Maildir::open(&path).unwrap();
    fs::remove_file(path.join("new/1.a,S=4,W=5")).unwrap();
    fs::create_dir(path.join("new/1.a,S=4,W=5")).unwrap();
    assert_eq!(maildir.remove(&[0, 1]).unwrap(), 1);
    assert_eq!(names(path.join("new")), ["1.a,S=4,W=5"]);
}

#[test]
fn only_regular_files_are_messages() {
    let (scratch, path) = scratch();
    put(&path, "1.a", "one\n");
    let secret = scratch.path().join("secret");
    fs::write(&secret, "secret\n").unwrap();
    symlink(&secret, path.join("new/2.b")).unwrap();
    symlink(&secret, path.join("new/3.c,S=7,W=8")).unwrap();
    fs::create_dir(path.join("new/4.d")).unwrap();
    nix::unistd::mkfifo(&path.join("new/5.e"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    fs::write(path.join("new/.hidden"), "x\n").unwrap();
    let maildir = Maildir::open(&path).unwrap();
    assert_eq!(ids(&maildir), ["1.a,S=4,W=5"]);
    fs::remove_file(path.join("new/1.a,S=4,W=5")).unwrap();
    symlink(&secret, path.join("new/1.a,S=4,W=5")).unwrap();
    assert!(read(&maildir, 0).is_err());
}

#[test]
fn names_that_are_no_unique_ids_get_stable_ones() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "one\n");
    let long = format!("2.{}", "x".repeat(80));
    fs::write(path.join("new").join(&long), "long\n").unwrap();
    fs::write(path.join("new/3.with blank"), "blank\n").unwrap();
    fs::write(path.join("cur/1.a,S=4,W=5:2,S"), "twin\n").unwrap();
    let before = ids(&Maildir::open(&path).unwrap());
    assert_eq!(before.len(), 4);
    for id in &before {
        assert!((1..=70).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_graphic()), "{id}");
    }
    assert_eq!(before.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    fs::rename(path.join("new").join(&long), path.join("cur").join(format!("{long}:2,RS"))).unwrap();
    assert_eq!(ids(&Maildir::open(&path).unwrap()), before);
}

#[test]
fn twins_are_removed_only_where_they_were_seen() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "one\n");
    fs::write(path.join("cur/1.a,S=4,W=5:2,S"), "two\n").unwrap();
    let mut maildir = Maildir::open(&path).unwrap();
    fs::remove_file(path.join("new/1.a,S=4,W=5")).unwrap();
    assert_eq!(maildir.remove(&[0]).unwrap(), 0);
    assert_eq!(names(path.join("cur")), ["1.a,S=4,W=5:2,S"]);
}

/// What is left of places where one message was seen, when looking at each in turn finds this: an inode, and whether it has
/// further links.
fn left_of(names: &[&str], looks: &[Option<(u64, bool)>]) -> Vec<String> {
    let place = |name: &&str| Place { in_cur: true, is_twin: true, name: name.as_bytes().into() };
    let mut places: Vec<Place> = names.iter().map(place).collect();
    let mut looks = looks.iter();
    leave_renamed_out(&mut places, |_| *looks.next().expect("no more looks"));
    assert!(looks.next().is_none());
    places.iter().map(|place| String::from_utf8_lossy(&place.name).into_owned()).collect()
}

#[test]
fn a_message_that_is_renamed_under_the_looks_at_it_is_there_once() {
    let names = ["1.a:2,", "1.a:2,S", "1.a:2,FS"];
    // Always where the look is, and never; a second look tells links from a file that has other names elsewhere.
    assert_eq!(left_of(&names, &[Some((7, false)), Some((7, false)), Some((7, false))]), names[2..]);
    assert_eq!(left_of(&names, &[None, None, None]), names[2..]);
    assert_eq!(left_of(&names, &[None, Some((7, false)), None]), names[1..2]);
    assert_eq!(left_of(&names[..2], &[Some((7, true)), Some((7, true)), None]), names[1..2]);
    assert_eq!(left_of(&names[..2], &[Some((7, true)), Some((7, true)), Some((7, true))]), names[..2]);
    // Files of their own.
    assert_eq!(left_of(&names, &[Some((7, false)), Some((8, false)), None]), names[..2]);
}

#[test]
fn of_two_files_of_one_name_the_one_that_stays_has_its_own_size() {
    for (gone, octets) in [("new/1.a", 11), ("cur/1.a:2,S", 5)] {
        let (_scratch, path) = scratch();
        let maildir = Maildir::open(&path).unwrap();
        fs::write(path.join("new/1.a"), "one\n").unwrap();
        fs::write(path.join("cur/1.a:2,S"), "the other\n").unwrap();
        let sizes = || later(&maildir).all().unwrap().iter().map(Item::octets).collect::<Vec<_>>();
        assert_eq!(sizes(), [5, 11]);
        fs::remove_file(path.join(gone)).unwrap();
        assert_eq!(sizes(), [octets], "{gone}");
    }
}

/// As a session that begins in some time, when nothing has changed for long.
fn later(maildir: &Maildir) -> Snapshot<Message> {
    snapshot(&maildir.folders, index::now() + 60_000_000_000, || Ok(HashMap::new())).unwrap()
}

fn many(path: &Path) {
    for number in 0..70 {
        let name = format!("{}.M{number}.mx", 1_000_000_000 + number);
        fs::write(path.join(if number % 3 == 0 { "cur" } else { "new" }).join(name), "a\nb\n").unwrap();
    }
}

#[test]
fn an_unchanged_maildir_is_read_out_of_its_index_and_a_changed_one_is_not() {
    let (_scratch, path) = scratch();
    let maildir = Maildir::open(&path).unwrap();
    many(&path);
    assert!(matches!(later(&maildir), Snapshot::Held(..)));
    let Snapshot::Indexed(index) = later(&maildir) else { panic!("no index") };
    let indexed = Snapshot::Indexed(index);
    drop(maildir);
    let _ = fs::remove_file(path.join("doorpost-index"));
    let maildir = Maildir::open(&path).unwrap();
    assert_eq!((indexed.count(), indexed.total()), (maildir.count(), maildir.total()));
    for number in 0..maildir.count() {
        let (one, two) = (indexed.get(number).unwrap(), maildir.entry(number).unwrap());
        assert_eq!((one.octets, one.unique_id()), (two.octets, two.unique_id), "{number}");
    }
    later(&maildir);
    put(&path, "1.new", "a\n");
    let changed = later(&maildir);
    assert!(matches!(changed, Snapshot::Changed(..)));
    assert_eq!(changed.count(), indexed.count() + 1);
    fs::rename(path.join("cur/1000000000.M0.mx"), path.join("cur/1000000000.M0.mx:2,S")).unwrap();
    let renamed = later(&maildir);
    assert!(matches!(renamed, Snapshot::Changed(..)));
    assert_eq!(&*renamed.get(1).unwrap().place.name, b"1000000000.M0.mx:2,S");
}

#[test]
fn a_session_on_the_index_finds_what_is_renamed_under_it_and_removes_it() {
    let (_scratch, path) = scratch();
    let maildir = Maildir::open(&path).unwrap();
    many(&path);
    later(&maildir);
    let snapshot = later(&maildir);
    assert!(matches!(snapshot, Snapshot::Indexed(_)));
    let mut maildir = Maildir { snapshot, ..maildir };
    fs::rename(path.join("new/1000000001.M1.mx"), path.join("cur/1000000001.M1.mx:2,S")).unwrap();
    assert_eq!(read(&maildir, 1).unwrap(), "a\nb\n");
    fs::rename(path.join("new/1000000002.M2.mx"), path.join("cur/1000000002.M2.mx:2,S")).unwrap();
    assert_eq!(maildir.remove(&[0, 1, 2]).unwrap(), 0);
    assert_eq!(names(path.join("new")).len() + names(path.join("cur")).len(), 67);
}

#[test]
fn a_session_that_finds_the_index_broken_is_the_only_one() {
    let (_scratch, path) = scratch();
    let maildir = Maildir::open(&path).unwrap();
    many(&path);
    later(&maildir);
    let index = path.join("doorpost-index");
    let mut octets = fs::read(&index).unwrap();
    octets[300] ^= 1;
    fs::write(&index, octets).unwrap();
    let snapshot = later(&maildir);
    assert!(matches!(snapshot, Snapshot::Indexed(_)), "the head is whole");
    let maildir = Maildir { snapshot, ..maildir };
    assert!(maildir.entry(0).is_err() && !index.exists());
    assert_eq!(later(&maildir).get(0).unwrap().octets, 6);
}

#[test]
fn sizes_that_were_counted_are_not_counted_again() {
    let (_scratch, path) = scratch();
    drop(Maildir::open(&path).unwrap());
    fs::write(path.join("cur/1.a"), "a\nb\n").unwrap();
    assert_eq!(Maildir::open(&path).unwrap().total(), 6);
    // Nobody writes into a message; whoever does is not noticed, which shows that it is not read.
    fs::write(path.join("cur/1.a"), "something longer\n").unwrap();
    put(&path, "2.b", "x\n");
    assert_eq!(Maildir::open(&path).unwrap().total(), 9);
}

#[test]
fn imported_unique_ids_are_shown_also_out_of_the_index() {
    let (_scratch, path) = scratch();
    let maildir = Maildir::open(&path).unwrap();
    many(&path);
    let known = || Ok(HashMap::from([("1000000001.M1.mx".to_owned(), "UID7-8".to_owned())]));
    for _ in 0..2 {
        let snapshot = snapshot(&maildir.folders, index::now() + 60_000_000_000, known).unwrap();
        assert_eq!(snapshot.get(1).unwrap().unique_id(), "UID7-8");
    }
}

/// What a session shows, and where it looks.
fn shown(snapshot: &Snapshot<Message>) -> Vec<(u64, String, bool, Box<[u8]>)> {
    let all = snapshot.all().unwrap();
    assert_eq!((all.len(), all.iter().map(|one| one.octets).sum()), (snapshot.count(), snapshot.total()));
    all.iter().map(|one| (one.octets, one.unique_id(), one.place.in_cur, one.place.name.clone())).collect()
}

/// What another program does between two sessions, to the message with this number of what is there.
fn change(path: &Path, kind: u8, number: usize, fresh: &mut u32) {
    let there: Vec<String> = ["new", "cur"].iter().flat_map(|folder| names_in(path, folder)).collect();
    let which = there.get(number % there.len().max(1)).map(|name| path.join(name));
    *fresh += 1;
    let name = |time: u32, rest: &str| format!("{time}.F{fresh}.mx{rest}");
    match (kind, which) {
        (0..3, _) => fs::write(path.join("new").join(name(2_000_000_000 + *fresh, ",S=5,W=6")), "a b\n").unwrap(),
        // It came before others, and its size is not known.
        (3, _) => fs::write(path.join("new").join(name(1_000_000_000 + *fresh % 90, "")), "a\nb\n").unwrap(),
        // No unique-id.
        (4, _) => fs::write(path.join("cur").join(name(2_000_000_000, " x,S=4,W=5:2,S")), "abc\n").unwrap(),
        (5..8, Some(one)) => fs::remove_file(one).unwrap(),
        (8, Some(one)) => {
            let name = one.file_name().unwrap().to_str().unwrap();
            let base = name.split(':').next().unwrap();
            fs::rename(&one, path.join("cur").join(format!("{base}:2,{}", ["S", "FS", "R"][number % 3]))).unwrap();
        }
        // Two of one name, or of one place in the order.
        (9, Some(one)) => {
            let name = one.file_name().unwrap().to_str().unwrap();
            let base = name.split(':').next().unwrap();
            let twin = if number.is_multiple_of(2) { format!("{base}:2,DS") } else { format!("0{base}") };
            fs::write(path.join("cur").join(twin), "twin\n").unwrap();
        }
        _ => {}
    }
}

fn names_in(path: &Path, folder: &str) -> Vec<String> {
    names(path.join(folder)).into_iter().map(|name| format!("{folder}/{name}")).collect()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// Whatever happened, and however often, the index and what changed since show what is there.
    #[test]
    fn what_has_changed_is_found_as_if_all_were_found_anew(
        rounds in proptest::collection::vec(
            proptest::collection::vec((0_u8..10, proptest::prelude::any::<usize>()), 0..7), 1..7)
    ) {
        let (_scratch, path) = scratch();
        let maildir = Maildir::open(&path).unwrap();
        many(&path);
        later(&maildir);
        let mut fresh = 0;
        for round in rounds {
            for (kind, number) in round {
                change(&path, kind, number, &mut fresh);
            }
            let snapshot = later(&maildir);
            let anew = find(&maildir.folders, Vec::new(), [false, false], &HashMap::new()).unwrap().messages;
            let anew = Snapshot::held(anew);
            let is_ambiguous = |all: &Vec<(u64, String, bool, Box<[u8]>)>| {
                all.windows(2).any(|two| order(lasting(&two[0].3)) == order(lasting(&two[1].3)))
            };
            let (mut one, mut two) = (shown(&snapshot), shown(&anew));
            // Which of two names that are equal in the order comes first is the folder's affair.
            if is_ambiguous(&two) {
                one.sort();
                two.sort();
            }
            proptest::prop_assert_eq!(one, two);
        }
    }
}

#[test]
fn little_that_changed_is_kept_beside_the_index_and_much_makes_a_new_one() {
    let (_scratch, path) = scratch();
    let maildir = Maildir::open(&path).unwrap();
    many(&path);
    later(&maildir);
    let written = || fs::metadata(path.join("doorpost-index")).unwrap().ino();
    let first = written();
    for number in 0..9 {
        put(&path, &format!("{}.new", 1_500_000_000 + number), "a\n");
        fs::remove_file(path.join("new").join(names(path.join("new")).first().unwrap())).unwrap();
        let snapshot = later(&maildir);
        assert!(matches!(snapshot, Snapshot::Changed(..)) && snapshot.count() == 70, "{number}");
        assert!(matches!(later(&maildir), Snapshot::Changed(..)), "nothing had changed");
    }
    assert_eq!(written(), first);
    assert!(path.join("doorpost-index.delta").exists());
    for number in 0..9 {
        put(&path, &format!("{}.newer", 1_600_000_000 + number), "a\n");
    }
    assert_eq!(later(&maildir).count(), 79);
    assert!(written() != first && !path.join("doorpost-index.delta").exists());
    assert!(matches!(later(&maildir), Snapshot::Indexed(_)));
}

/// A session that finds this while another program puts a message there.
#[test]
fn sizes_counted_while_a_folder_changes_are_not_counted_again() {
    let (_scratch, path) = scratch();
    let maildir = Maildir::open(&path).unwrap();
    many(&path);
    let arrives = || {
        fs::write(path.join("new/1700000000.new"), "a\n").unwrap();
        Ok(HashMap::new())
    };
    let first = snapshot(&maildir.folders, index::now() + 60_000_000_000, arrives).unwrap();
    assert_eq!((first.count(), first.total()), (71, 70 * 6 + 3));
    // Which shows that it is not read.
    fs::write(path.join("cur/1000000000.M0.mx"), "something longer\n").unwrap();
    let second = later(&maildir);
    assert!(matches!(second, Snapshot::Changed(..)), "the names are compared");
    assert_eq!((second.count(), second.total()), (71, 70 * 6 + 3));
}

/// Root may read everything, so this is done with the rights of nobody, which one thread alone can have.
fn as_nobody<T: Send>(path: &Path, act: impl FnOnce() -> T + Send) -> T {
    if nix::unistd::geteuid().is_root() {
        for folder in ["", "new", "cur"] {
            std::os::unix::fs::chown(path.join(folder), Some(65_534), None).unwrap();
        }
    }
    std::thread::scope(|scope| {
        let with_rights = || {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
            act()
        };
        scope.spawn(with_rights).join().unwrap()
    })
}

#[test]
fn an_unreadable_message_hides_no_other_and_keeps_no_sizes_from_being_known() {
    // The others can be read, whatever umask the tests are run with.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let (_scratch, path) = scratch();
    let Maildir { folders, .. } = Maildir::open(&path).unwrap();
    many(&path);
    fs::write(path.join("new/1000000005.secret"), "a\n").unwrap();
    fs::set_permissions(path.join("new/1000000005.secret"), fs::Permissions::from_mode(0o0)).unwrap();
    let shown = |began: u64| {
        let (began, known) = (index::now() + began, || Ok(HashMap::new()));
        let all = snapshot(&folders, began, known).unwrap().all().unwrap();
        all.iter().map(|message| (message.unique_id(), message.octets)).collect::<Vec<_>>()
    };
    let first = as_nobody(&path, || shown(60_000_000_000));
    assert_eq!(first.len(), 71);
    let unread: Vec<&String> = first.iter().filter(|(_, octets)| *octets == 0).map(|(id, _)| id).collect();
    assert_eq!(unread, ["1000000005.secret"]);
    // An index of another user's is not believed.
    let index = path.join("doorpost-index");
    std::os::unix::fs::chown(&index, Some(nix::unistd::geteuid().as_raw()), None).unwrap();
    fs::set_permissions(&index, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path.join("cur/1000000000.M0.mx"), "something longer\n").unwrap();
    assert_eq!(as_nobody(&path, || shown(60_000_000_000)), first, "not read again");
    fs::set_permissions(path.join("new/1000000005.secret"), fs::Permissions::from_mode(0o644)).unwrap();
    let later = as_nobody(&path, || shown(60_000_000_000));
    assert_eq!(later.iter().find(|(id, _)| id == "1000000005.secret").map(|(_, octets)| *octets), Some(3));
}

#[test]
fn messages_that_are_renamed_or_gone_while_sizes_are_counted_are_looked_for_all_at_once() {
    let (_scratch, path) = scratch();
    let Maildir { folders, .. } = Maildir::open(&path).unwrap();
    let mut places = Vec::new();
    for number in 0..6000 {
        let place = |name: String| Place { in_cur: false, is_twin: false, name: name.into_bytes().into() };
        places.push(place(format!("{number}.a")));
        // The others are gone.
        if number % 2 == 0 {
            fs::write(path.join(format!("cur/{number}.a:2,S")), "a\n").unwrap();
        }
    }
    let mut sizes: Vec<Option<io::Result<u64>>> = places.iter().map(|_| None).collect();
    let since = Instant::now();
    assert!(count_unknown(&folders, &mut places, &mut sizes).unwrap());
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    let all = sizes.iter().zip(&places).zip(0..);
    let is_right = |((size, place), number): ((&Option<io::Result<u64>>, &Place), i32)| match size {
        Some(Ok(3)) => number % 2 == 0 && place.in_cur,
        _ => number % 2 == 1 && size.is_none(),
    };
    assert!(all.into_iter().all(is_right));
}

#[test]
fn taking_a_deletion_mark_off_puts_no_message_in_place_of_another() {
    let (_scratch, path) = scratch();
    drop(Maildir::open(&path).unwrap());
    for (name, text) in [("1.a:2,ST", "one\n"), ("1.a:2,S", "other\n"), ("2.b:2,T", "two\n")] {
        fs::write(path.join("cur").join(name), text).unwrap();
    }
    assert_eq!(Maildir::open_with(&path, true).unwrap().count(), 3);
    assert_eq!(names(path.join("cur")), ["1.a:2,S", "1.a:2,ST", "2.b:2,"]);
    assert_eq!(fs::read_to_string(path.join("cur/1.a:2,S")).unwrap(), "other\n");
}

#[test]
fn what_cannot_be_looked_for_counts_as_not_removed_and_the_rest_as_removed() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "one\n");
    put(&path, "2.b", "two\n");
    let mut maildir = Maildir::open(&path).unwrap();
    fs::remove_file(path.join("new/2.b,S=4,W=5")).unwrap();
    fs::set_permissions(path.join("cur"), fs::Permissions::from_mode(0o300)).unwrap();
    assert_eq!(as_nobody(&path, || maildir.remove(&[0, 1])).unwrap(), 1);
    assert_eq!(names(path.join("new")), [""; 0]);
}

#[test]
fn one_of_several_of_a_name_that_was_renamed_since_is_not_called_removed() {
    let (_scratch, path) = scratch();
    put(&path, "1.a", "one\n");
    fs::write(path.join("cur/1.a,S=4,W=5:2,S"), "two\n").unwrap();
    let mut maildir = Maildir::open(&path).unwrap();
    fs::rename(path.join("cur/1.a,S=4,W=5:2,S"), path.join("cur/1.a,S=4,W=5:2,FS")).unwrap();
    assert_eq!(maildir.remove(&[1]).unwrap(), 1);
    assert_eq!(names(path.join("cur")).len(), 1);
    fs::remove_file(path.join("cur/1.a,S=4,W=5:2,FS")).unwrap();
    assert_eq!(maildir.remove(&[1]).unwrap(), 0, "gone is removed");
}

#[test]
fn several_of_one_name_have_one_order_however_the_folder_gives_them() {
    let (_scratch, path) = scratch();
    let Maildir { folders, .. } = Maildir::open(&path).unwrap();
    for flags in ["", "S", "FS", "R", "RS"] {
        fs::write(path.join(format!("cur/1.a:2,{flags}")), "x\n").unwrap();
    }
    let mut places = scan(&folders, &[true]).unwrap();
    let mut reversed: Vec<Place> = places.iter().rev().cloned().collect();
    for places in [&mut places, &mut reversed] {
        sort(&folders, places);
    }
    let names = |places: &[Place]| places.iter().map(|place| place.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&places), names(&reversed));
}

#[test]
fn the_clock_of_a_mailbox_leaves_nothing_there() {
    let (_scratch, path) = scratch();
    let maildir = Maildir::open(&path).unwrap();
    let before = names(&path);
    let clock = index::clock(index_place(&maildir.folders));
    assert!(index::now().abs_diff(clock) < 1_000_000_000);
    assert_eq!(names(&path), before);
}
