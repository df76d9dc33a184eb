//! What has changed in a Maildir since its index was made: the folders that changed are read, and every name is looked for
//! among those of the index, so that only what is new or gone costs more. Whatever is not plain (names that differ in their
//! flags only, much that has changed, a folder that changes meanwhile) is left to `find`, which makes everything anew. What
//! comes of both is the same.

use super::folders::{Folders, each_message};
use super::name::{hashed_unique_id, lasting, order, sizes, unique_id};
use super::{Message, Place, folder, octets, stamps};
use crate::mailbox::index::{Delta, Index, Stamp};
use std::collections::{HashMap, HashSet};
use std::io;

/// What is known of the Maildir, and of which state.
pub(super) struct Known<'a> {
    pub(super) index: &'a Index<Message>,
    /// What had changed before.
    pub(super) delta: Option<&'a Delta<Message>>,
    /// The folders as they are now, and whether they are as they were then.
    pub(super) stamps: &'a [Stamp; 2],
    pub(super) unchanged: [bool; 2],
    /// Unique-ids that were taken over.
    pub(super) imported: &'a HashMap<String, String>,
}

/// What has changed in all since the index was made, and whether a message had to be read for its size. Nothing where
/// everything is to be found anew.
pub(super) fn changes(folders: &Folders, known: &Known<'_>) -> io::Result<Option<(Delta<Message>, bool)>> {
    let Some((mut gone, mut fresh)) = compare(folders, known)? else { return Ok(None) };
    gone.sort_unstable();
    // In their order, so that the same parts of the index are read one after another.
    for names in &mut fresh {
        names.sort_by(|one, two| order(lasting(one)).cmp(&order(lasting(two))));
    }
    let (mut new, mut counted) = (Vec::new(), false);
    for (in_cur, names) in [false, true].into_iter().zip(&fresh) {
        for name in names {
            let place = Place { in_cur, is_twin: false, name: name.clone() };
            let Some((before, was)) = known.where_to(&gone, name)? else { return Ok(None) };
            let claimed = sizes(name).map(|(_, octets)| octets);
            let size = match claimed.or(was.filter(|octets| *octets > 0)) {
                Some(size) => size,
                None => match octets(folders, &place) {
                    Some(Ok(size)) => {
                        counted = true;
                        size
                    }
                    Some(Err(_)) | None => return Ok(None),
                },
            };
            let own = unique_id(name).is_none().then(|| hashed_unique_id(name, 1).into());
            let mut message = Message { octets: size, place, unique_id: own };
            if let Some(other) = known.imported.get(&message.unique_id()) {
                message.unique_id = Some(other.as_str().into());
            }
            new.push((before, message));
        }
    }
    if let Some(delta) = known.delta {
        let stays = |(_, message): &&(usize, Message)| known.unchanged[usize::from(message.place.in_cur)];
        new.extend(delta.added().iter().filter(stays).cloned());
    }
    new.sort_by(|(_, one), (_, two)| order(lasting(&one.place.name)).cmp(&order(lasting(&two.place.name))));
    let mut seen = HashSet::new();
    let is_plain = new.iter().all(|(_, message)| seen.insert(order(lasting(&message.place.name))));
    // A name that had a twin has none any more, or another one.
    for number in &gone {
        if known.index.get(*number)?.place.is_twin {
            return Ok(None);
        }
    }
    let too_many = gone.len() + new.len() > Delta::<Message>::most(known.index.count());
    if !is_plain || too_many || stamps(folders)? != *known.stamps {
        return Ok(None);
    }
    drop(seen);
    Ok(Delta::of(known.index, gone, new)?.map(|delta| (delta, counted)))
}

/// The numbers of messages of the index that are gone, and the names of new/ and cur/ that it does not have.
type Differences = (Vec<usize>, [Vec<Box<[u8]>>; 2]);

fn compare(folders: &Folders, known: &Known<'_>) -> io::Result<Option<Differences>> {
    let Some(mut names) = known.index.names()? else { return Ok(None) };
    let most = Delta::<Message>::most(known.index.count());
    let mut fresh = [Vec::new(), Vec::new()];
    for (in_cur, fresh) in [false, true].into_iter().zip(&mut fresh) {
        if known.unchanged[usize::from(in_cur)] {
            continue;
        }
        each_message(folder(folders, in_cur), |name| {
            if !names.find(in_cur, name) && fresh.len() <= most {
                fresh.push(name.into());
            }
        })?;
    }
    let mut gone = Vec::new();
    for in_cur in [false, true] {
        if known.unchanged[usize::from(in_cur)] {
            for number in known.delta.map_or(&[][..], Delta::gone) {
                if known.index.get(*number)?.place.in_cur == in_cur {
                    gone.push(*number);
                }
            }
        } else {
            gone.extend(names.missing(in_cur).take(most + 1));
        }
    }
    let is_little = fresh.iter().map(Vec::len).sum::<usize>() + gone.len() <= most;
    Ok(is_little.then_some((gone, fresh)))
}

impl Known<'_> {
    /// The number in the index of the message that one of this name stands before, and its size where that is known of
    /// another name; nothing where another message has the same place. `gone` ascends.
    fn where_to(&self, gone: &[usize], name: &[u8]) -> io::Result<Option<(usize, Option<u64>)>> {
        let wanted = order(lasting(name));
        let (mut low, mut high) = (0, self.index.count());
        while low < high {
            let middle = low.midpoint(high);
            let other = self.index.get(middle)?;
            if order(lasting(&other.place.name)) < wanted { low = middle + 1 } else { high = middle }
        }
        let before = low;
        let mut size = None;
        while low < self.index.count() {
            let other = self.index.get(low)?;
            if order(lasting(&other.place.name)) != wanted {
                break;
            }
            // The same message renamed, or two of one name.
            if gone.binary_search(&low).is_err() || lasting(&other.place.name) != lasting(name) {
                return Ok(None);
            }
            size = Some(other.octets);
            low += 1;
        }
        // They lie there in their order, too.
        let added = self.delta.map_or(&[][..], Delta::added);
        let at = added.partition_point(|(_, message)| order(lasting(&message.place.name)) < wanted);
        let newer = added.get(at).filter(|(_, message)| lasting(&message.place.name) == lasting(name));
        Ok(Some((before, newer.map(|(_, message)| message.octets).or(size))))
    }
}
