//! Queue files.

use super::wire::Chance;
use doorpost::message::path::{Address, ReversePath};
use doorpost::queue::file::RecipientState;
use doorpost::queue::layout::{self, HEADER, Header, Kind};
use doorpost::queue::{Head, Id, Message, Queue};
use std::path::PathBuf;
use std::rc::Rc;

thread_local! {
    static QUEUE: Rc<(Queue, tempfile::TempDir)> = {
        let folder = super::folder_in_memory();
        Rc::new((Queue::open(&folder.path().join("queue")).expect("a queue"), folder))
    };
}

/// A queue in memory, for this thread alone.
fn queue() -> Rc<(Queue, tempfile::TempDir)> {
    QUEUE.with(Rc::clone)
}

/// A message that is there. Who looks into /proc/PID/fdinfo keeps a file, and with it its lock, a moment longer than the
/// process that closes it: then it is another's.
fn taken(id: &Id) -> Message {
    let take = || queue().0.take(id).expect("the queue");
    std::iter::repeat_with(take).take(100_000).find_map(|message| message).expect("the message")
}

fn path_of(id: &Id) -> PathBuf {
    queue().0.path.join("message").join(id.folder()).join(id.as_str())
}

/// A message as it was read: all that the queue gives of it.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    reverse_path: ReversePath,
    channel: String,
    recipients: Vec<(Address, RecipientState, u32, String)>,
    octets: Vec<u8>,
}

impl Read {
    fn of(message: &Message) -> Read {
        let mut octets = Vec::new();
        let mut piece = [0; 999];
        loop {
            match message.read_at(&mut piece, octets.len() as u64).expect("octets that were checked") {
                0 => break,
                count => octets.extend_from_slice(&piece[..count]),
            }
        }
        assert_eq!(octets.len() as u64, message.size, "its size");
        let recipients = message.recipients.iter();
        Read {
            reverse_path: message.reverse_path.clone(),
            channel: message.channel.clone(),
            recipients: recipients.map(|r| (r.address.clone(), r.state, r.attempts, r.report.clone())).collect(),
            octets,
        }
    }
}

/// The first octet says what the rest is: a file as it lies on disk, the same with its checksum made right, or what to
/// write into one.
pub fn queue_file(input: &[u8]) {
    match input.split_first() {
        Some((0..64, file)) => drop(read(file)),
        Some((64..160, file)) => {
            let file = with_checksum(file);
            if let Some(message) = read(&file) {
                is_remembered(message);
            }
        }
        Some((seed, parts)) => is_read_as_written(*seed, parts),
        None => {}
    }
}

/// Puts octets where a message would be and takes it.
fn read(file: &[u8]) -> Option<Message> {
    thread_local! {
        // To begin it makes the folder.
        static ID: Id = *queue().0.begin().expect("a draft").id();
    }
    let id = ID.with(|id| *id);
    std::fs::write(path_of(&id), file).expect("a file");
    let message = queue().0.take(&id).ok().flatten();
    if let Some(message) = &message {
        Read::of(message);
    }
    message
}

/// The file with the octets behind its header covered by a right checksum, if its header makes sense.
fn with_checksum(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    let length = file.len() as u64;
    let Some(header) = file.first_chunk::<HEADER>() else { return file };
    let Kind::Complete(header_of) = Header::decode(header, length) else { return file };
    let Header { trace_at, recipients_at, envelope_at, .. } = header_of;
    let mut checksum = layout::begin_checksum(header);
    let (trace_at, end) = (trace_at as usize, file.len() - 4);
    checksum.update(&file[trace_at..recipients_at as usize]);
    let mut at = recipients_at as usize;
    while at + 2 <= envelope_at as usize {
        let mut address = 2 + usize::from(u16::from_be_bytes([file[at], file[at + 1]]));
        if let (true, Some([high, low, ..])) = (header_of.has_parameters(), file.get(at + address..)) {
            address += 2 + usize::from(u16::from_be_bytes([*high, *low]));
        }
        if at + address + layout::SLOT > envelope_at as usize {
            return file;
        }
        checksum.update(&file[at..at + address]);
        at += address + layout::SLOT;
    }
    checksum.update(&file[envelope_at as usize..end]);
    file[end..].copy_from_slice(&checksum.finalize().to_be_bytes());
    file
}

/// What is marked in a message is there when it is taken again, and nothing else changes.
fn is_remembered(mut message: Message) {
    let id = message.id;
    let mut expected = Read::of(&message);
    for number in 0..message.recipients.len() {
        message.mark(number, RecipientState::Trying, "4.0.0 as ordered", false).expect("a mark");
        let (_, state, attempts, report) = &mut expected.recipients[number];
        (*state, *attempts, *report) =
            (RecipientState::Trying, attempts.saturating_add(1), "4.0.0 as ordered".to_owned());
    }
    drop(message);
    let again = taken(&id);
    assert_eq!(Read::of(&again), expected);
}

/// Content, recipients and the rest are read as they were written; with any octet changed or missing the message is not
/// taken, or says the same but for how far its recipients are.
fn is_read_as_written(seed: u8, parts: &[u8]) {
    let mut chance = Chance::of(parts, u64::from(seed));
    let mut fields = parts.split(|octet| *octet == 0xff);
    let text = |field: Option<&[u8]>, most: usize| {
        let field = field.unwrap_or_default();
        String::from_utf8_lossy(&field[..field.len().min(most)]).replace(['\r', '\n', '\0'], "?")
    };
    let reverse_path = ReversePath::from_internal(text(fields.next(), 300).as_bytes()).unwrap_or(ReversePath::NULL);
    let channel = text(fields.next(), 60);
    let trace = text(fields.next(), 300).into_bytes();
    let content = fields.next().unwrap_or_default();
    let mut recipients: Vec<Address> =
        fields.filter_map(|field| Address::from_internal(text(Some(field), 300).as_bytes()).ok()).collect();
    recipients.truncate(20);
    let id = {
        let mut draft = queue().0.begin().expect("a draft");
        let mut left = content;
        let early = chance.below(recipients.len() + 1);
        recipients[..early].iter().for_each(|recipient| draft.recipient(recipient).expect("a recipient"));
        while !left.is_empty() {
            let (now, later) = left.split_at(chance.piece(left.len()));
            draft.content(now).expect("content");
            left = later;
        }
        draft.end_content().expect("the end of the content");
        recipients[early..].iter().for_each(|recipient| draft.recipient(recipient).expect("a recipient"));
        let head = Head { reverse_path: reverse_path.clone(), trace: trace.clone(), channel: channel.clone() };
        draft.commit(&head).expect("a message on disk")
    };
    let fresh = |address: &Address| (address.clone(), RecipientState::Waiting, 0, String::new());
    let recipients = recipients.iter().map(fresh).collect();
    let written = Read { reverse_path, channel, recipients, octets: [&trace[..], content].concat() };
    let message = taken(&id);
    assert_eq!(Read::of(&message), written);
    drop(message);
    let file = std::fs::read(path_of(&id)).expect("the file");
    std::fs::remove_file(path_of(&id)).expect("the file");
    let mut changed = file.clone();
    let at = chance.below(file.len());
    changed[at] ^= 1 << chance.below(8);
    if let Some(message) = read(&changed) {
        let mut message = Read::of(&message);
        for (old, new) in written.recipients.iter().zip(&mut message.recipients) {
            (new.1, new.2, new.3) = (old.1, old.2, old.3.clone());
        }
        assert_eq!(message, written, "octet {at} was changed");
    }
    assert!(read(&file[..chance.below(file.len())]).is_none(), "taken though its end is missing");
}
